package tests_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	root "banger"
	"banger/cli"
)

// document is what every command prints with --json.
type document struct {
	Results []json.RawMessage `json:"results"`
	Errors  []root.Error      `json:"errors"`
}

// results reads what a command with --json printed.
func results[T any](text string) (all []T, err error) {
	var doc struct {
		Results []T          `json:"results"`
		Errors  []root.Error `json:"errors"`
	}
	err = json.Unmarshal([]byte(text), &doc)
	return doc.Results, err
}

// shell is a user of the fake host.
type shell struct {
	*testing.T
	dir string
	env []string
}

func newShell(t *testing.T) *shell {
	t.Helper()
	if *host != "fake" {
		t.Skip("on the host in memory")
	}
	s := &shell{T: t, dir: t.TempDir(), env: append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))}
	for key, name := range map[string]string{"HOME": "home", "XDG_STATE_HOME": "state", "XDG_DATA_HOME": "data", "XDG_CONFIG_HOME": "config", "XDG_CACHE_HOME": "cache"} {
		s.env = append(s.env, key+"="+filepath.Join(s.dir, name))
	}
	s.env = append(s.env, "XDG_RUNTIME_DIR=")
	image := rootTar(t)
	s.must("banger kernel pull -q")
	s.must("banger image import -q --name debian-12 " + image)
	t.Cleanup(func() { s.must("banger daemon stop") })
	return s
}

// run runs a shell's line.
func (s *shell) run(line string) (status int, stdout, stderr string) {
	s.Helper()
	cmd := exec.Command("sh", "-c", line)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = s.dir, s.env, &out, &errs
	_ = cmd.Run() // the status says it
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

func (s *shell) must(line string) string {
	s.Helper()
	status, out, errs := s.run(line)
	if status != 0 {
		s.Fatalf("%s: status %d: %s%s", line, status, out, errs)
	}
	return out
}

// check reads one line as the document of a command, whose results have its types.
func (s *shell) check(line, text string, types []cli.Result) (doc document) {
	s.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil || doc.Results == nil || doc.Errors == nil || strings.Count(text, "\n") != 1 {
		s.Errorf("%s: no document in a line (%v): %q", line, err, text)
	}
	for _, e := range doc.Errors {
		if e.Code == "" || e.Message == "" {
			s.Errorf("%s: an error without code or message: %s", line, text)
		}
	}
	for _, r := range doc.Results {
		var wrong []string
		for _, t := range types {
			why := is(r, t.Type)
			if why == "" {
				wrong = nil
				break
			}
			wrong = append(wrong, why)
		}
		if len(wrong) > 0 || len(types) == 0 {
			s.Errorf("%s: no result of its types %v: %s: %v", line, types, r, wrong)
		}
	}
	return doc
}

// is says why a value isn't, to the last field, one of a type.
func is(raw json.RawMessage, t reflect.Type) string {
	v := reflect.New(t)
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v.Interface()); err != nil {
		return err.Error()
	}
	again, err := json.Marshal(v.Interface())
	if err != nil {
		return err.Error()
	}
	var was, now any
	_, _ = json.Unmarshal(raw, &was), json.Unmarshal(again, &now)
	return cmp.Diff(was, now)
}

// jsonSteps are what a user types who knows every command, in an order that makes
// sense: with the status it must have, how many results at least, and how many errors.
var jsonSteps = []struct {
	line            string
	status, results int
	errors          int
}{
	{"vm create --name web --memory 256", 0, 1, 0},
	{"vm create --name web", 4, 0, 1},
	{"vm create -d --no-start --name db", 0, 1, 0},
	{"operation list", 0, 1, 0},
	{"operation show $(banger op list --json | sed 's/.*\"id\":\"\\([0-9a-f]*\\)\",\"kind.*/\\1/')", 0, 1, 0},
	{"operation wait $(banger op list --json | sed 's/.*\"id\":\"\\([0-9a-f]*\\)\",\"kind.*/\\1/')", 0, 1, 0},
	{"operation cancel $(banger op list --json | sed 's/.*\"id\":\"\\([0-9a-f]*\\)\",\"kind.*/\\1/')", 4, 0, 1},
	{"operation show 0123456789ab", 3, 0, 1},
	{"ps", 0, 2, 0},
	{"vm list -q", 0, 2, 0},
	{"vm show web", 0, 1, 0},
	{"vm show nosuch", 3, 0, 1},
	{"vm show", 2, 0, 1},
	{"vm health web nosuch db", 3, 1, 2},
	{"vm stats web nosuch", 3, 1, 1},
	{"vm set --vcpu 2 web db nosuch", 3, 2, 1},
	{"vm rename db store", 0, 1, 0},
	{"vm restart -q web nosuch", 3, 1, 1},
	{"vm exec web -- sh -c 'echo out; echo err >&2; exit 3'", 3, 1, 0},
	{"exec web nosuchprogram", 127, 1, 0},
	{"vm exec -t web -- true", 125, 0, 1},
	{"vm exec store -- true", 125, 0, 1},
	{"vm exec nosuch -- true", 125, 0, 1},
	{"vm run --rm -- sh -c 'cat; exit 4' </dev/null", 4, 1, 0},
	{"run -d --name bg -- sleep 60", 0, 1, 0},
	{"vm run --name web -- true", 125, 0, 1},
	{"vm run ./nosuch -- true", 125, 0, 1},
	{"vm cp thing web:$PWD/copy", 0, 1, 0},
	{"vm cp web:$PWD/copy web:$PWD/nosuch .", 3, 1, 1},
	{"cp web:$PWD/copy -", 2, 0, 1},
	{"vm logs web", 0, 1, 0},
	{"exec -d web sh -c 'echo out; exit 3'", 0, 1, 0},
	{"exec -d web nosuchprogram", 127, 1, 0},
	{"exec -d web", 125, 0, 1},
	{"attach web $(banger exec -d web sh -c 'echo out; exit 3')", 3, 1, 0},
	{"vm attach store", 125, 0, 1},
	{"logs web $(banger exec -d web true)", 0, 1, 0},
	{"logs --console web", 0, 1, 0},
	{"logs web 0123", 3, 0, 1},
	{"command list", 0, 2, 0},
	{"command list web store", 5, 2, 1},
	{"command kill web nosuch", 3, 0, 1},
	{"command kill bg $(banger command list bg | sed -n '2s/ .*//p')", 0, 1, 0},
	{"logs nosuch", 3, 0, 1},
	{"vm kill bg store nosuch", 5, 1, 2},
	{"vm stop web nosuch", 3, 1, 1},
	{"vm start -q web nosuch", 3, 1, 1},
	{"stop web", 0, 1, 0},
	{"start -q web", 0, 1, 0},
	{"workspace export web", 2, 0, 1},
	{"workspace prepare web repo -q --include-untracked --guest-path $PWD/copied", 0, 1, 0},
	{"workspace prepare web . --guest-path $PWD/copied", 2, 0, 1},
	{"workspace status web", 0, 1, 0},
	{"run --dry-run -q repo", 0, 1, 0},
	{"run --dry-run", 125, 0, 1},
	{"workspace diff -q web", 0, 1, 0},
	{"workspace log -q web", 0, 1, 0},
	{"workspace export -q web --branch fix", 0, 1, 0},
	{"workspace export -q web -o patch", 0, 1, 0},
	{"workspace land -q --yes web", 4, 0, 1}, // the file that isn't committed is in the way
	{"vm create --no-start --name short", 0, 1, 0},
	{"rm short nosuch", 3, 1, 1},
	{"vm prune --dry-run", 0, 2, 0},
	{"vm prune", 2, 0, 1},
	{"vm prune -f", 0, 2, 0},
	{"events", 0, 5, 0},
	{"template create -q", 0, 1, 0},
	{"template list", 0, 1, 0},
	{"template show $(banger template list | sed -n 2s/\\ .*//p)", 0, 1, 0},
	{"template show nosuch", 3, 0, 1},
	{"template delete nosuch $(banger template list | sed -n 2s/\\ .*//p)", 3, 1, 1},
	{"image pull 127.0.0.1:1/nosuch", 3, 0, 1},
	{"image tag debian-12 tagged", 0, 1, 0},
	{"image delete tagged", 0, 1, 0},
	{"image history debian-12", 2, 0, 1}, // the host in memory gives no images away
	{"image save nosuch saved", 3, 0, 1},
	{"image export debian-12 exported.tar", 2, 0, 1},
	{"image push debian-12 localhost:1/x", 2, 0, 1},
	{"image list", 0, 1, 0},
	{"image show debian-12", 0, 1, 0},
	{"image show --lock debian-12", 2, 0, 1},
	{"image warm -q debian-12", 0, 1, 0},
	{"image build -q --suite sid", 2, 0, 1},
	{"image import -q --name other other.tar", 0, 1, 0},
	{"image import -q --name other other.tar", 4, 0, 1},
	{"image prune --dry-run", 0, 1, 0},
	{"image prune -f", 0, 1, 0},
	{"image import -q --name other other.tar", 0, 1, 0},
	{"image history nosuch", 3, 0, 1},
	{"image tag other nosuch/", 2, 0, 1},
	{"image tag nosuch another", 3, 0, 1},
	{"image save nosuch saved", 3, 0, 1},
	{"image export nosuch -", 3, 0, 1},
	{"image push -q nosuch 127.0.0.1:1/nosuch", 3, 0, 1},
	{"image promote other nosuch other.tar", 3, 1, 2},
	{"image delete other nosuch debian-12", 3, 1, 2},
	{"kernel pull -q debian-13-cloud", 0, 1, 0},
	{"kernel list", 0, 2, 0},
	{"kernel list --available", 0, 1, 0},
	{"kernel show debian-13-cloud", 0, 1, 0},
	{"kernel show nosuch", 3, 0, 1},
	{"kernel import -q --name mine ktree", 0, 1, 0},
	{"kernel import -q other.tar", 2, 0, 1},
	{"kernel import -q repo", 2, 0, 1},
	{"kernel import -q repo ktree", 2, 0, 1},
	{"kernel import -q nosuch.deb", 2, 0, 1},
	{"kernel prune -f", 0, 1, 0},
	{"kernel pull -q debian-13-cloud", 0, 1, 0},
	{"kernel delete nosuch debian-13-cloud debian-12-cloud", 3, 1, 2},
	{"kernel pull -q debian-13-cloud", 0, 1, 0},
	{"system df", 0, 1, 0},
	{"system df -v", 0, 1, 0},
	{"system gc --dry-run", 0, 1, 0},
	{"system gc", 0, 1, 0},
	{"system prune", 2, 0, 1},
	{"system prune --dry-run", 0, 1, 0},
	{"system prune -f", 0, 1, 0},
	{"config show", 0, 5, 0},
	{"config check", 0, 1, 0},
	{"version", 0, 1, 0},
	{"api", 0, 1, 0},
	{"daemon status", 0, 1, 0},
	{"daemon restart", 0, 1, 0},
	{"hypervisor install xen", 2, 0, 1},
	{"hypervisor list", 6, 0, 1}, // the daemon of this test looks at no host
	{"doctor", 6, 1, 1},
	{"doctor --report", 2, 0, 1},
	{"vm", 2, 0, 1},
	{"", 2, 0, 1},
	{"nosuch", 2, 0, 1},
	{"vm create --nosuch", 2, 0, 1},
	{"vm delete --force web nosuch", 3, 1, 1},
	{"ssh web", 125, 0, 1},
	{"ssh-proxy web", 2, 0, 1},
	{"ssh-config", 0, 1, 0},
	{"ports nosuch", 3, 0, 1},
	{"forward nosuch 80", 3, 0, 1},
	{"vm set -p 0:80 nosuch", 3, 0, 1},
	{"ssh-serve", 2, 0, 1},
	{"code nosuch", 3, 0, 1},
	{"daemon stop", 0, 1, 0},
	{"uninstall", 2, 0, 1},
	{"uninstall -f", 0, 1, 0},
}

// Every command prints one document, with results of its types, whatever happens.
func TestJSON(t *testing.T) {
	s := newShell(t)
	if err := os.WriteFile(filepath.Join(s.dir, "thing"), []byte("a root"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.must("mkdir -p ktree/boot ktree/usr/lib/modules/6.1; ln -s usr/lib ktree/lib; head -c 2000 /dev/zero | tee ktree/boot/vmlinuz-6.1 > ktree/lib/modules/6.1/modules.builtin")
	s.must("tar -cf other.tar thing; git init -q repo; touch repo/new; git -C repo -c user.name=t -c user.email=t@example.org commit -q --allow-empty -m first")
	tree, types := cli.Command()
	seen := map[*cobra.Command]bool{}
	for _, step := range jsonSteps {
		cmd, _, _ := tree.Find(strings.Fields(step.line)) // what isn't found is the root's
		seen[cmd] = true
		status, out, errs := s.run("banger --json " + step.line)
		doc := s.check(step.line, out, types(cmd))
		if status != step.status || len(doc.Results) < step.results || step.results == 0 && len(doc.Results) > 0 || len(doc.Errors) != step.errors || errs != "" {
			t.Errorf("%s: status %d, want %d; %d results, want %d; %d errors, want %d: %s%s",
				step.line, status, step.status, len(doc.Results), step.results, len(doc.Errors), step.errors, out, errs)
		}
	}
	for _, cmd := range runnable(tree) {
		if !seen[cmd] {
			t.Errorf("no step of this test is %s", cmd.CommandPath())
		}
		if len(types(cmd)) == 0 {
			t.Errorf("%s doesn't say which type its results have", cmd.CommandPath())
		}
		path := strings.TrimPrefix(cmd.CommandPath(), "banger ")
		if _, out, errs := s.run("banger " + path + " --nosuch --json"); errs != "" {
			t.Errorf("%s: %s", path, errs)
		} else if doc := s.check(path, out, nil); len(doc.Errors) != 1 || doc.Errors[0].Code != root.CodeInvalid {
			t.Errorf("%s with a flag that isn't there: %s", path, out)
		}
	}
}

// runnable are the commands that aren't there to hold others, or made by cobra.
func runnable(c *cobra.Command) (all []*cobra.Command) {
	if !c.HasSubCommands() {
		return []*cobra.Command{c}
	}
	for _, sub := range c.Commands() {
		all = append(all, runnable(sub)...)
	}
	return all
}

// What a command in a VM wrote is in its result, whatever bytes they are.
func TestJSONOfCommands(t *testing.T) {
	s := newShell(t)
	s.must("banger vm create -q --name web")
	defer s.must("banger vm delete web")
	for line, want := range map[string]string{
		"vm exec web -- sh -c 'echo out; echo err >&2; exit 3'":                 `"exit":3,"stdout":"out\n","stderr":"err\n"}`,
		`vm exec web -- printf '\377'`:                                          `"exit":0,"stdout":{"base64":"/w=="},"stderr":""}`,
		"vm exec web -- sh -c 'kill -9 $$'":                                     `"exit":137,"signal":"KILL","stdout":"","stderr":""}`,
		"vm exec web -- nosuchprogram":                                          `"exit":127,"error":"`,
		"vm exec web -- sh -c 'head -c 1048580 /dev/zero' | tail -c 40":         `"dropped":4}],"errors":[]}`,
		"vm run --rm -- cat <thing":                                             `"exit":0,"stdout":"text","stderr":""}`,
		"vm run -d --name bg -- sleep 60; banger vm delete bg >/dev/null":       `"name":"bg","id":"`,
		"vm run --wait boot --name up -- true; banger vm delete up > /dev/null": `"exit":0`,
	} {
		if err := os.WriteFile(filepath.Join(s.dir, "thing"), []byte("text"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, out, errs := s.run("banger --json " + line); !strings.Contains(out, want) || errs != "" {
			t.Errorf("%s: no %s in %s%s", line, want, out, errs)
		}
	}
}

// What goes on prints a document a line.
func TestJSONThatGoesOn(t *testing.T) {
	s := newShell(t)
	s.must("banger vm create -q --name web")
	defer s.must("banger vm delete web")
	tree, types := cli.Command()
	for _, line := range []string{"events -f", "vm stats --watch --interval 100ms web", "vm logs -f --console web"} {
		cmd := exec.Command(filepath.Join(bin, "banger"), append(strings.Fields(line), "--json")...)
		cmd.Env, cmd.Dir = s.env, s.dir
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		the, _, err := tree.Find(strings.Fields(line))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			s.must("echo a line >> state/banger/vms/$(banger vm show web | sed -n 's/^id *//p')/console.log")
			text, err := lines.ReadString('\n')
			if doc := s.check(line, text, types(the)); err != nil || len(doc.Results) != 1 || len(doc.Errors) > 0 {
				t.Errorf("%s: %v: %s", line, err, text)
			}
		}
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		for text, err := lines.ReadString('\n'); err == nil; text, err = lines.ReadString('\n') {
			s.check(line, text, types(the))
		}
		_ = cmd.Wait()
	}
}

package jail

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger"
)

// tryForEver opens a trial, says where, and lays the bait; then it waits until its standard input ends.
func tryForEver() int {
	dir, over, err := openTrial()
	if err != nil {
		return 1
	}
	defer over()
	b, err := layBait(dir)
	if err != nil {
		return 1
	}
	defer b.close()
	fmt.Println(b.Memory, dir)
	_, _ = io.Copy(io.Discard, os.Stdin) // it ends
	return 0
}

// A killed trial's directory is found and removed; that of one that goes on isn't touched,
// nor is what only has such a name.
func TestKilledTrials(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	start := func() (end func(kill bool), dir, memory string) {
		t.Helper()
		cmd := exec.Command(Program(t), "trial")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		memory, dir, _ = strings.Cut(strings.TrimSpace(line), " ")
		return func(kill bool) {
			if kill {
				_ = cmd.Process.Kill()
			}
			_ = in.Close()
			_ = cmd.Wait() // killed, or seen by what it removed
		}, dir, memory
	}
	file := filepath.Join(tmp, trialName+"file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		others := filepath.Join(tmp, trialName+"others")
		if err := os.Mkdir(others, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(others, 1, 1); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if _, err := os.Stat(others); err != nil {
				t.Error("another user's is gone")
			}
		}()
	}
	kill, dead, memory := start()
	end, alive, _ := start()
	kill(true)
	if segments, err := os.ReadFile("/proc/sysvipc/shm"); err == nil && memory != "0" {
		for line := range strings.Lines(string(segments)) {
			if f := strings.Fields(line); len(f) > 1 && f[1] == memory {
				t.Error("shared memory is left:", line)
			}
		}
	}
	found, err := Trials{}.Objects(t.Context())
	if err != nil || len(found) != 2 {
		t.Fatalf("%+v, %v", found, err)
	}
	for _, f := range found {
		if want := map[string]banger.Claim{alive: banger.Foreign, dead: ""}; f.Claim != want[f.Name] {
			t.Errorf("%+v", f)
		}
	}
	if err := (Trials{}).RemoveObjects(t.Context(), ""); err != nil {
		t.Error(err)
	}
	for path, there := range map[string]bool{dead: false, alive: true, file: true} {
		if _, err := os.Lstat(path); (err == nil) != there {
			t.Errorf("%s: %v", path, err)
		}
	}
	end(false)
	if _, err := os.Lstat(alive); err == nil {
		t.Error("a trial that is over left its directory")
	}
}

// The next trial removes what a killed one left.
func TestTrialAfterAKilledOne(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	NeedJail(t)
	left, err := os.MkdirTemp("", trialName)
	if err != nil {
		t.Fatal(err)
	}
	_, _, _ = Judge(t.Context(), Program(t), UML) // whatever comes of it where others can't reach TMPDIR
	if found, _ := filepath.Glob(filepath.Join(filepath.Dir(left), trialName+"*")); len(found) != 0 {
		t.Errorf("left: %s", found)
	}
}

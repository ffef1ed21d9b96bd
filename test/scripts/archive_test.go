package tests_test

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"banger/test/archivetest"
)

// archive KIND lets the script's daemon build from a Debian archive of this test,
// which is good, or does what the kind says. It holds for daemons started later.
func archive(t *testing.T) func(*testscript.TestScript, bool, []string) {
	tool := archivetest.Deb{Name: "tool", Version: "1.0", Fields: "Essential: yes\n"}
	apt := archivetest.Deb{Name: "apt", Version: "2.6.1"}
	kinds := map[string]func(a *archivetest.Archive, pool string){
		"good":        func(*archivetest.Archive, string) {},
		"unreachable": func(a *archivetest.Archive, _ string) { a.Close() },
		"unsigned": func(a *archivetest.Archive, _ string) {
			a.Put(archivetest.InRelease, []byte(strings.Replace(string(a.File(archivetest.InRelease)), "Origin: Debian", "Origin: Evil", 1)))
		},
		"wrong-hash": func(a *archivetest.Archive, pool string) { a.Put(pool, []byte(strings.ToUpper(string(a.File(pool))))) },
		"truncated":  func(a *archivetest.Archive, pool string) { a.Put(pool, a.File(pool)[:100]) },
		"stalled": func(a *archivetest.Archive, pool string) {
			a.Answer(pool, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", "1000")
				_, _ = w.Write(a.File(pool)[:8])
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			})
		},
	}
	return func(ts *testscript.TestScript, _ bool, args []string) {
		if len(args) != 1 || kinds[args[0]] == nil {
			ts.Fatalf("usage: archive KIND")
		}
		a := archivetest.New(t, tool, apt)
		kinds[args[0]](a, archivetest.Pool(tool))
		ts.Check(os.MkdirAll(ts.MkAbs("config/banger"), 0o700))
		keys, err := os.Create(ts.MkAbs("config/banger/keys.gpg"))
		ts.Check(err)
		ts.Check(a.Keys[0].Serialize(keys))
		ts.Check(keys.Close())
		ts.Check(os.WriteFile(ts.MkAbs("config/banger/config.toml"), []byte("mirror = \""+a.URL("debian")+"\"\nsecurity_mirror = \""+a.URL("debian-security")+"\"\n"), 0o600))
		ts.Check(ts.Exec("banger", "daemon", "stop"))
	}
}

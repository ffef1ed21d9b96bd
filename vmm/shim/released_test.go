package shim_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
	"banger/vmm/shim"
)

// released is what a shim of a released version wrote and said, by the file's
// name or the operation. VMs outlive upgrades: a new release adds a file, and
// none ever changes.
func released(t *testing.T, version string) (said map[string]json.RawMessage) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", "released", version))
	if err == nil {
		err = json.Unmarshal(raw, &said)
	}
	if err != nil {
		t.Fatal(err)
	}
	return said
}

func eachRelease(t *testing.T, test func(t *testing.T, said map[string]json.RawMessage)) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join("testdata", "released"))
	if err != nil || len(entries) == 0 {
		t.Fatalf("%v, %v", entries, err)
	}
	for _, e := range entries {
		t.Run(e.Name(), func(t *testing.T) { test(t, released(t, e.Name())) })
	}
}

// A new shim takes up what an old one left behind.
func TestSuccessorOfReleased(t *testing.T) {
	eachRelease(t, func(t *testing.T, said map[string]json.RawMessage) {
		cfg, st := spawn(t)
		kill(t, st.Shim)
		vmm, err := json.Marshal(st.VMM)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.NewReplacer("@DIR@", cfg.Dir, `"@VMM@"`, string(vmm)).Replace(string(said["shim.json"]))
		if err := os.WriteFile(filepath.Join(cfg.Dir, shim.ConfigFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := shim.Attach(t.Context(), exe(t), cfg.Dir, st.VMM)
		if err != nil || again.VMM != st.VMM {
			t.Fatalf("attach: %+v, %v", again, err)
		}
		c, err := shim.Dial(t.Context(), cfg.Dir)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	})
}

// A new daemon understands an old shim, living or dead.
func TestClientOfReleased(t *testing.T) {
	eachRelease(t, func(t *testing.T, said map[string]json.RawMessage) {
		t.Chdir(t.TempDir()) // a socket's path is short
		l, err := net.Listen("unix", shim.SocketFile)
		if err != nil {
			t.Fatal(err)
		}
		go oldShim(l, said)
		dir, err := os.Getwd()
		if err != nil {
			t.Fatal(err)
		}
		st, err := shim.GetStatus(t.Context(), dir)
		if err != nil || st.VMM.PID != 26840 || st.Shim.StartTime != 551070 || !st.Established || st.VMM.BootID == "" {
			t.Errorf("status %+v, %v", st, err)
		}
		c, err := shim.Dial(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintln(c, "hello"); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "hello\n" {
			t.Errorf("over the stream came %q, %v", line, err)
		}
		_ = c.Close()
		exit, err := shim.Wait(t.Context(), dir)
		if err != nil || exit.Kind != banger.ExitPoweroff || exit.Time.IsZero() {
			t.Errorf("it ended as %+v, %v", exit, err)
		}
		_ = l.Close()
		if err := os.WriteFile(shim.ExitFile, said["exit.json"], 0o600); err != nil {
			t.Fatal(err)
		}
		if again, err := shim.Wait(t.Context(), dir); err != nil || again != exit {
			t.Errorf("when the shim is gone, too: %+v, %v", again, err)
		}
	})
}

// oldShim answers each connection as it was recorded.
func oldShim(l net.Listener, said map[string]json.RawMessage) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			r := bufio.NewReader(c)
			line, err := r.ReadBytes('\n')
			var req struct{ Op string }
			if err != nil || json.Unmarshal(line, &req) != nil {
				return
			}
			if req.Op == "wait" {
				req.Op = "exit.json" // it says what it writes
			}
			_, _ = fmt.Fprintf(c, "%s\n", said[req.Op])
			if req.Op == "dial" {
				_, _ = io.Copy(c, r)
			}
		}()
	}
}

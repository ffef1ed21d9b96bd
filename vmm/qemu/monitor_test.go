package qemu_test

import (
	"bytes"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"banger"
	"banger/host/proc"
	"banger/vmm/qemu"
)

// Whatever listens where a monitor should, a machine that never ran isn't
// adopted, memory stays bounded, and the listener, this very process, lives.
func TestFalseMonitors(t *testing.T) {
	const greeting, ok = `{"QMP":{"version":{},"capabilities":[]}}` + "\n", `{"return":{}}` + "\n"
	for name, words := range map[string]string{
		"hangs up":        "",
		"no JSON":         "hello\n",
		"no greeting":     `{"return":{}}` + "\n",
		"another machine": greeting + ok + `{"return":{"name":"banger-other"}}` + "\n",
		"a liar":          greeting + ok + `{"event":"STOP"}` + "\n" + `{"return":{"name":"banger-a1"}}` + "\n",
		"refuses":         greeting + `{"error":{"class":"GenericError","desc":"no"}}` + "\n",
		"long line":       greeting + strings.Repeat("x", 10<<20),
		"many events":     greeting + strings.Repeat(`{"event":"A"}`+"\n", 1000),
	} {
		t.Run(name, func(t *testing.T) {
			m := banger.Machine{ID: "a1", Dir: t.TempDir(), RAMDir: t.TempDir()}
			l, err := net.Listen("unix", filepath.Join(m.Dir, "qmp.sock"))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					// Its reader may hang up at any byte.
					_, _ = bytes.NewReader([]byte(words)).WriteTo(c)
					_ = c.Close()
				}
			}()
			self, err := proc.Self()
			if err != nil {
				t.Fatal(err)
			}
			saved := banger.Handles{VMM: self}
			d := qemu.New(qemu.Config{Shim: "/no/banger-shim"})
			if got, alive, err := d.Adopt(t.Context(), m, saved); err != nil || alive || got != saved {
				t.Errorf("Adopt: %+v, alive %v, %v", got, alive, err)
			}
			if left, err := d.Kill(t.Context(), m, saved); err != nil || !left.Empty() {
				t.Errorf("Kill left %+v: %v", left, err)
			}
		})
	}
}

package boot

import (
	"bytes"
	"encoding/binary"
	"os"
	"strings"
	"testing"
)

// An image's hosts file keeps all it has and gets a name once.
func FuzzHosts(f *testing.F) {
	f.Add("127.0.0.1\tlocalhost\n# web\n", "web")
	f.Add("10.0.0.1 web # here", "web")
	f.Fuzz(func(t *testing.T, old, name string) {
		if name == "" || strings.ContainsAny(name, "# \t\r\n\v\f\u0085\u00a0") || len(strings.Fields(name)) != 1 {
			return // no host's name
		}
		once := hosts(old, name)
		if strings.TrimSpace(old) != "" && !strings.HasPrefix(once, old) {
			t.Errorf("%q became %q", old, once)
		}
		if again := hosts(once, name); again != once {
			t.Errorf("%q became %q, and then %q", old, once, again)
		}
	})
}

// Each line of mountinfo is a mount at most, and no mount is what no line says.
func FuzzMounts(f *testing.F) {
	if own, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		f.Add(string(own))
	}
	f.Add(`36 35 98:0 /mnt1 /mnt\040two rw - ext4 /dev/sda rw` + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		list := parseMounts(text)
		if len(list) > strings.Count(text, "\n")+1 {
			t.Errorf("%d mounts in %q", len(list), text)
		}
		for _, m := range list {
			if !strings.Contains(text, m.kind) || m.at == "" {
				t.Errorf("%+v in %q", m, text)
			}
		}
	})
}

// Whatever systemd sends, a message is what stands in it, and a state is a word.
func FuzzBus(f *testing.F) {
	le := binary.LittleEndian
	body := append(le.AppendUint32([]byte("\x01s\x00\x00"), 7), "running\x00"...)
	head := le.AppendUint32(le.AppendUint32(le.AppendUint32([]byte{'l', 2, 0, 1}, uint32(len(body))), 1), 0)
	f.Add(append(head, body...))
	f.Add(le.AppendUint32(append([]byte{'l', 2, 0, 1}, "\xff\xff\xff\xff\x01\x00\x00\x00"...), 0xffffffff))
	f.Fuzz(func(t *testing.T, wire []byte) {
		_, body, err := readBusMessage(bytes.NewReader(wire))
		if err != nil {
			return
		}
		if !bytes.Contains(wire, body) {
			t.Errorf("%x has the body %x", wire, body)
		}
		if state, err := stateOf(body); err == nil && (len(state) > 20 || !bytes.Contains(body, []byte(state))) {
			t.Errorf("%x is the state %q", body, state)
		}
	})
}

// What the guest's first process hands on, the agent reads as it was.
func FuzzStages(f *testing.F) {
	f.Add("0 12 kernel\n12 3 the rest\n")
	f.Fuzz(func(t *testing.T, text string) {
		once := decodeStages(text)
		if again := decodeStages(encodeStages(once)); len(again) != len(once) {
			t.Errorf("%q has %d stages, and then %d", text, len(once), len(again))
		}
	})
}

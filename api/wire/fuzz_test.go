package wire

import (
	"bytes"
	"encoding/json"
	"testing"

	"banger"
)

// Whatever a daemon streams, a client ends with a result or an error, and hears of no
// more events than there were lines.
func FuzzStream(f *testing.F) {
	f.Add([]byte(`{"event":{"stage":"boot","message":"m"}}` + "\n" + `{"result":{"id":"x"}}` + "\n"))
	f.Add([]byte(`{"error":{"code":"not_found","message":"gone"}}` + "\n"))
	f.Add([]byte("{}\nnull\n[]\n"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		var vm banger.VM
		events := 0
		err := ReadStream(bytes.NewReader(stream), &vm, func(banger.Event) { events++ })
		if events > bytes.Count(stream, []byte("\n"))+1 {
			t.Errorf("%d events in %q", events, stream)
		}
		if err == nil && !bytes.Contains(bytes.ToLower(stream), []byte("result")) {
			t.Errorf("a result in %q", stream)
		}
	})
}

// A request's body is one value of known fields or refused; what is taken is written
// again without a loss.
func FuzzBody(f *testing.F) {
	f.Add([]byte(`{"name":"web","vcpu":2,"memory_mib":512,"net":"user"}`))
	f.Add([]byte(`{"nmae":"web"}`))
	f.Add([]byte(`{}{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var spec, again banger.Spec
		if decode(data, &spec) != nil {
			return
		}
		written, err := json.Marshal(spec)
		if err != nil || decode(written, &again) != nil {
			t.Fatalf("%q became %s, %v", data, written, err)
		}
		if twice, err := json.Marshal(again); err != nil || !bytes.Equal(twice, written) {
			t.Errorf("%s became %s, %v", written, twice, err)
		}
	})
}

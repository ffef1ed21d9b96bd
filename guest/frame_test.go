package guest_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/guest"
)

func TestFrames(t *testing.T) {
	want := []guest.Frame{
		{Type: guest.FrameStdin, Offset: 1 << 40, Data: []byte("x")},
		{Type: guest.FrameStdinEOF, Offset: 7},
		{Type: guest.FrameStdout, Data: bytes.Repeat([]byte("y"), guest.MaxData)},
		{Type: 200, Data: []byte("a type of tomorrow")},
	}
	var wire []byte
	for _, f := range want {
		wire = guest.AppendFrame(wire, f)
	}
	r := guest.NewFrameReader(bytes.NewReader(wire))
	for _, w := range want {
		got, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(w, got); diff != "" {
			t.Error(diff)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("after the last frame: %v", err)
	}
	for cut := 1; cut < guest.FrameHeader+1; cut++ {
		if _, err := guest.NewFrameReader(bytes.NewReader(wire[:cut])).Next(); err != io.ErrUnexpectedEOF {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
}

func TestFramesOverTheLimit(t *testing.T) {
	long := guest.AppendFrame(nil, guest.Frame{Type: guest.FrameStdout})
	binary.BigEndian.PutUint32(long[1:], guest.MaxData+1)
	back := guest.AppendFrame(nil, guest.Frame{Type: guest.FrameStdout, Offset: -1})
	for name, wire := range map[string][]byte{"long": long, "negative": back} {
		if _, err := guest.NewFrameReader(bytes.NewReader(wire)).Next(); guest.CodeOf(err) != guest.CodeProtocol {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMessages(t *testing.T) {
	wire, err := guest.AppendRequest(nil, guest.OpSignal, guest.SignalRequest{ID: "a", Signal: "TERM"})
	if err != nil {
		t.Fatal(err)
	}
	rest := "the rest"
	r := bytes.NewReader(append(wire, rest...))
	req, err := guest.ReadRequest(r)
	if err != nil || req.Op != guest.OpSignal || string(req.Body) != `{"id":"a","signal":"TERM"}` || r.Len() != len(rest) {
		t.Errorf("%+v, %v, %d bytes left", req, err, r.Len())
	}
	if _, err := guest.AppendRequest(nil, "x", bytes.Repeat([]byte("x"), guest.MaxMessage)); err == nil {
		t.Error("a request over the limit was made")
	}
	if _, err := guest.ReadRequest(bytes.NewReader([]byte{0xff, 0xff, 0xff, 0xff})); guest.CodeOf(err) != guest.CodeProtocol {
		t.Errorf("a message of 4 GiB: %v", err)
	}
}

func TestVersions(t *testing.T) {
	for _, tt := range []struct{ min, max, want int }{
		{1, 1, 1}, {1, 9, guest.Version}, {guest.Version + 1, guest.Version + 2, 0}, {0, 0, 0}, {2, 1, 0},
	} {
		got, err := guest.Request{Min: tt.min, Max: tt.max}.Accept()
		if got != tt.want || (err == nil) != (tt.want != 0) {
			t.Errorf("%d to %d: %d, %v", tt.min, tt.max, got, err)
		}
	}
}

// FuzzFrames: whatever comes, frames are bounded, and what was read is what
// writing it again gives.
func FuzzFrames(f *testing.F) {
	f.Add(guest.AppendFrame(nil, guest.Frame{Type: guest.FrameStdout, Offset: 3, Data: []byte("abc")}))
	f.Add([]byte{65, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, wire []byte) {
		r := guest.NewFrameReader(bytes.NewReader(wire))
		var again []byte
		for {
			fr, err := r.Next()
			if err != nil {
				break
			}
			again = guest.AppendFrame(again, fr)
		}
		if !bytes.HasPrefix(wire, again) {
			t.Errorf("%x was read as %x", wire, again)
		}
	})
}

func FuzzMessages(f *testing.F) {
	req, _ := guest.AppendRequest(nil, guest.OpExec, guest.ExecRequest{Spec: guest.ExecSpec{Argv: []string{"x"}}})
	resp, _ := guest.AppendResponse(nil, 1, guest.Attached{PID: 1}, nil)
	f.Add(req)
	f.Add(resp)
	f.Fuzz(func(t *testing.T, wire []byte) {
		if req, err := guest.ReadRequest(bytes.NewReader(wire)); err == nil {
			if v, err := req.Accept(); err == nil && (v < guest.MinVersion || v > guest.Version) {
				t.Errorf("accepted version %d", v)
			}
		}
		var at guest.Attached
		_ = guest.ReadResponse(bytes.NewReader(wire), &at)
	})
}

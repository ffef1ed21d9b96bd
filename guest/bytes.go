package guest

import (
	"encoding/base64"
	"encoding/json"
	"unicode/utf8"
)

// Bytes are what a command wrote or reads, in JSON: a string when they are UTF-8 text,
// else {"base64": "…"}, so that people read text and programs lose nothing.
type Bytes []byte

type encoded struct {
	Base64 string `json:"base64"`
}

// MarshalJSON implements json.Marshaler.
func (b Bytes) MarshalJSON() ([]byte, error) {
	if utf8.Valid(b) {
		return json.Marshal(string(b))
	}
	return json.Marshal(encoded{base64.StdEncoding.EncodeToString(b)})
}

// UnmarshalJSON implements json.Unmarshaler.
func (b *Bytes) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		var s string
		err := json.Unmarshal(data, &s)
		*b = Bytes(s)
		return err
	}
	var e encoded
	if err := json.Unmarshal(data, &e); err != nil {
		return err
	}
	raw, err := base64.StdEncoding.DecodeString(e.Base64)
	*b = raw
	return err
}

// maxKept is how much Kept keeps: 1 MiB.
const maxKept = 1 << 20

// Kept is what a command wrote to one stream: it keeps the first MiB of what is written to
// it, and counts the rest.
type Kept struct {
	Bytes   Bytes
	Dropped int64 // bytes that weren't kept
}

// Write implements io.Writer. It never fails.
func (k *Kept) Write(p []byte) (int, error) {
	n := min(len(p), maxKept-len(k.Bytes))
	k.Bytes = append(k.Bytes, p[:n]...)
	k.Dropped += int64(len(p) - n)
	return len(p), nil
}

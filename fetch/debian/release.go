package debian

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"banger/fetch"
)

// parseDate parses a time as a release file writes it, always in UTC.
func parseDate(s string) (time.Time, error) {
	t, err := time.Parse("Mon, _2 Jan 2006 15:04:05 MST", s)
	return t.UTC(), err
}

//go:embed keys/*.gpg
var keyFiles embed.FS

// archiveKeys returns the keys that sign Debian's releases.
func archiveKeys() (openpgp.EntityList, error) {
	files, err := keyFiles.ReadDir("keys")
	if err != nil {
		return nil, err
	}
	var all openpgp.EntityList
	for _, f := range files {
		data, err := keyFiles.ReadFile("keys/" + f.Name())
		if err != nil {
			return nil, err
		}
		keys, err := openpgp.ReadKeyRing(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("archive key %s: %w", f.Name(), err)
		}
		all = append(all, keys...)
	}
	return all, nil
}

// release is what a verified InRelease says.
type release struct {
	fields map[string]string
	date   time.Time             // UTC
	files  map[string]fetch.Blob // below dists/SUITE
}

// openRelease verifies an InRelease file: signed by one of keys, for codename,
// and still valid at now. Only the signed text is looked at.
func openRelease(data []byte, keys openpgp.EntityList, codename string, now time.Time) (*release, error) {
	block, _ := clearsign.Decode(data)
	if block == nil {
		return nil, errors.New("no signed message")
	}
	config := &packet.Config{Time: func() time.Time { return now }}
	if _, err := block.VerifySignature(keys, config); err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	r, err := parseRelease(block.Plaintext)
	if err != nil {
		return nil, err
	}
	// A hostile mirror could answer with another suite, which has a valid signature, too.
	if r.fields["Codename"] != codename {
		return nil, fmt.Errorf("it is the release %.40q, not %q", r.fields["Codename"], codename)
	}
	if r.date, err = parseDate(r.fields["Date"]); err != nil {
		return nil, fmt.Errorf("its date: %w", err)
	}
	if until := r.fields["Valid-Until"]; until != "" {
		t, err := parseDate(until)
		if err != nil {
			return nil, fmt.Errorf("Valid-Until: %w", err)
		}
		if now.After(t) {
			return nil, fmt.Errorf("it expired at %s", until)
		}
	}
	return r, nil
}

// parseRelease reads the fields of a release file and its list of files with their
// SHA-256.
func parseRelease(text []byte) (*release, error) {
	r := &release{fields: Stanza(string(text)), files: map[string]fetch.Blob{}}
	for line := range strings.Lines(r.fields["SHA256"]) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue // the list begins on the next line
		}
		if len(f) != 3 {
			return nil, fmt.Errorf("SHA256 entry %.80q", line)
		}
		b, err := parseBlob(f[0], f[1])
		if err != nil {
			return nil, fmt.Errorf("SHA256 entry %.80q: %w", line, err)
		}
		r.files[f[2]] = b
	}
	return r, nil
}

func parseBlob(sum, size string) (fetch.Blob, error) {
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return fetch.Blob{}, fmt.Errorf("size %.20q", size)
	}
	b := fetch.Blob{SHA256: strings.ToLower(sum), Size: n}
	return b, b.Check()
}

// Package archivetest is a Debian archive in a test's process: packages and an index,
// signed with a key of its own and served over HTTP. It can be told to send wrong data.
//
// It owns the form of such an archive. It knows nothing of who reads it.
package archivetest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ulikunitz/xz"
)

// Deb is a package.
type Deb struct {
	Name, Version string
	Fields        string            // more lines of its control file: "Depends: a\nEssential: yes\n"
	Control       map[string]string // more members of its control archive, by name
	Files         []tar.Header      // of its data archive
	Content       map[string]string // of regular ones, by name
}

// Archive serves packages. Set what is exported before the first request.
type Archive struct {
	Keys openpgp.EntityList // that its index is signed with
	Date time.Time          // of its release files

	server *httptest.Server
	mu     sync.Mutex
	files  map[string][]byte
	answer map[string]http.HandlerFunc
	asked  map[string]int
}

// New serves an archive of packages for the suites bookworm, bookworm-updates and,
// below /debian-security, bookworm-security, of which the last two are empty; and for
// those of trixie with the same.
func New(t testing.TB, packages ...Deb) *Archive {
	t.Helper()
	key, err := openpgp.NewEntity("Test Archive", "", "archive@example.org", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	a := &Archive{Keys: openpgp.EntityList{key}, Date: time.Now().UTC().Truncate(time.Second).Add(-time.Hour),
		files: map[string][]byte{}, answer: map[string]http.HandlerFunc{}, asked: map[string]int{}}
	a.server = httptest.NewServer(http.HandlerFunc(a.serve))
	t.Cleanup(a.server.Close)
	a.Publish(t, packages...)
	return a
}

// URL is the address of a mirror: "debian", "debian-security".
func (a *Archive) URL(archive string) string { return a.server.URL + "/" + archive }

// Pool is where a package's file lies below the server.
func Pool(d Deb) string { return "/debian/pool/" + d.Name + "_" + d.Version + ".deb" }

// InRelease is where the signed file of the first suite lies below the server.
const InRelease = "/debian/dists/bookworm/InRelease"

// Publish makes these the archive's packages. What it had stays in the pool.
func (a *Archive) Publish(t testing.TB, packages ...Deb) {
	t.Helper()
	var index bytes.Buffer
	files := map[string][]byte{}
	for _, d := range packages {
		data := d.bytes(t)
		files[Pool(d)] = data
		fmt.Fprintf(&index, "%sFilename: %s\nSize: %d\nSHA256: %x\nDescription: a package\n of a test\n\n",
			d.control(), strings.TrimPrefix(Pool(d), "/debian/"), len(data), sha256.Sum256(data))
	}
	for suite, text := range map[string][]byte{
		"/debian/dists/bookworm": index.Bytes(), "/debian/dists/bookworm-updates": nil, "/debian-security/dists/bookworm-security": nil,
		"/debian/dists/trixie": index.Bytes(), "/debian/dists/trixie-updates": nil, "/debian-security/dists/trixie-security": nil,
	} {
		packed := xzipped(t, text)
		files[suite+"/main/binary-amd64/Packages.xz"] = packed
		files[suite+"/InRelease"] = a.sign(t, fmt.Sprintf("Origin: Debian\nCodename: %s\nDate: %s\nSHA256:\n %x %d main/binary-amd64/Packages.xz\n",
			suite[strings.LastIndex(suite, "/")+1:], a.Date.Format("Mon, 02 Jan 2006 15:04:05 MST"), sha256.Sum256(packed), len(packed)))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, data := range files {
		a.files[name] = data
	}
}

// Answer replaces the answer to a path below the server; nil takes that back.
func (a *Archive) Answer(path string, h http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer[path] = h
}

// File returns what lies at a path below the server.
func (a *Archive) File(path string) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.files[path]
}

// Asked returns how often a path was asked for.
func (a *Archive) Asked(path string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked[path]
}

// Lose makes the archive forget a file, as living ones do with old versions.
func (a *Archive) Lose(path string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.files, path)
}

// Put makes data lie at a path below the server.
func (a *Archive) Put(path string, data []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.files[path] = data
}

// Close makes the archive unreachable.
func (a *Archive) Close() { a.server.Close() }

func (a *Archive) serve(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.asked[r.URL.Path]++
	answer, data := a.answer[r.URL.Path], a.files[r.URL.Path]
	a.mu.Unlock()
	switch {
	case answer != nil:
		answer(w, r)
	case data == nil:
		http.NotFound(w, r)
	default:
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}
}

func (a *Archive) sign(t testing.TB, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, a.Keys[0].PrivateKey, nil)
	if err == nil {
		_, _ = io.WriteString(w, text)
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (d Deb) control() string {
	arch := "Architecture: amd64\n"
	if strings.Contains(d.Fields, "Architecture:") {
		arch = ""
	}
	return "Package: " + d.Name + "\nVersion: " + d.Version + "\n" + arch + d.Fields
}

// bytes is the package's file (deb(5)).
func (d Deb) bytes(t testing.TB) []byte {
	t.Helper()
	members := map[string]string{"control": d.control() + "Maintainer: nobody <nobody@example.org>\nDescription: a package\n of a test\n"}
	headers := []tar.Header{{Name: "./control"}}
	for name, text := range d.Control {
		members[name] = text
		headers = append(headers, tar.Header{Name: "./" + name})
	}
	content := map[string]string{}
	for _, h := range headers {
		content[h.Name] = members[strings.TrimPrefix(h.Name, "./")]
	}
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for _, m := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar.gz", tarball(t, headers, content)}, {"data.tar.gz", tarball(t, d.Files, d.Content)}} {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n%s", m.name, 0, 0, 0, "100644", len(m.data), m.data)
		if len(m.data)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

func tarball(t testing.TB, headers []tar.Header, content map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, h := range headers {
		if h.Size = int64(len(content[h.Name])); h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content[h.Name]); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{w.Close(), z.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func xzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err == nil {
		_, _ = w.Write(data)
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

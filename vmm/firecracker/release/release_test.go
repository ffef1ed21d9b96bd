package release_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/fetch"
	"banger/vmm/firecracker/release"
)

const (
	suffix = "-" + release.Version + "-x86_64"
	path   = "/" + release.Version + "/firecracker" + suffix + ".tgz"
)

// archive packs files into a tar.gz, in the order given: name, content, …
func archive(t *testing.T, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for i := 0; i < len(files); i += 2 {
		if err := w.WriteHeader(&tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1])), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func blob(b []byte) fetch.Blob {
	return fetch.Blob{SHA256: fmt.Sprintf("%x", sha256.Sum256(b)), Size: int64(len(b))}
}

func whole(t *testing.T) []byte {
	return archive(t, "release"+suffix+"/firecracker"+suffix, "a VMM", "../../escaped", "no",
		"release"+suffix+"/jailer"+suffix, "a jailer")
}

// serve serves an archive to an installer that wants one with this content.
func serve(t *testing.T, want []byte, archive http.HandlerFunc) release.Installer {
	mux := http.NewServeMux()
	if archive != nil {
		mux.HandleFunc(path, archive)
	}
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return release.Installer{Dir: t.TempDir(), Mirror: s.URL + "/", Stall: 300 * time.Millisecond}.Expect(blob(want))
}

func TestInstall(t *testing.T) {
	b, fetched := whole(t), 0
	i := serve(t, b, func(w http.ResponseWriter, _ *http.Request) { fetched++; _, _ = w.Write(b) })
	if _, err := i.Find(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Find before: %v, want that it doesn't exist", err)
	}
	for range 2 {
		in, err := i.Install(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for file, want := range map[string]string{in.Firecracker: "a VMM", in.Jailer: "a jailer"} {
			got, err := os.ReadFile(file)
			if err != nil || string(got) != want {
				t.Errorf("%s is %q, %v; want %q", file, got, err, want)
			}
			if st, err := os.Stat(file); err != nil || st.Mode().Perm()&0o100 == 0 {
				t.Errorf("%s can't be run: %v, %v", file, st, err)
			}
		}
	}
	if fetched != 1 {
		t.Errorf("the archive was fetched %d times", fetched)
	}
	wantOnly(t, i.Dir, release.Version)
}

func wantOnly(t *testing.T, dir string, want ...string) {
	t.Helper()
	var got []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%s holds %q, want %q", dir, got, want)
	}
}

// What can't be trusted leaves nothing, and is told apart.
func TestRefused(t *testing.T) {
	good := whole(t)
	send := func(b []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(b) }
	}
	half := archive(t, "release"+suffix+"/firecracker"+suffix, "a VMM")
	for name, c := range map[string]struct {
		want    []byte
		archive http.HandlerFunc
		code    banger.Code
		text    string
	}{
		"lying":     {good, send(append(bytes.Clone(good), 0)), banger.CodeUnavailable, "its hash"},
		"another":   {good, send(archive(t, "release"+suffix+"/firecracker"+suffix, "an evil VMM")), banger.CodeUnavailable, "unexpected EOF"},
		"missing":   {good, nil, banger.CodeUnavailable, "the server doesn't have it"},
		"no jailer": {half, send(half), banger.CodeInvalid, "no jailer"},
		"no gzip":   {[]byte("hello"), send([]byte("hello")), banger.CodeInvalid, "unpack"},
		"silent":    {good, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, banger.CodeTimeout, "no data arrived"},
	} {
		i := serve(t, c.want, c.archive)
		_, err := i.Install(t.Context())
		if banger.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: error %v, want code %q and %q in it", name, err, c.code, c.text)
		}
		if _, err := i.Find(); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: installed: %v", name, err)
		}
	}
}

// The release that is fetched is the one this program was made for, whatever a
// mirror says of what it serves.
func TestPinned(t *testing.T) {
	evil := whole(t)
	mux := http.NewServeMux()
	mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(evil) })
	mux.HandleFunc(path+".sha256.txt", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "%s  firecracker%s.tgz\n", blob(evil).SHA256, suffix)
	})
	s := httptest.NewServer(mux)
	defer s.Close()
	i := release.Installer{Dir: t.TempDir(), Mirror: s.URL}
	if _, err := i.Install(t.Context()); banger.CodeOf(err) != banger.CodeUnavailable {
		t.Errorf("installed what a mirror vouches for: %v", err)
	}
}

// What arrived before a line broke is of use the next time.
func TestResume(t *testing.T) {
	good, asked := whole(t), []string{}
	i := serve(t, good, func(w http.ResponseWriter, r *http.Request) {
		if asked = append(asked, r.Header.Get("Range")); len(asked) == 1 {
			w.Header().Set("Content-Length", strconv.Itoa(len(good)))
			_, _ = w.Write(good[:len(good)/2])
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(good))
	})
	if _, err := i.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("bytes=%d-", len(good)/2); len(asked) != 2 || asked[1] != want {
		t.Errorf("asked for %q, want the second to be %q", asked, want)
	}
	wantOnly(t, i.Dir, release.Version)
}

package fcrelease_test

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

	"banger"
	"banger/fcrelease"
)

const (
	suffix = "-" + fcrelease.Version + "-x86_64"
	path   = "/" + fcrelease.Version + "/firecracker" + suffix + ".tgz"
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

func sum(b []byte) string {
	return fmt.Sprintf("%x  firecracker%s.tgz\n", sha256.Sum256(b), suffix)
}

func whole(t *testing.T) []byte {
	return archive(t, "release"+suffix+"/firecracker"+suffix, "a VMM", "../../escaped", "no",
		"release"+suffix+"/jailer"+suffix, "a jailer")
}

// serve serves an archive with what it says of its checksum.
func serve(t *testing.T, sum string, archive http.HandlerFunc) fcrelease.Installer {
	mux := http.NewServeMux()
	mux.HandleFunc(path+".sha256.txt", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(sum)) })
	if archive != nil {
		mux.HandleFunc(path, archive)
	}
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return fcrelease.Installer{Dir: t.TempDir(), Mirror: s.URL + "/"}
}

func TestInstall(t *testing.T) {
	b, fetched := whole(t), 0
	i := serve(t, sum(b), func(w http.ResponseWriter, _ *http.Request) { fetched++; _, _ = w.Write(b) })
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
	wantOnly(t, i.Dir, fcrelease.Version)
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
		sum     string
		archive http.HandlerFunc
		code    banger.Code
		want    string
	}{
		"lying":     {sum(good), send(append(bytes.Clone(good), 0)), banger.CodeInvalid, "published is"},
		"short":     {sum(good), send(good[:len(good)/2]), banger.CodeInvalid, "published is"},
		"no sum":    {"<html>", send(good), banger.CodeInvalid, "SHA-256"},
		"long sum":  {strings.Repeat("0", 1<<20), send(good), banger.CodeInvalid, "larger than"},
		"missing":   {sum(good), nil, banger.CodeUnavailable, "404"},
		"no jailer": {sum(half), send(half), banger.CodeInvalid, "no jailer"},
		"no gzip":   {sum([]byte("hello")), send([]byte("hello")), banger.CodeInvalid, "unpack"},
		"truncated": {sum(good), func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(good)))
			_, _ = w.Write(good[:len(good)/2])
		}, banger.CodeUnavailable, "unexpected EOF"},
	} {
		i := serve(t, c.sum, c.archive)
		_, err := i.Install(t.Context())
		if banger.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want code %q and %q in it", name, err, c.code, c.want)
		}
		wantOnly(t, i.Dir)
	}
}

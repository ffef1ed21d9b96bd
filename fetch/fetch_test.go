package fetch_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/fetch"
)

func blob(data []byte) fetch.Blob {
	return fetch.Blob{SHA256: fmt.Sprintf("%x", sha256.Sum256(data)), Size: int64(len(data))}
}

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func quiet(int64) {}

// Two that fetch one file write to one part of it: what the second still writes must
// not reach the file that the first called good.
func TestOneAtATime(t *testing.T) {
	dir, data := t.TempDir(), bytes.Repeat([]byte("content "), 1<<15)
	half := len(data) / 2
	arrived, goOn := make(chan bool), make(chan bool)
	slow := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data[:half])
		_ = http.NewResponseController(w).Flush()
		<-goOn
		_, _ = w.Write(make([]byte, len(data)-half))
	})
	good := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})
	ended := make(chan error)
	go func() {
		_, err := fetch.Fetcher{}.Download(t.Context(), slow, dir, blob(data), func(done int64) {
			if done == int64(half) {
				close(arrived)
			}
		})
		ended <- err
	}()
	<-arrived
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	checked, err := (fetch.Fetcher{}).Download(short, good, dir, blob(data), quiet)
	if err != nil && banger.CodeOf(err) != banger.CodeCanceled {
		t.Fatal(err)
	}
	close(goOn)
	if err := <-ended; banger.CodeOf(err) != banger.CodeUnavailable {
		t.Fatalf("the lying server: %v", err)
	}
	if checked != "" { // it didn't wait
		if got, err := os.ReadFile(checked); err != nil || !bytes.Equal(got, data) {
			t.Errorf("what was checked has changed since: %d bytes, %v", len(got), err)
		}
	}
	file, err := fetch.Fetcher{}.Download(t.Context(), good, dir, blob(data), quiet)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d other bytes, %v", len(got), err)
	}
}

// All who want a file get it, by one request.
func TestTogether(t *testing.T) {
	dir, data, asked := t.TempDir(), []byte("content"), make(chan string, 100)
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		_, _ = w.Write(data)
	})
	errs := make(chan error)
	for range 8 {
		go func() {
			_, err := fetch.Fetcher{}.Download(t.Context(), address, dir, blob(data), quiet)
			errs <- err
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if len(asked) != 1 {
		t.Errorf("%d requests for one file", len(asked))
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestRefused(t *testing.T) {
	for _, want := range []fetch.Blob{{}, {SHA256: strings.Repeat("A", 64), Size: 1}, {SHA256: strings.Repeat("../", 22), Size: 1}, {SHA256: strings.Repeat("a", 64), Size: -1}} {
		if _, err := (fetch.Fetcher{}).Download(t.Context(), "http://localhost:1", t.TempDir(), want, quiet); err == nil {
			t.Errorf("fetched %+v", want)
		}
	}
	gone := serve(t, http.NotFound)
	if _, err := (fetch.Fetcher{}).Download(t.Context(), gone, t.TempDir(), blob(nil), quiet); err != nil {
		t.Errorf("an empty file needs no server: %v", err)
	}
	if _, err := (fetch.Fetcher{}).Get(t.Context(), gone, 1); !errors.Is(err, fetch.ErrMissing) {
		t.Errorf("a missing file: %v", err)
	}
	dir := t.TempDir()
	if _, err := (fetch.Fetcher{}).Download(t.Context(), gone, dir, blob([]byte("x")), quiet); !errors.Is(err, fetch.ErrMissing) {
		t.Errorf("a missing file: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A directory in use keeps what is in it; what nobody used for a week goes.
func TestSweep(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	fetch.Hold(t.Context(), dir)()
	old := time.Now().AddDate(0, 0, -8)
	name := strings.Repeat("0", 62)
	for file, when := range map[string]time.Time{name + "00": old, name + "01.part": old, name + "02": time.Now(), "mine": old} {
		if err := errors.Join(os.WriteFile(filepath.Join(dir, file), nil, 0o600), os.Chtimes(filepath.Join(dir, file), when, when)); err != nil {
			t.Fatal(err)
		}
	}
	release := fetch.Hold(t.Context(), dir)
	if err := fetch.Sweep(dir); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(dir + "/*"); err != nil || len(left) != 4 {
		t.Errorf("left while it is held: %v, %v", left, err)
	}
	release()
	if err := errors.Join(fetch.Sweep(dir), fetch.Sweep(dir+"/nowhere")); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(dir + "/*")
	if err != nil || len(left) != 2 {
		t.Errorf("left: %v, %v", left, err)
	}
}

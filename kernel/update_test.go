package kernel_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger"
)

const (
	securityPath = "/debian-security/dists/bookworm-security"
	newerVersion = "6.1.0-10-cloud-amd64"
)

// newer puts a kernel of its own version among the security updates, or elsewhere.
func (m *mirror) newer(path string) {
	m.t.Helper()
	pack := kernelDeb(newerVersion)
	archive, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	m.files["/"+archive+"/pool/newer.deb"] = pack
	m.suite(path, fmt.Sprintf("Package: linux-image-%[1]s\nVersion: 6.1.9-1\nFilename: pool/newer.deb\nSize: %[2]d\nSHA256: %[3]x\n\n"+
		"Package: linux-image-cloud-amd64\nVersion: 6.1.10-1\nDepends: linux-image-%[1]s (= 6.1.9-1)\nFilename: pool/meta2.deb\nSize: 1\nSHA256: %[3]x\n",
		newerVersion, len(pack), sha256.Sum256(pack)))
}

// A kernel is the newest of a release with its updates and its security updates.
func TestSuites(t *testing.T) {
	for _, path := range []string{"/debian/dists/bookworm-updates", securityPath} {
		m := newMirror(t, goodDeb())
		m.newer(path)
		got, err := m.kernels(t).Pull(t.Context(), "debian-12-cloud", false, nil)
		if err != nil || got.Version != newerVersion {
			t.Errorf("%s: %+v, %v", path, got, err)
		}
	}
	m := newMirror(t, goodDeb())
	delete(m.files, securityPath+"/InRelease")
	if _, err := m.kernels(t).Pull(t.Context(), "debian-12-cloud", false, nil); banger.CodeOf(err) != banger.CodeUnavailable {
		t.Errorf("security updates can't be had, and it isn't said: %v", err)
	}
}

// A kernel that is here stays until an update is asked for; then both are here.
func TestUpdate(t *testing.T) {
	m := newMirror(t, goodDeb())
	k := m.kernels(t)
	pull := func(update bool) banger.Kernel {
		t.Helper()
		got, err := k.Pull(t.Context(), "debian-12-cloud", update, nil)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	last := func(newest string, behind bool) {
		t.Helper()
		l, err := k.Last("debian-12-cloud")
		if err != nil || l.Newest != newest || l.Behind != behind || time.Since(l.When) > time.Hour {
			t.Errorf("the last look: %+v, %v; want %q, %v", l, err, newest, behind)
		}
	}
	if l, err := k.Last("debian-12-cloud"); err != nil || l.Have.ID != "" || l.Behind {
		t.Errorf("before anything: %+v, %v", l, err)
	}
	old := pull(false)
	if again := pull(true); again.ID != old.ID || m.asked(debPath) != 1 {
		t.Errorf("nothing newer: %+v, fetched %d times", again, m.asked(debPath))
	}
	last("linux-image-"+testVersion+" 6.1-1", false)
	m.newer(securityPath)
	if got := pull(false); got.ID != old.ID {
		t.Errorf("updated without being asked: %+v", got)
	}
	// Somebody else, who builds an image, say, reads the indexes.
	each, done := k.Notice("bookworm")
	for _, s := range k.From.Suites("bookworm") {
		x, err := s.Index(t.Context(), func(_, _ int64) {})
		if err == nil {
			err = x.Each(t.Context(), each)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	done()
	last("linux-image-"+newerVersion+" 6.1.9-1", true)
	got := pull(true)
	if got.Version != newerVersion || !got.Created.After(old.Created) {
		t.Errorf("updated to %+v", got)
	}
	last("linux-image-"+newerVersion+" 6.1.9-1", false)
	for _, id := range []string{old.ID, got.ID} {
		if _, err := k.Boot(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if got := pull(false); got.Version != newerVersion {
		t.Errorf("new VMs get %+v", got)
	}
	if err := os.WriteFile(filepath.Join(k.Dir, ".newest-debian-12-cloud"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Last("debian-12-cloud"); err == nil {
		t.Error("a damaged note was read")
	}
}

// An index that was signed once isn't good for ever: what was seen stays known.
func TestReplay(t *testing.T) {
	m := newMirror(t, goodDeb())
	before := [2][]byte{m.files[securityPath+"/InRelease"], m.files[securityPath+"/main/binary-amd64/Packages.xz"]}
	m.date = m.date.Add(time.Hour)
	m.newer(securityPath)
	k := m.kernels(t)
	k.From.SeenDir = filepath.Join(t.TempDir(), "seen")
	pull := func() error {
		_, err := k.Pull(t.Context(), "debian-12-cloud", true, nil)
		return err
	}
	for range 2 { // the same again is no replay
		if err := pull(); err != nil {
			t.Fatal(err)
		}
	}
	m.files[securityPath+"/InRelease"], m.files[securityPath+"/main/binary-amd64/Packages.xz"] = before[0], before[1]
	if err := pull(); banger.CodeOf(err) != banger.CodeUnavailable || !strings.Contains(err.Error(), "of 2026-10-03 09:00:00, and one of 2026-10-03 10:00:00") {
		t.Fatalf("an older index was believed: %v", err)
	}
	if err := os.WriteFile(filepath.Join(k.From.SeenDir, "bookworm-security"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := pull(); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(k.From.SeenDir, "bookworm-security")); err != nil {
		t.Error(err)
	}
}

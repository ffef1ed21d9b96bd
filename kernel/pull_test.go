package kernel_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"banger"
	"banger/kernel"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ulikunitz/xz"
)

const testVersion = "6.1.0-9-cloud-amd64"

// builtin is a kernel that needs no module in the initramfs.
const builtin = "virtio.ko\nvirtio_ring.ko\nvirtio_mmio.ko\nvirtio_console.ko\nvmw_vsock_virtio_transport.ko\noverlay.ko\nerofs.ko\n" +
	"ext4.ko\nvirtio_blk.ko\nvirtio_net.ko\nvirtio-rng.ko\nvirtio_balloon.ko\n"

// elfKernel is the least that counts as a kernel: an ELF header.
func elfKernel() []byte {
	h := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 57)...)
	binary.LittleEndian.PutUint16(h[16:], 2)  // ET_EXEC
	binary.LittleEndian.PutUint16(h[18:], 62) // x86-64
	binary.LittleEndian.PutUint32(h[20:], 1)
	binary.LittleEndian.PutUint64(h[24:], 0x1000000)
	binary.LittleEndian.PutUint16(h[52:], 64)
	binary.LittleEndian.PutUint16(h[54:], 56)
	binary.LittleEndian.PutUint16(h[58:], 64)
	return h
}

// bzImage wraps a payload as the kernel's build does.
func bzImage(payload []byte) []byte {
	h := make([]byte, 5*512)
	h[0x1F1] = 4
	binary.LittleEndian.PutUint16(h[0x1FE:], 0xAA55)
	copy(h[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(h[0x206:], 0x20F)
	binary.LittleEndian.PutUint32(h[0x248:], 16)
	binary.LittleEndian.PutUint32(h[0x24C:], uint32(len(payload)))
	return append(append(h, make([]byte, 16)...), payload...)
}

func gzipped(data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(data)
	_ = w.Close()
	return b.Bytes()
}

func xzipped(data []byte) []byte {
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err != nil {
		panic(err)
	}
	_, _ = w.Write(data)
	_ = w.Close()
	return b.Bytes()
}

// deb packs files, by name.
func deb(files ...[2]string) []byte {
	var data bytes.Buffer
	t := tar.NewWriter(&data)
	for _, f := range files {
		if err := t.WriteHeader(&tar.Header{Name: f[0], Mode: 0o644, Size: int64(len(f[1]))}); err != nil {
			panic(err)
		}
		_, _ = io.WriteString(t, f[1])
	}
	_ = t.Close()
	var b bytes.Buffer
	b.WriteString("!<arch>\n")
	for _, m := range [][2]string{{"debian-binary", "2.0\n"}, {"control.tar.gz", "odd"}, {"data.tar.gz", string(gzipped(data.Bytes()))}} {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n%s", m[0], 0, 0, 0, "100644", len(m[1]), m[1])
		if len(m[1])%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

func goodDeb() []byte { return kernelDeb(testVersion) }

// kernelDeb is a kernel's package.
func kernelDeb(version string) []byte {
	return deb(
		[2]string{"./boot/vmlinuz-" + version, string(bzImage(gzipped(elfKernel())))},
		[2]string{"./boot/config-" + version, "CONFIG_X=y\n"},
		[2]string{"./lib/modules/" + version + "/modules.builtin", builtin},
		[2]string{"./lib/modules/" + version + "/modules.order", ""},
		[2]string{"./usr/share/doc/x", "not ours"},
		[2]string{"../../../lib/modules/" + version + "/../../../../etc/passwd", "not ours"},
	)
}

// mirror is a Debian mirror in this process. Its answers can be replaced.
type mirror struct {
	*httptest.Server
	t       *testing.T
	key     *openpgp.Entity
	date    time.Time // of release files
	mu      sync.Mutex
	files   map[string][]byte
	special map[string]http.HandlerFunc
	hits    map[string]*atomic.Int32
}

const (
	releasePath  = "/debian/dists/bookworm/InRelease"
	packagesPath = "/debian/dists/bookworm/main/binary-amd64/Packages.xz"
	debPath      = "/debian/pool/linux.deb"
)

func newMirror(t *testing.T, pack []byte) *mirror {
	t.Helper()
	m := &mirror{t: t, key: newKey(t), date: time.Date(2026, 10, 3, 9, 0, 0, 0, time.UTC), files: map[string][]byte{}, special: map[string]http.HandlerFunc{}, hits: map[string]*atomic.Int32{}}
	m.Server = httptest.NewServer(http.HandlerFunc(m.serve))
	t.Cleanup(m.Close)
	m.files[debPath] = pack
	m.index("")
	m.suite("/debian/dists/bookworm-updates", "")
	m.suite("/debian-security/dists/bookworm-security", "")
	return m
}

func newKey(t *testing.T) *openpgp.Entity {
	t.Helper()
	key, err := openpgp.NewEntity("Test Archive", "", "archive@example.org", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// index writes Packages and InRelease for the package as it is now.
func (m *mirror) index(extra string) {
	pack := m.files[debPath]
	packages := fmt.Sprintf("Package: linux-image-%[1]s\nVersion: 6.1-1\nDescription: x\n y\nFilename: pool/linux.deb\nSize: %[2]d\nSHA256: %[3]x\n\n"+
		"Package: linux-image-cloud-amd64\nVersion: 6.1-1\nDepends: linux-image-%[1]s (= 6.1-1)\nFilename: pool/meta.deb\nSize: 1\nSHA256: %[3]x\n",
		testVersion, len(pack), sha256.Sum256(pack))
	m.files[packagesPath] = xzipped([]byte(packages))
	m.release("Codename: bookworm\n"+extra, m.key)
}

// packages makes another text the index.
func (m *mirror) packages(text string) {
	m.files[packagesPath] = xzipped([]byte(text))
	m.release("Codename: bookworm\n", m.key)
}

// suite makes a text the index of a suite that isn't the first.
func (m *mirror) suite(path, text string) {
	m.t.Helper()
	packed := xzipped([]byte(text))
	m.files[path+"/main/binary-amd64/Packages.xz"] = packed
	m.files[path+"/InRelease"] = m.signed(m.key, "Codename: "+filepath.Base(path)+"\n", packed)
}

// meta is a package in the place of the default kernel's.
func meta(depends string) string {
	return "Package: linux-image-cloud-amd64\nVersion: 6.1-1\nDepends: " + depends + "\nFilename: pool/meta.deb\nSize: 1\nSHA256: " + strings.Repeat("0", 64) + "\n"
}

func (m *mirror) release(fields string, key *openpgp.Entity) {
	m.files[releasePath] = m.signed(key, fields, m.files[packagesPath])
}

// signed is a release file of an index.
func (m *mirror) signed(key *openpgp.Entity, fields string, packed []byte) []byte {
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, key.PrivateKey, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	fmt.Fprintf(w, "Origin: Debian\nDate: %s\n%sMD5Sum:\n 00 1 main/binary-amd64/Packages.xz\nSHA256:\n %x %d main/binary-amd64/Packages.xz\n", m.date.Format("Mon, 02 Jan 2006 15:04:05 MST"), fields, sha256.Sum256(packed), len(packed))
	_ = w.Close()
	return b.Bytes()
}

func (m *mirror) serve(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	if m.hits[r.URL.Path] == nil {
		m.hits[r.URL.Path] = &atomic.Int32{}
	}
	m.hits[r.URL.Path].Add(1)
	special, file := m.special[r.URL.Path], m.files[r.URL.Path]
	m.mu.Unlock()
	switch {
	case special != nil:
		special(w, r)
	case file == nil:
		http.NotFound(w, r)
	default:
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file))
	}
}

func (m *mirror) asked(path string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.hits[path] == nil {
		return 0
	}
	return int(m.hits[path].Load())
}

func (m *mirror) kernels(t *testing.T) *kernel.Kernels {
	k := kernels(t)
	k.From.Mirror, k.From.Security, k.From.Keys, k.From.Stall = m.URL+"/debian/", m.URL+"/debian-security", openpgp.EntityList{m.key}, 5*time.Second
	return k
}

func TestPull(t *testing.T) {
	m := newMirror(t, goodDeb())
	k := m.kernels(t)
	stale := filepath.Join(k.Dir, ".pull-debian-12-cloud-dead")
	if err := os.MkdirAll(stale, 0o755); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(k.From.CacheDir, strings.Repeat("0", 64)+".part")
	if err := errors.Join(os.MkdirAll(k.From.CacheDir, 0o755), os.WriteFile(old, nil, 0o600), os.Chtimes(old, time.Time{}, time.Now().AddDate(0, 0, -8))); err != nil {
		t.Fatal(err)
	}
	var events []banger.Event
	got, err := k.Pull(t.Context(), "debian-12-cloud", false, func(e banger.Event) { events = append(events, e) })
	if err != nil {
		t.Fatal(err)
	}
	if got.Version != testVersion || !strings.Contains(got.Source, "6.1-1") || len(got.ID) != 12 {
		t.Errorf("pulled %+v", got)
	}
	if last := events[len(events)-2]; last.Done != last.Total || last.Total != int64(len(goodDeb())) {
		t.Errorf("the download's last event is %+v", last)
	}
	boot, err := k.Boot(t.Context(), got.ID)
	if err != nil {
		t.Fatal(err)
	}
	checkLayout(t, k, got.ID)
	if data, err := os.ReadFile(boot.Vmlinux); err != nil || !bytes.Equal(data, elfKernel()) {
		t.Errorf("vmlinux: %d bytes, %v", len(data), err)
	}
	dir := t.TempDir()
	untar(t, boot.Modules, dir)
	if _, err := os.Stat(filepath.Join(dir, "modules.dep.bin")); err != nil {
		t.Error(err)
	}
	again, err := k.Pull(t.Context(), "debian-12-cloud", false, nil)
	if err != nil || again.ID != got.ID || m.asked(releasePath) != 1 {
		t.Errorf("second pull: %+v, %v, %d requests", again, err, m.asked(releasePath))
	}
}

// TestOutsideTheSignature: what stands around the signed text says nothing.
func TestOutsideTheSignature(t *testing.T) {
	m := newMirror(t, goodDeb())
	lie := "Codename: sid\nSHA256:\n " + strings.Repeat("0", 64) + " 1 main/binary-amd64/Packages.xz\n"
	m.files[releasePath] = slices.Concat([]byte(lie), m.files[releasePath], []byte("\n"+lie))
	if _, err := m.kernels(t).Pull(t.Context(), "debian-12-cloud", false, nil); err != nil {
		t.Error(err)
	}
}

func TestBootFollowsAgent(t *testing.T) {
	m := newMirror(t, goodDeb())
	k := m.kernels(t)
	got, err := k.Pull(t.Context(), "debian-12-cloud", false, nil)
	if err != nil {
		t.Fatal(err)
	}
	first, err := k.Boot(t.Context(), got.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(k.Agent+".new", []byte("another agent"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(k.Agent+".new", k.Agent); err != nil {
		t.Fatal(err)
	}
	second, err := k.Boot(t.Context(), got.ID)
	if err != nil || second.Initramfs == first.Initramfs {
		t.Fatalf("after the agent changed: %+v, %v", second, err)
	}
	if data := contents(t, second.Initramfs); !strings.HasPrefix(data, "another agent") {
		t.Errorf("initramfs %q, %v", data, err)
	}
	if _, err := os.Stat(first.Initramfs); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old initramfs stays: %v", err)
	}
	for _, id := range []string{"", "..", "000000000000", "../" + got.ID} {
		if _, err := k.Boot(t.Context(), id); banger.CodeOf(err) != banger.CodeNotFound {
			t.Errorf("Boot(%q): %v", id, err)
		}
	}
}

// What is removed is gone whole, and can be had again; only kernels are removed.
func TestRemove(t *testing.T) {
	m := newMirror(t, goodDeb())
	k := m.kernels(t)
	for range 2 {
		got, err := k.Pull(t.Context(), "debian-12-cloud", false, nil)
		if err != nil {
			t.Fatal(err)
		}
		if there, err := k.Remove(got.ID); err != nil || !there {
			t.Errorf("removed %v, %v", there, err)
		}
		if _, err := k.Boot(t.Context(), got.ID); banger.CodeOf(err) != banger.CodeNotFound {
			t.Errorf("it boots still: %v", err)
		}
		entries, err := os.ReadDir(k.Dir)
		if err != nil || len(entries) != 2 { // the lock of its name, and what the archive had
			t.Errorf("%v stay, %v", entries, err)
		}
	}
	if n := m.asked(debPath); n != 2 {
		t.Errorf("the package was fetched %d times", n)
	}
	beside := filepath.Join(k.Dir, "notakernel00")
	if err := os.Mkdir(beside, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", ".", "..", "notakernel00", "000000000000"} {
		if there, err := k.Remove(id); there || err != nil {
			t.Errorf("%q: %v, %v", id, there, err)
		}
	}
	if _, err := os.Stat(beside); err != nil {
		t.Error(err)
	}
}

func TestConcurrentPulls(t *testing.T) {
	m := newMirror(t, goodDeb())
	k := m.kernels(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := k.Pull(t.Context(), "debian-12-cloud", false, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := m.asked(debPath); n != 1 {
		t.Errorf("the package was fetched %d times", n)
	}
}

// half sends a part of a file and then closes the connection, or falls silent.
func half(file []byte, silent bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(file)))
		_, _ = w.Write(file[:len(file)/2])
		_ = http.NewResponseController(w).Flush()
		if silent {
			<-r.Context().Done()
		}
		panic(http.ErrAbortHandler)
	}
}

func TestLies(t *testing.T) {
	flip := func(m *mirror, path string, at int) {
		data := bytes.Clone(m.files[path])
		data[(at+len(data))%len(data)] ^= 1
		m.files[path] = data
	}
	endless := func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			_, _ = w.Write(make([]byte, 1<<16))
		}
	}
	tests := map[string]struct {
		lie  func(*mirror)
		code banger.Code
		text string
	}{
		"package with another hash": {func(m *mirror) { flip(m, debPath, 300) }, banger.CodeUnavailable, "its hash"},
		"longer package":            {func(m *mirror) { m.files[debPath] = append(m.files[debPath], 0) }, banger.CodeUnavailable, "its hash"},
		"shorter package":           {func(m *mirror) { m.files[debPath] = m.files[debPath][:99] }, banger.CodeUnavailable, "shorter than"},
		"endless package":           {func(m *mirror) { m.special[debPath] = endless }, banger.CodeUnavailable, "its hash"},
		"index with another hash":   {func(m *mirror) { flip(m, packagesPath, -30) }, banger.CodeUnavailable, "its hash"},
		"signed by a stranger":      {func(m *mirror) { m.release("Codename: bookworm\n", newKey(m.t)) }, banger.CodeUnavailable, "signature"},
		"signed text changed": {func(m *mirror) {
			m.files[releasePath] = bytes.Replace(m.files[releasePath], []byte("Origin: Debian"), []byte("Origin: debian"), 1)
		}, banger.CodeUnavailable, "signature"},
		"not signed":           {func(m *mirror) { m.files[releasePath] = []byte("Codename: bookworm\nSHA256:\n") }, banger.CodeUnavailable, "no signed message"},
		"half a signature":     {func(m *mirror) { f := m.files[releasePath]; m.files[releasePath] = f[:len(f)-60] }, banger.CodeUnavailable, "not to be trusted"},
		"another suite":        {func(m *mirror) { m.release("Codename: sid\n", m.key) }, banger.CodeUnavailable, `"sid"`},
		"expired":              {func(m *mirror) { m.release("Codename: bookworm\nValid-Until: Sat, 11 Jul 2020 10:16:37 UTC\n", m.key) }, banger.CodeUnavailable, "expired at Sat, 11 Jul 2020"},
		"endless release file": {func(m *mirror) { m.special[releasePath] = endless }, banger.CodeUnavailable, "longer than"},
		"redirected for ever": {func(m *mirror) {
			m.special[releasePath] = http.RedirectHandler(releasePath, http.StatusFound).ServeHTTP
		}, banger.CodeUnavailable, "redirects"},
		"redirected to a file": {func(m *mirror) {
			m.special[releasePath] = http.RedirectHandler("file:///etc/passwd", http.StatusFound).ServeHTTP
		}, banger.CodeUnavailable, "unsupported protocol"},
		"no release file": {func(m *mirror) { delete(m.files, releasePath) }, banger.CodeUnavailable, "Not Found"},
		"no kernel of its name": {func(m *mirror) {
			m.packages("Package: other\nVersion: 1\nDepends: x\nFilename: pool/x.deb\nSize: 1\nSHA256: " + strings.Repeat("0", 64) + "\n")
		}, banger.CodeUnavailable, "the archive has no package linux-image-cloud-amd64"},
		"a kernel that depends on none":          {func(m *mirror) { m.packages(meta("libc6, linux-base")) }, banger.CodeUnavailable, "depends on no kernel"},
		"a kernel that the archive doesn't have": {func(m *mirror) { m.packages(meta("linux-image-6.2.0-1-cloud-amd64")) }, banger.CodeUnavailable, "which the archive doesn't have"},
		"a kernel in another version than it has": {func(m *mirror) {
			m.packages(fmt.Sprintf("Package: linux-image-%[1]s\nVersion: 6.1-1\nFilename: pool/linux.deb\nSize: 1\nSHA256: %[2]s\n\n%[3]s",
				testVersion, strings.Repeat("0", 64), meta("linux-image-"+testVersion+" (= 6.2-1)")))
		}, banger.CodeUnavailable, "the archive has 6.1-1"},
		"no package": {func(m *mirror) { delete(m.files, debPath) }, banger.CodeUnavailable, "Not Found"},
		"always out of order": {func(m *mirror) {
			m.special[releasePath] = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }
		}, banger.CodeUnavailable, "503"},
		"silent from the start": {func(m *mirror) {
			m.special[releasePath] = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		}, banger.CodeTimeout, "no data arrived"},
		"silent in the middle":          {func(m *mirror) { m.special[debPath] = half(m.files[debPath], true) }, banger.CodeTimeout, "no data arrived"},
		"cut off in the middle, always": {func(m *mirror) { m.special[debPath] = half(m.files[debPath], false) }, banger.CodeUnavailable, "unexpected EOF"},
		"gone":                          {func(m *mirror) { m.Close() }, banger.CodeUnavailable, "refused"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMirror(t, goodDeb())
			test.lie(m)
			k := m.kernels(t)
			if test.code == banger.CodeTimeout {
				k.From.Stall = 300 * time.Millisecond
			}
			_, err := k.Pull(t.Context(), "debian-12-cloud", false, nil)
			if banger.CodeOf(err) != test.code || !strings.Contains(fmt.Sprint(err), test.text) {
				t.Fatalf("%s: %v, want %s with %q", banger.CodeOf(err), err, test.code, test.text)
			}
			nothingPublished(t, k)
		})
	}
}

// TestOddPackages: signed by the right key, and yet not to be believed.
func TestOddPackages(t *testing.T) {
	kernel := [2]string{"boot/vmlinuz-" + testVersion, string(bzImage(gzipped(elfKernel())))}
	modules := [2]string{"lib/modules/" + testVersion + "/modules.builtin", builtin}
	for name, test := range map[string]struct {
		deb  []byte
		text string
	}{
		"no kernel":        {deb(modules), "no boot/vmlinuz"},
		"no modules":       {deb(kernel), "modules"},
		"missing driver":   {deb(kernel, [2]string{modules[0], "overlay.ko\n"}), "no module virtio"},
		"two versions":     {deb(kernel, [2]string{"lib/modules/7.0/modules.builtin", builtin}), "kernel version"},
		"odd version":      {deb([2]string{"boot/vmlinuz-a b", kernel[1]}), "kernel version"},
		"not a kernel":     {deb([2]string{kernel[0], "#!/bin/sh"}, modules), "neither an ELF"},
		"the same twice":   {deb(kernel, modules, modules), "exists"},
		"no module at all": {deb(kernel, modules, [2]string{"lib/modules/" + testVersion + "/kernel/x.ko", "x"}), "x.ko"},
		"bad compression":  {deb(kernel, modules, [2]string{"lib/modules/" + testVersion + "/kernel/x.ko.xz", "x"}), "x.ko.xz"},
		"no archive":       {[]byte("hello"), "not an ar archive"},
		"truncated":        {goodDeb()[:len(goodDeb())-40], "damaged"},
	} {
		m := newMirror(t, test.deb)
		k := m.kernels(t)
		_, err := k.Pull(t.Context(), "debian-12-cloud", false, nil)
		if err == nil || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: %v, want %q", name, err, test.text)
		}
		nothingPublished(t, k)
	}
}

func nothingPublished(t *testing.T, k *kernel.Kernels) {
	t.Helper()
	entries, err := os.ReadDir(k.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".lock-") && !strings.HasPrefix(e.Name(), ".newest-") {
			t.Errorf("left behind: %s", e.Name())
		}
	}
}

func TestResume(t *testing.T) {
	m := newMirror(t, goodDeb())
	file := m.files[debPath]
	var ranges []string
	m.special[debPath] = func(w http.ResponseWriter, r *http.Request) {
		ranges = append(ranges, r.Header.Get("Range"))
		if len(ranges) == 1 {
			half(file, false)(w, r)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file))
	}
	if _, err := m.kernels(t).Pull(t.Context(), "debian-12-cloud", false, nil); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("bytes=%d-", len(file)/2); len(ranges) != 2 || ranges[1] != want {
		t.Errorf("requests with ranges %q, want the second with %s", ranges, want)
	}
}

// TestDamagedHalf: what an earlier pull left may be wrong; and a server may
// know no ranges.
func TestDamagedHalf(t *testing.T) {
	for name, special := range map[string]func([]byte) http.HandlerFunc{
		"ranges": func([]byte) http.HandlerFunc { return nil },
		"no ranges": func(f []byte) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(f) }
		},
	} {
		m := newMirror(t, goodDeb())
		file := m.files[debPath]
		m.special[debPath] = special(file)
		k := m.kernels(t)
		if err := os.MkdirAll(k.From.CacheDir, 0o755); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(file)
		for _, damage := range [][]byte{make([]byte, len(file)/2), make([]byte, len(file)), make([]byte, 2*len(file))} {
			if err := os.WriteFile(filepath.Join(k.From.CacheDir, hex.EncodeToString(sum[:])+".part"), damage, 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := k.Pull(t.Context(), "debian-12-cloud", false, nil)
			if err != nil {
				t.Errorf("%s, %d bytes: %v", name, len(damage), err)
				continue
			}
			if err := os.RemoveAll(filepath.Join(k.Dir, got.ID)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestCancel(t *testing.T) {
	m := newMirror(t, goodDeb())
	ctx, cancel := context.WithCancel(t.Context())
	file := m.files[debPath]
	m.special[debPath] = func(w http.ResponseWriter, r *http.Request) {
		cancel()
		half(file, true)(w, r)
	}
	k := m.kernels(t)
	k.From.Stall = time.Minute
	_, err := k.Pull(ctx, "debian-12-cloud", false, nil)
	if banger.CodeOf(err) != banger.CodeCanceled {
		t.Errorf("pull ended with %v", err)
	}
	nothingPublished(t, k)
	if _, err := k.Pull(t.Context(), "nonesuch", false, nil); banger.CodeOf(err) != banger.CodeNotFound {
		t.Errorf("unknown name: %v", err)
	}
}

package debian

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"banger"
	"banger/fetch"
	"banger/fetch/xz"
)

// Bounds, in bytes, of files whose size no signature tells, and of the signed sizes.
// They are several times what Debian has today.
const (
	maxRelease  = 4 << 20
	maxPackages = 128 << 20
	maxIndex    = 1 << 30 // Packages, decompressed
	maxDeb      = 512 << 20
)

// Source is a suite of an archive on a mirror. Its methods may be called concurrently;
// what they return has been checked against the signature.
type Source struct {
	Mirror   string // of Debian, without dists/…; empty: Mirror of this host
	Security string // of Debian's security updates; empty: the public one
	CacheDir string // where downloads are kept; made when missing
	SeenDir  string // where the newest date of each suite is kept, so that older files are refused; empty: nowhere

	Archive  string // Main, the default, or SecurityUpdates
	Codename string // of the suite, as its release file has it: "bookworm-security"

	Keys   openpgp.EntityList // who may sign; nil: Debian
	Client *http.Client       // nil: fetch.NewClient
	Stall  time.Duration      // how long a server may be silent; 0: 30 s
	Now    func() time.Time   // nil: time.Now
}

// The archives of Debian, by the last element of their address.
const (
	Main            = "debian"
	SecurityUpdates = "debian-security"
)

const publicSecurity = "http://deb.debian.org/debian-security"

// Suites returns the sources of a release's packages: the release itself, its updates
// and its security updates. The highest version of a package is the one to take.
func (s Source) Suites(release string) []Source {
	all := []Source{s, s, s}
	all[0].Archive, all[0].Codename = Main, release
	all[1].Archive, all[1].Codename = Main, release+"-updates"
	all[2].Archive, all[2].Codename = SecurityUpdates, release+"-security"
	return all
}

// Index is a suite's list of packages, fetched and checked.
type Index struct {
	Date time.Time // of the release file, UTC
	File string    // the list, compressed

	address string
}

// File is a file of an archive: its path below the mirror, its hash and size.
type File struct {
	Path string // as the index has it, with slashes
	fetch.Blob
}

func (s Source) mirror() string {
	switch {
	case s.Archive == SecurityUpdates && s.Security == "":
		return publicSecurity
	case s.Archive == SecurityUpdates:
		return strings.TrimRight(s.Security, "/")
	case s.Mirror == "":
		return Mirror(os.DirFS("/"))
	}
	return strings.TrimRight(s.Mirror, "/")
}

func (s Source) fetcher() fetch.Fetcher { return fetch.Fetcher{Client: s.Client, Stall: s.Stall} }

func (s Source) makeCache() error { return os.MkdirAll(s.CacheDir, 0o700) }

const packagesIndex = "main/binary-amd64/Packages.xz"

// Index fetches and checks the list of packages of component main for amd64. progress
// gets how many bytes of it have arrived, and how many there are.
func (s Source) Index(ctx context.Context, progress func(done, total int64)) (*Index, error) {
	if err := s.makeCache(); err != nil {
		return nil, err
	}
	dist := s.mirror() + "/dists/" + s.Codename
	rel, err := s.release(ctx, dist+"/InRelease")
	if err != nil {
		return nil, err
	}
	want, ok := rel.files[packagesIndex]
	if !ok || want.Size > maxPackages {
		return nil, banger.Errorf(banger.CodeUnavailable, "release file %s/InRelease lists no usable %s", fetch.Shown(dist), packagesIndex)
	}
	x := &Index{Date: rel.date, address: dist + "/" + packagesIndex}
	report := func(done int64) { progress(done, want.Size) }
	err = fetch.ErrMissing
	if rel.fields["Acquire-By-Hash"] == "yes" {
		// Ask by hash, so that an update of the mirror between the two requests does no harm.
		byHash := dist + "/" + path.Dir(packagesIndex) + "/by-hash/SHA256/" + want.SHA256
		x.File, err = s.fetcher().Download(ctx, byHash, s.CacheDir, want, report)
	}
	if errors.Is(err, fetch.ErrMissing) {
		x.File, err = s.fetcher().Download(ctx, x.address, s.CacheDir, want, report)
	}
	return x, missing(x.address, err)
}

// release fetches a suite's release file and checks its signature.
func (s Source) release(ctx context.Context, address string) (*release, error) {
	keys := s.Keys
	if keys == nil {
		var err error
		if keys, err = archiveKeys(); err != nil {
			return nil, err
		}
	}
	now := time.Now()
	if s.Now != nil {
		now = s.Now()
	}
	data, err := s.fetcher().Get(ctx, address, maxRelease)
	if err != nil {
		return nil, missing(address, err)
	}
	rel, err := openRelease(data, keys, s.Codename, now)
	if err != nil {
		return nil, banger.Errorf(banger.CodeUnavailable, "release file %s is not to be trusted: %w", fetch.Shown(address), err).
			WithHint("set another mirror, and check the host's clock (%s)", now.UTC().Format(time.DateTime))
	}
	return rel, s.notOlder(ctx, address, rel.date)
}

// Each calls each with every package's fields; see Stanzas.
func (x *Index) Each(ctx context.Context, each func(map[string]string) error) error {
	f, err := os.Open(x.File)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := xz.NewReader(bufio.NewReaderSize(f, 1<<20), maxWindow)
	if err == nil {
		err = Stanzas(&bounded{ctx, r, maxIndex}, each)
	}
	if err != nil {
		return banger.Errorf(banger.CodeUnavailable, "package index %s: %w", fetch.Shown(x.address), err)
	}
	return nil
}

// PackageFile returns the file of a package of an index.
func PackageFile(stanza map[string]string) (File, error) {
	b, err := parseBlob(stanza["SHA256"], stanza["Size"])
	f := File{stanza["Filename"], b}
	if err == nil && !filepath.IsLocal(f.Path) {
		err = fmt.Errorf("no file of an archive: %.80q", f.Path)
	}
	if err != nil {
		return File{}, fmt.Errorf("package %.80q: %w", stanza["Package"], err)
	}
	return f, nil
}

// Address is the address of a file, without a password, for messages.
func (s Source) Address(f File) string { return fetch.Shown(s.mirror() + "/" + f.Path) }

// Root is the address of the archive, without a password, for messages.
func (s Source) Root() string { return fetch.Shown(s.mirror()) }

// Fetch returns the path in CacheDir of a file of the archive, and fetches what is
// missing of it. found is false when the mirror doesn't have the file.
func (s Source) Fetch(ctx context.Context, f File, progress func(done int64)) (path string, found bool, err error) {
	if !filepath.IsLocal(f.Path) || f.Size > maxDeb {
		return "", false, fmt.Errorf("no file of an archive: %.80q of %d bytes", f.Path, f.Size)
	}
	if err := s.makeCache(); err != nil {
		return "", false, err
	}
	path, err = s.fetcher().Download(ctx, s.mirror()+"/"+f.Path, s.CacheDir, f.Blob, progress)
	if errors.Is(err, fetch.ErrMissing) {
		return "", false, nil
	}
	if err == nil {
		progress(f.Size)
	}
	return path, err == nil, err
}

// missing makes an error for users of fetch.ErrMissing; other errors are that already.
func missing(address string, err error) error {
	if !errors.Is(err, fetch.ErrMissing) {
		return err
	}
	return banger.Errorf(banger.CodeUnavailable, "fetch %s: %w (%s)", fetch.Shown(address), err, http.StatusText(http.StatusNotFound)).
		WithHint("is the mirror a complete Debian mirror?")
}

// bounded is a stream that fails when it gets longer than any real one, or ctx ends.
type bounded struct {
	ctx  context.Context
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, context.Cause(b.ctx)
	}
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errors.New("larger than any real one")
	}
	return n, err
}

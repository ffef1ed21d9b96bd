package debian

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"golang.org/x/sys/unix"
)

// Source is a place packages come from, for others than Kernels. Its methods
// may be called side by side; what they return was checked.
type Source struct {
	Mirror   string // without dists/…; empty: Mirror of this host
	Codename string // of the suite, as its release file has it: "bookworm-security"
	CacheDir string // where downloads are kept, and found again; made when missing

	Keys   openpgp.EntityList // who may sign; nil: Debian
	Client *http.Client       // nil: one with bounds
	Stall  time.Duration      // how long a server may be silent; 0: 30 s
	Now    func() time.Time   // nil: time.Now
}

// File is a file of an archive: where it is below the mirror, and what it must be.
type File struct {
	Path   string // as the index has it, with slashes
	SHA256 string // lower-case hex
	Size   int64
}

// NewClient returns a client with a bound on every phase of a request but the
// body. Requests of one client share their connections.
func NewClient() *http.Client { return newClient() }

func newArchive(s suite, from Source) (*archive, error) {
	a := &archive{mirror: strings.TrimRight(from.Mirror, "/"), suite: s, keys: from.Keys, now: time.Now(), fetch: &fetcher{from.Client, from.Stall}}
	if a.mirror == "" {
		a.mirror = Mirror(os.DirFS("/"))
	}
	if a.fetch.client == nil {
		a.fetch.client = newClient()
	}
	if a.fetch.stall == 0 {
		a.fetch.stall = stallAfter
	}
	if from.Now != nil {
		a.now = from.Now()
	}
	if a.keys == nil {
		keys, err := archiveKeys()
		if err != nil {
			return nil, err
		}
		a.keys = keys
	}
	return a, nil
}

// Index walks the chain of trust down to the packages of component main for
// amd64 and calls each with every one's fields, the first line of each; the map
// is good until each returns. The answer is the release file's date. progress
// gets the bytes of the index that are here, and how many there will be.
func (s Source) Index(ctx context.Context, progress func(done, total int64), each func(map[string]string) error) (time.Time, error) {
	a, err := newArchive(suite{codename: s.Codename}, s)
	if err != nil {
		return time.Time{}, err
	}
	if err := s.makeCache(); err != nil {
		return time.Time{}, err
	}
	file, fields, err := a.index(ctx, s.CacheDir, func(_ string, total int64) func(int64) {
		return func(done int64) { progress(done, total) }
	})
	if err != nil {
		return time.Time{}, err
	}
	touch(file)
	if err := a.read(ctx, file, func(r io.Reader) error { return stanzas(r, each) }); err != nil {
		return time.Time{}, err
	}
	date, err := time.Parse("Mon, _2 Jan 2006 15:04:05 MST", fields["Date"])
	return date.UTC(), err
}

// Fetch returns the path of a file of the archive in CacheDir, fetching what of
// it isn't there yet. found is false when the mirror doesn't have it (any more).
func (s Source) Fetch(ctx context.Context, f File, progress func(done int64)) (path string, found bool, err error) {
	if !filepath.IsLocal(f.Path) || f.Size > maxDeb {
		return "", false, errors.New("no file of an archive: " + f.Path)
	}
	want, err := checkedBlob(f)
	if err != nil {
		return "", false, err
	}
	a, err := newArchive(suite{}, s)
	if err != nil {
		return "", false, err
	}
	if err := s.makeCache(); err != nil {
		return "", false, err
	}
	path, err = a.fetch.download(ctx, a.mirror+"/"+f.Path, s.CacheDir, want, progress)
	if errors.Is(err, errMissing) {
		return "", false, nil
	}
	if err == nil {
		touch(path)
		progress(f.Size)
	}
	return path, err == nil, err
}

func checkedBlob(f File) (blob, error) {
	b := blob{f.SHA256, f.Size}
	if len(b.sha256) != 64 || strings.Trim(b.sha256, "0123456789abcdef") != "" || b.size < 0 {
		return b, errors.New("no SHA-256 and size: " + f.Path)
	}
	return b, nil
}

func (s Source) makeCache() error { return os.MkdirAll(s.CacheDir, 0o700) }

// touch says that a download is of use still: SweepCache goes by it.
func touch(file string) { _ = os.Chtimes(file, time.Time{}, time.Now()) }

// Hold keeps others from removing what is in a directory of downloads, which it
// makes when missing, until release is called. Where a lock can't be had (flock(2),
// on some network filesystems) who would remove can't have one either.
func Hold(dir string) (release func()) {
	_ = os.MkdirAll(dir, 0o700) // who downloads to it says why it can't be
	d, err := os.Open(dir)
	if err != nil {
		return func() {}
	}
	for unix.Flock(int(d.Fd()), unix.LOCK_SH) == unix.EINTR {
	}
	return func() { _ = d.Close() }
}

// SweepCache removes downloads from dir that nobody used for a week.
func SweepCache(dir string) error {
	err := sweepCache(dir, time.Now().Add(-keepDownloads))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// OpenDeb opens the two archives of a package: its control files and its data,
// as tars. Both read from r, the second after the first. Neither can yield more
// than a bound, or anything once ctx has ended.
func OpenDeb(ctx context.Context, r io.ReaderAt, size int64) (control, data io.Reader, err error) {
	if control, err = debTar(r, size, "control.tar"); err != nil {
		return nil, nil, err
	}
	if data, err = debTar(r, size, "data.tar"); err != nil {
		return nil, nil, err
	}
	return &bounded{ctx, control, maxConfig * 16}, &bounded{ctx, data, maxUnpacked}, nil
}

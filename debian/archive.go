package debian

import (
	"bufio"
	"bytes"
	"context"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"banger"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ulikunitz/xz"
)

// Bounds of what a mirror may send before a hash says how long it is, and of
// what the signed sizes may be: several times what Debian has today.
const (
	maxRelease  = 4 << 20
	maxPackages = 128 << 20
	maxIndex    = 1 << 30 // Packages, decompressed
	maxLine     = 1 << 20
	maxDeb      = 512 << 20
)

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
	files  map[string]blob // below dists/SUITE
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
	// A mirror must not answer with another suite, signed just as well.
	if r.fields["Codename"] != codename {
		return nil, fmt.Errorf("it is the release %.40q, not %q", r.fields["Codename"], codename)
	}
	if until := r.fields["Valid-Until"]; until != "" {
		t, err := time.Parse("Mon, _2 Jan 2006 15:04:05 MST", until)
		if err != nil {
			return nil, fmt.Errorf("Valid-Until: %w", err)
		}
		if now.After(t) {
			return nil, fmt.Errorf("it expired at %s", until)
		}
	}
	return r, nil
}

func parseRelease(text []byte) (*release, error) {
	r := &release{fields: map[string]string{}, files: map[string]blob{}}
	section := ""
	for line := range bytes.Lines(text) {
		line := strings.TrimRight(string(line), "\r\n")
		if !strings.HasPrefix(line, " ") {
			key, value, _ := strings.Cut(line, ":")
			section, r.fields[key] = key, strings.TrimSpace(value)
			continue
		}
		if section != "SHA256" {
			continue
		}
		f := strings.Fields(line)
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

func parseBlob(sum, size string) (blob, error) {
	if raw, err := hex.DecodeString(sum); err != nil || len(raw) != 32 {
		return blob{}, errors.New("not a SHA-256")
	}
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || n < 0 {
		return blob{}, fmt.Errorf("size %.20q", size)
	}
	return blob{strings.ToLower(sum), n}, nil
}

// pkg is the part of a Packages stanza that we use.
type pkg struct {
	name, version, depends, filename string
	blob                             blob
}

// kernelName matches a package that holds a kernel, against one that only
// depends on the newest; the group is what uname -r will say.
var kernelName = regexp.MustCompile(`^linux-image-([0-9][A-Za-z0-9.+~]*(?:-[A-Za-z0-9.+~]+)*)$`)

// findKernel reads a Packages index and follows the metapackage to the package
// with the kernel.
func findKernel(r io.Reader, meta string) (pkg, error) {
	all := map[string]pkg{}
	err := stanzas(r, func(stanza map[string]string) error {
		if !strings.HasPrefix(stanza["Package"], "linux-image-") {
			return nil
		}
		b, err := parseBlob(stanza["SHA256"], stanza["Size"])
		if err != nil {
			return fmt.Errorf("package %.80q: %w", stanza["Package"], err)
		}
		all[stanza["Package"]] = pkg{stanza["Package"], stanza["Version"], stanza["Depends"], stanza["Filename"], b}
		return nil
	})
	if err != nil {
		return pkg{}, err
	}
	return resolveMeta(all, meta)
}

// stanzas calls each for every paragraph of a control file (deb822(5)), with
// the first lines of its fields. The map is good until each returns.
func stanzas(r io.Reader, each func(map[string]string) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	stanza := map[string]string{}
	end := func() error {
		defer clear(stanza)
		if len(stanza) == 0 {
			return nil
		}
		return each(stanza)
	}
	for lines.Scan() {
		line := lines.Text()
		if line == "" {
			if err := end(); err != nil {
				return err
			}
			continue
		}
		if key, value, ok := strings.Cut(line, ": "); ok && line[0] != ' ' {
			stanza[key] = value
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return end()
}

func resolveMeta(all map[string]pkg, meta string) (pkg, error) {
	m, ok := all[meta]
	if !ok {
		return pkg{}, fmt.Errorf("the archive has no package %s", meta)
	}
	for dep := range strings.SplitSeq(m.depends, ",") {
		name, version, _ := strings.Cut(strings.TrimSpace(dep), " ")
		if !kernelName.MatchString(name) {
			continue
		}
		p, ok := all[name]
		if !ok {
			return pkg{}, fmt.Errorf("%s depends on %s, which the archive doesn't have", meta, name)
		}
		if version != "" && version != "(= "+p.version+")" {
			return pkg{}, fmt.Errorf("%s depends on %s %s, the archive has %s", meta, name, version, p.version)
		}
		if !filepath.IsLocal(p.filename) || p.blob.size > maxDeb {
			return pkg{}, fmt.Errorf("%s: file %.80q of %d bytes", name, p.filename, p.blob.size)
		}
		return p, nil
	}
	return pkg{}, fmt.Errorf("%s depends on no kernel: %.80q", meta, m.depends)
}

// archive is one suite on one mirror.
type archive struct {
	mirror string // without a slash at the end
	suite  suite
	keys   openpgp.EntityList
	fetch  *fetcher
	now    time.Time
	used   []string // downloads that are of no use once the kernel is there
}

// find walks the chain of trust down to the kernel's package.
func (a *archive) find(ctx context.Context, cache string, report reporter) (pkg, error) {
	file, _, err := a.index(ctx, cache, report)
	if err != nil {
		return pkg{}, err
	}
	a.used = append(a.used, file)
	var p pkg
	err = a.read(ctx, file, func(r io.Reader) (err error) {
		p, err = findKernel(r, a.suite.meta)
		return err
	})
	return p, err
}

const packagesIndex = "main/binary-amd64/Packages.xz"

// index fetches the suite's package index and checks it. The release file's
// fields come with it.
func (a *archive) index(ctx context.Context, cache string, report reporter) (file string, fields map[string]string, err error) {
	dist := a.mirror + "/dists/" + a.suite.codename
	data, err := a.fetch.get(ctx, dist+"/InRelease", maxRelease)
	if err != nil {
		return "", nil, missing(dist+"/InRelease", err)
	}
	rel, err := openRelease(data, a.keys, a.suite.codename, a.now)
	if err != nil {
		return "", nil, banger.Errorf(banger.CodeUnavailable, "release file %s/InRelease is not to be trusted: %w", shown(dist), err).
			WithHint("set another mirror, and check the host's clock (%s)", a.now.UTC().Format(time.DateTime))
	}
	want, ok := rel.files[packagesIndex]
	if !ok || want.size > maxPackages {
		return "", nil, banger.Errorf(banger.CodeUnavailable, "release file %s/InRelease lists no usable %s", shown(dist), packagesIndex)
	}
	address := dist + "/" + packagesIndex
	err = errMissing
	if rel.fields["Acquire-By-Hash"] == "yes" {
		// By hash, an update of the mirror between the two requests does no harm.
		byHash := dist + "/" + path.Dir(packagesIndex) + "/by-hash/SHA256/" + want.sha256
		file, err = a.fetch.download(ctx, byHash, cache, want, report("package index", want.size))
	}
	if errors.Is(err, errMissing) {
		file, err = a.fetch.download(ctx, address, cache, want, report("package index", want.size))
	}
	if err != nil {
		return "", nil, missing(address, err)
	}
	return file, rel.fields, nil
}

// read decompresses a fetched package index for parse.
func (a *archive) read(ctx context.Context, file string, parse func(io.Reader) error) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := xz.NewReader(bufio.NewReaderSize(f, 1<<20))
	if err == nil {
		err = parse(&bounded{ctx, r, maxIndex})
	}
	if err != nil {
		return banger.Errorf(banger.CodeUnavailable, "package index %s/dists/%s/%s: %w", shown(a.mirror), a.suite.codename, packagesIndex, err)
	}
	return nil
}

// missing makes a 404 an error for users; others are that already.
func missing(address string, err error) error {
	if !errors.Is(err, errMissing) {
		return err
	}
	return banger.Errorf(banger.CodeUnavailable, "fetch %s: %w (%s)", shown(address), err, http.StatusText(http.StatusNotFound)).
		WithHint("is the mirror a complete Debian mirror?")
}

// bounded ends a stream that grows beyond what it can honestly be, or whose
// reader has gone away.
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

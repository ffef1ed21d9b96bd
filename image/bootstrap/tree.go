package bootstrap

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"banger"
	"banger/fetch/debian"
)

// Bounds of a package's control archive, in bytes where they are sizes.
const (
	maxControl = 8 << 20
	maxMembers = 64
)

// tree is a root tar that is being written: packages unpacked over each other as dpkg
// would, with /usr merged.
type tree struct {
	out   *tar.Writer
	owner map[string]*unpacked // of all but directories
	dirs  map[string]bool
	all   []*unpacked
}

// unpacked is a package in the tree.
type unpacked struct {
	banger.Package
	control   string            // its stanza
	fields    map[string]string // of the stanza
	members   map[string][]byte // other control files by name
	files     []string          // its files, under the names it uses
	conffiles map[string]string // path to MD5, as dpkg's database has it
}

func newTree(w io.Writer) *tree {
	return &tree{out: tar.NewWriter(w), owner: map[string]*unpacked{}, dirs: map[string]bool{}}
}

// add unpacks one package file.
func (t *tree) add(ctx context.Context, p banger.Package, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	control, err := debian.Control(ctx, f, info.Size())
	if err != nil {
		return err
	}
	u, err := readControl(p, control)
	if err != nil {
		return err
	}
	data, err := debian.Data(ctx, f, info.Size())
	if err != nil {
		return err
	}
	for entries := tar.NewReader(data); ; {
		h, err := entries.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := t.entry(u, h, entries); err != nil {
			return fmt.Errorf("entry %.200q: %w", h.Name, err)
		}
	}
	t.all = append(t.all, u)
	return nil
}

// readControl reads a package's control archive.
func readControl(p banger.Package, r io.Reader) (*unpacked, error) {
	u := &unpacked{Package: p, members: map[string][]byte{}, conffiles: map[string]string{}}
	for entries := tar.NewReader(io.LimitReader(r, maxControl)); ; {
		h, err := entries.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("control archive: %w", err)
		}
		name := path.Clean(h.Name)
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if strings.Contains(name, "/") || len(u.members) == maxMembers {
			return nil, fmt.Errorf("control archive: member %.80q", h.Name)
		}
		if u.members[name], err = io.ReadAll(entries); err != nil {
			return nil, fmt.Errorf("control archive: %w", err)
		}
	}
	u.control = strings.TrimSpace(string(u.members["control"])) + "\n"
	delete(u.members, "control")
	u.fields = debian.Stanza(u.control)
	if u.fields["Package"] != p.Name || u.fields["Version"] != p.Version || strings.Contains(u.control, "\n\n") {
		return nil, fmt.Errorf("it is %.80q %.80q", u.fields["Package"], u.fields["Version"])
	}
	for line := range strings.Lines(string(u.members["conffiles"])) {
		// A line may begin with a flag: deb-conffiles(5).
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "/") {
			u.conffiles[line] = ""
		}
	}
	return u, nil
}

// entry puts one entry of a package into the tree.
func (t *tree) entry(u *unpacked, h *tar.Header, content io.Reader) error {
	name, err := inside(h.Name)
	if err != nil {
		return err
	}
	u.files = append(u.files, "/"+name)
	place := merged(name)
	if excluded(place) {
		return nil
	}
	if h.Typeflag == tar.TypeDir || name == "." {
		if t.dirs[place] {
			return nil
		}
		t.dirs[place] = true
		return t.write(h, place+"/", nil)
	}
	if isMerged(name) {
		return nil // links that base-files of Debian 13 has, and that we write, too
	}
	if old := t.owner[place]; old != nil && old != u {
		switch {
		case replaces(u, old):
			old.files = slices.DeleteFunc(old.files, func(f string) bool { return f == "/"+name })
		case replaces(old, u):
			return nil
		default:
			return fmt.Errorf("%s has this file, too, and neither package replaces the other", old.Name)
		}
	}
	t.owner[place] = u
	if h.Typeflag == tar.TypeLink {
		target, err := inside(h.Linkname)
		if err != nil {
			return err
		}
		h.Linkname = merged(target)
	}
	var sum hash.Hash
	if _, ok := u.conffiles["/"+name]; ok {
		sum = md5.New() // dpkg compares configuration files by MD5
		content = io.TeeReader(content, sum)
	}
	if err := t.write(h, place, content); err != nil {
		return err
	}
	if sum != nil {
		u.conffiles["/"+name] = hex.EncodeToString(sum.Sum(nil))
	}
	return nil
}

// write writes an entry under the given name. Owners are numbers: there is no
// /etc/passwd yet, and packages use only the ids that Debian fixes.
func (t *tree) write(h *tar.Header, name string, content io.Reader) error {
	h.Name, h.Format = name, tar.FormatPAX
	h.Uname, h.Gname = "", ""
	if err := t.out.WriteHeader(h); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg || content == nil {
		return nil
	}
	_, err := io.Copy(t.out, content)
	return err
}

// file writes a file that belongs to no package.
func (t *tree) file(name string, mode int64, data []byte) error {
	h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(data))}
	return t.write(h, name, bytes.NewReader(data))
}

func (t *tree) link(name, target string) error {
	return t.write(&tar.Header{Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: target}, name, nil)
}

// inside cleans a name. One that leads out of the root is an error.
func inside(name string) (string, error) {
	clean := path.Clean(strings.TrimPrefix(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") || strings.ContainsAny(clean, "\x00\n") {
		return "", errors.New("no name of a file in a package")
	}
	return clean, nil
}

// roots are the directories that are links into /usr (Debian's merged /usr).
var roots = []string{"bin", "sbin", "lib", "lib32", "lib64", "libo32", "libx32"}

func isMerged(name string) bool { return slices.Contains(roots, name) }

// merged returns a file's name with /usr merged.
func merged(name string) string {
	if top, _, _ := strings.Cut(name, "/"); isMerged(top) {
		return "usr/" + name
	}
	return name
}

// excludes is what dpkg leaves out, here and later in the image: manuals and translations
// are a third of an image and nobody reads them in a sandbox. Licences stay.
const excludes = `path-exclude=/usr/share/man/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
`

func excluded(name string) bool {
	for _, dir := range []string{"usr/share/man/", "usr/share/locale/"} {
		if strings.HasPrefix(name, dir) {
			return true
		}
	}
	doc, ok := strings.CutPrefix(name, "usr/share/doc/")
	// The directory of a licence stays, too.
	return ok && strings.Contains(doc, "/") && path.Base(doc) != "copyright"
}

// replaces reports whether one package may overwrite files of another.
func replaces(u, old *unpacked) bool {
	groups, err := relations(u.fields["Replaces"])
	c := candidate{Package: old.Package}
	return err == nil && slices.ContainsFunc(groups, func(g group) bool { return c.meets(g[0]) })
}

// Command dist makes a release: one tarball that is installed by unpacking it
// into a prefix such as ~/.local, and its checksum. With -docs it writes the
// references instead that are made from the code, which a test holds to it; with
// -record it records a session in a terminal, and with -picture draws the recording.
//
// It owns which files a release has and where. It knows nothing of what a command
// does. The same sources give the same bytes.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	version := flag.String("version", "unknown", "the release's version")
	out := flag.String("o", "release", "the directory it is written to")
	docs := flag.Bool("docs", false, "write the references that are made from the code, and end")
	svg := flag.Bool("picture", false, "draw "+recording+" as "+picture+" and end")
	cast := flag.Bool("record", false, "record a session in a terminal, with the banger in PATH, as "+recording+" and end")
	flag.Parse()
	do := func() error { return run(*version, *out) }
	switch {
	case *docs:
		do = writeReferences
	case *svg:
		do = writePicture
	case *cast:
		do = writeRecording
	}
	if err := do(); err != nil {
		fmt.Fprintln(os.Stderr, "dist:", err)
		os.Exit(1)
	}
}

func run(version, out string) error {
	stamp, err := commitTime()
	if err != nil {
		return err
	}
	files, err := contents(version, stamp)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	name := fmt.Sprintf("banger-%s-linux-amd64.tar.gz", version)
	var buf bytes.Buffer
	if err := pack(&buf, strings.TrimSuffix(name, ".tar.gz"), files, stamp); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, name), buf.Bytes(), 0o644); err != nil {
		return err
	}
	sums := fmt.Sprintf("%x  %s\n", sha256.Sum256(buf.Bytes()), name)
	fmt.Print(sums)
	return os.WriteFile(filepath.Join(out, "SHA256SUMS"), []byte(sums), 0o644)
}

// file is one of the release, by its path below the prefix.
type file struct {
	path string
	mode int64
	data []byte
}

// Manifest is where a release lists its own files: uninstalling goes by it.
const manifest = "share/doc/banger/MANIFEST"

func contents(version string, stamp time.Time) ([]file, error) {
	var files []file
	add := func(path string, mode int64, data []byte, err error) error {
		files = append(files, file{path, mode, data})
		return err
	}
	programs, err := build(version)
	if err != nil {
		return nil, err
	}
	files = append(files, programs...)
	pages, err := manuals(version, stamp)
	if err != nil {
		return nil, err
	}
	files = append(files, pages...)
	shells, err := completions()
	if err != nil {
		return nil, err
	}
	files = append(files, shells...)
	for from, to := range map[string]string{"README.md": "share/doc/banger/README.md", "LICENSE": "share/doc/banger/LICENSE",
		"ARCHITECTURE.md": "share/doc/banger/ARCHITECTURE.md", "api/openapi.json": "share/doc/banger/openapi.json",
		"dist/banger.service": "share/systemd/user/banger.service"} {
		data, err := os.ReadFile(from)
		if err := add(to, 0o644, data, err); err != nil {
			return nil, err
		}
	}
	err = filepath.WalkDir("docs", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		return add(path.Join("share/doc/banger", filepath.ToSlash(name)), 0o644, data, err)
	})
	if err != nil {
		return nil, err
	}
	var list strings.Builder
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.path, b.path) })
	for _, f := range files {
		_, _ = fmt.Fprintln(&list, f.path)
	}
	_, _ = fmt.Fprintln(&list, manifest)
	return append(files, file{manifest, 0o644, []byte(list.String())}), nil
}

// build makes the static programs.
func build(version string) ([]file, error) {
	dir, err := os.MkdirTemp("", "banger-dist")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -buildid= -X banger/version.Version="+version, "-o", dir+"/", "./cmd/...")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build: %w: %s", err, out)
	}
	var files []file
	for _, name := range []string{"banger", "bangerd", "banger-shim", "banger-jail", "banger-agent"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		files = append(files, file{"bin/" + name, 0o755, data})
	}
	return files, nil
}

// pack writes the tarball: files in order, owned by root, all of one time.
func pack(w io.Writer, top string, files []file, stamp time.Time) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	made := map[string]bool{}
	for _, f := range files {
		name := path.Join(top, f.path)
		var up []string
		for dir := path.Dir(name); dir != "." && !made[dir]; dir = path.Dir(dir) {
			made[dir] = true
			up = append(up, dir)
		}
		for _, dir := range slices.Backward(up) {
			if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: stamp}); err != nil {
				return err
			}
		}
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: f.mode, Size: int64(len(f.data)), ModTime: stamp}); err != nil {
			return err
		}
		if _, err := t.Write(f.data); err != nil {
			return err
		}
	}
	return errors.Join(t.Close(), z.Close())
}

// commitTime is that of SOURCE_DATE_EPOCH, else of the newest commit, else a
// fixed one.
func commitTime() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		out, err := exec.Command("git", "log", "-1", "--format=%ct").Output()
		if err != nil {
			return time.Unix(0, 0).UTC(), nil // a source tarball has no history
		}
		text = strings.TrimSpace(string(out))
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return time.Unix(n, 0).UTC(), err
}

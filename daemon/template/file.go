package template

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"banger/host/hostfs"
)

// file describes a file of a template as it was when it was made.
type file struct {
	Size    int64  `json:"size"`
	ModTime int64  `json:"mtime"` // nanoseconds since 1970
	Sum     uint32 `json:"crc32c"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// page, in bytes, is the unit of checksums: they skip holes and pages of zeros.
const page = 4096

// Whence of lseek(2) for the next data and the next hole.
const (
	seekData = 3
	seekHole = 4
)

// survey describes a file, with its checksum if full. Other users may be allowed to read
// the file, as a jail's user is, since they can't enter the store's directory.
func survey(path string, full bool) (file, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return file{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return file{}, err
	}
	if own, ok := st.Sys().(*syscall.Stat_t); !ok || int(own.Uid) != os.Getuid() || !st.Mode().IsRegular() || st.Mode().Perm()&0o022 != 0 {
		return file{}, fmt.Errorf("%s isn't a file of ours that nobody else can write to", path)
	}
	out := file{Size: st.Size(), ModTime: st.ModTime().UnixNano()}
	if full {
		out.Sum, err = sum(f, out.Size)
	}
	return out, err
}

// sum is a checksum against damage, not against attackers: who can write here can change
// the manifest, too. Guest memory is mostly holes, which aren't read.
func sum(f *os.File, size int64) (uint32, error) {
	buf, crc := make([]byte, 64*page), uint32(0)
	for at := int64(0); at < size; {
		data, err := f.Seek(at, seekData)
		if errors.Is(err, syscall.ENXIO) {
			break // a hole up to the end
		}
		if err != nil {
			return 0, err
		}
		hole, err := f.Seek(data, seekHole)
		if err != nil {
			return 0, err
		}
		for at = data - data%page; at < hole; {
			n, err := f.ReadAt(buf[:min(int64(len(buf)), size-at)], at)
			if err != nil && err != io.EOF {
				return 0, err
			}
			if n == 0 {
				return 0, io.ErrUnexpectedEOF
			}
			crc = sumPages(crc, buf[:n], at)
			at += int64(n)
		}
	}
	return crc, nil
}

var zeroPage [page]byte

func sumPages(crc uint32, b []byte, at int64) uint32 {
	for len(b) > 0 {
		one := b[:min(page, len(b))]
		if string(one) != string(zeroPage[:len(one)]) {
			crc = crc32.Update(crc, castagnoli, fmt.Appendf(nil, "%d:", at))
			crc = crc32.Update(crc, castagnoli, one)
		}
		b, at = b[len(one):], at+int64(len(one))
	}
	return crc
}

// surveyAll describes the files in a directory, and returns how many bytes they take on
// disk.
func surveyAll(dir string) (files map[string]file, bytes int64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, 0, err
	}
	files = map[string]file{}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return nil, 0, err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			bytes += st.Blocks * 512 // stat(2)
		}
		if files[e.Name()], err = survey(filepath.Join(dir, e.Name()), true); err != nil {
			return nil, 0, err
		}
	}
	return files, bytes, nil
}

// compare returns an error if the files of a template have changed since it was made. With
// full it reads them; else it only looks at their inodes.
func (s *Store) compare(m manifest, full bool) error {
	for name, was := range m.Files {
		if name != filepath.Base(name) {
			return fmt.Errorf("%q is no file of a template", name)
		}
		is, err := survey(filepath.Join(s.dir(m.ID), name), full)
		if err != nil {
			return err
		}
		if !full {
			was.Sum = 0
		}
		if is != was {
			return fmt.Errorf("%s isn't what it was when it was made", name)
		}
	}
	return nil
}

// writeManifest writes the manifest, and syncs it and the template's files.
func writeManifest(dir string, m manifest) error {
	raw, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, manifestName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(raw, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return hostfs.SyncDir(dir)
}

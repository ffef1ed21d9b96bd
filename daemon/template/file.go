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

	"banger/hostfs"
)

// file is what a file of a template was when it was made.
type file struct {
	Size    int64  `json:"size"`
	ModTime int64  `json:"mtime"` // nanoseconds since 1970
	Sum     uint32 `json:"crc32c"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// page is the unit of what is summed: holes, and pages of zeros, count for nothing.
const page = 4096

// Whence of lseek(2) for the next data and the next hole.
const (
	seekData = 3
	seekHole = 4
)

// survey describes a file: all of it when full, else without its sum. Others may have
// been let read it, as a jail's user has: the store's directory is closed to them.
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
		return file{}, fmt.Errorf("%s isn't a file that is ours and nobody else's to write", path)
	}
	out := file{Size: st.Size(), ModTime: st.ModTime().UnixNano()}
	if full {
		out.Sum, err = sum(f, out.Size)
	}
	return out, err
}

// sum is a checksum against damage: who can write here on purpose can also write
// what stands in the manifest. Guest memory is mostly holes, which aren't read.
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

// surveyAll describes the files in a directory and what they take on disk.
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

// compare reports as an error what of a template isn't as it was made. Full reads
// all of it; else only what a file's inode says is compared.
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

// writeManifest puts the manifest beside its files, and all of it on disk.
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

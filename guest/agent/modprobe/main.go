package modprobe

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Path is argv[0] of the program that answers the kernel. It stays as long as the machine runs.
const Path = "/run/initramfs/" + Name

// Main loads what modprobe(8) would, and returns its exit status. It is run by the kernel,
// and by programs that ask it who loads modules.
func Main(args []string) int {
	names, ok := Asked(args)
	if !ok {
		fmt.Fprintln(os.Stderr, "modprobe: this one of banger's only loads modules: install kmod for all else")
		return 1
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return 1
	}
	dir := "/lib/modules/" + unix.ByteSliceToString(uts.Release[:])
	tables, err := Read(os.DirFS(dir))
	for _, name := range names {
		var files []string
		if err == nil {
			files, err = tables.Load(name)
		}
		for _, file := range files {
			if err == nil {
				err = insert(filepath.Join(dir, file))
			}
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "modprobe:", err)
		return 1
	}
	return 0
}

func insert(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load %s: %w", file, err)
	}
	return nil
}

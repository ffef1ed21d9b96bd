package main

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"banger/host/hostfs"
)

// recipe is all that decides what the lab's image has in it, beside the archive.
//
//go:embed image
var recipe embed.FS

// baseImage returns the directory with disk.ext4, vmlinuz and initrd of the
// suite, and makes it, once for each recipe.
func baseImage(ctx context.Context, o options) (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, o.suite)
	err := fs.WalkDir(recipe, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := recipe.ReadFile(path)
		fmt.Fprintf(sum, "%s %d\n%s", path, len(data), data)
		return err
	})
	if err != nil {
		return "", err
	}
	dir := filepath.Join(o.cache, o.suite+"-"+hex.EncodeToString(sum.Sum(nil))[:12])
	unlock, err := lockFile(dir + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	fmt.Printf("Making the lab's %s, once, in %s\n", o.suite, dir)
	tmp, err := os.MkdirTemp(o.cache, "new-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	if err := build(ctx, o, tmp); err != nil {
		return "", err
	}
	return dir, os.Rename(tmp, dir)
}

func build(ctx context.Context, o options, dir string) error {
	if err := os.CopyFS(filepath.Join(dir, "recipe"), recipe); err != nil {
		return err
	}
	src := filepath.Join(dir, "recipe", "image")
	list, err := recipe.ReadFile("image/packages")
	if err != nil {
		return err
	}
	var packages []string
	for line := range strings.Lines(string(list)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			packages = append(packages, line)
		}
	}
	tar := filepath.Join(dir, "root.tar")
	args := []string{"--quiet", "--variant=apt", "--include=" + strings.Join(packages, ","), o.suite, tar}
	if o.mirror != "" {
		args = append(args, o.mirror)
	}
	if err := tool(ctx, dir, "mmdebstrap", args...); err != nil {
		return err
	}
	argv := []string{"sh", filepath.Join(src, "build"), src, tar}
	if os.Getuid() != 0 {
		argv = append([]string{"unshare", "--map-root-user", "--map-auto"}, argv...)
	}
	if err := tool(ctx, dir, argv[0], argv[1:]...); err != nil {
		return err
	}
	return os.Remove(tar)
}

// tool runs a program in a directory; its errors are shown.
func tool(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	// What is built for guests has no C library there.
	// mke2fs and its like are in sbin, which an ordinary user's PATH hasn't.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// lockFile waits for a lock that ends with the process.
func lockFile(path string) (unlock func(), err error) {
	f, err := hostfs.OpenLocked(context.Background(), path)
	return func() { _ = f.Close() }, err
}

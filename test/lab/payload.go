package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// payloadSize is that of the lab's second disk, sparse: tests write there.
const payloadSize = "12G"

// lab is one installation of the lab: its two disks and what is on them.
type lab struct {
	o    options
	base string // the image's directory
	dir  string // of this run

	plant string // the mistake in what is built for it, by its name in plants; "": none
}

func (l *lab) disk() string    { return filepath.Join(l.dir, "disk.ext4") }
func (l *lab) payload() string { return filepath.Join(l.dir, "payload.ext4") }

// prepare makes both disks: a copy of the image, and one with the programs, the
// compiled tests, their data, kernels and images for the guests.
func (l *lab) prepare(ctx context.Context, steps []step) error {
	stage := filepath.Join(l.dir, "stage")
	bin := filepath.Join(stage, "bin")
	for _, d := range []string{bin, filepath.Join(stage, "vmm"), filepath.Join(stage, "tmp"), filepath.Join(stage, "results"), filepath.Join(stage, "cache/banger-test")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	build := []string{"build", "-ldflags", "-s -w", "-o", bin + "/"}
	if l.plant != "" {
		flags, err := plants[l.plant].overlay(l.dir)
		if err != nil {
			return err
		}
		build = append(build, flags...)
	}
	if err := tool(ctx, ".", "go", append(build, "./cmd/...", "./test/bench", "./test/hostile")...); err != nil {
		return err
	}
	for _, name := range []string{"firecracker", "jailer"} {
		if path := program(l.o, name); path != "" {
			if err := tool(ctx, ".", "install", "-m755", path, filepath.Join(stage, "vmm", name)); err != nil {
				return err
			}
		}
	}
	if err := stageTests(ctx, stage, steps); err != nil {
		return err
	}
	if err := l.stageGuests(ctx, stage, bin, wantImage(steps)); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(stage, "job"), []byte(script(steps, l.o.deadline)), 0o755); err != nil {
		return err
	}
	if err := tool(ctx, ".", "cp", "--sparse=always", "--reflink=auto", filepath.Join(l.base, "disk.ext4"), l.disk()); err != nil {
		return err
	}
	if err := tool(ctx, ".", "mke2fs", "-q", "-t", "ext4", "-d", stage, l.payload(), payloadSize); err != nil {
		return err
	}
	return os.RemoveAll(stage)
}

// stageTests compiles the steps' packages into a tree like this one, with the
// files that tests read.
func stageTests(ctx context.Context, stage string, steps []step) error {
	packages := map[string]bool{"test/lab/inside": true}
	for _, s := range steps {
		packages[s.pkg] = true
	}
	for pkg := range packages {
		dst := filepath.Join(stage, "src", pkg)
		if err := os.MkdirAll(dst, 0o755); err != nil {
			return err
		}
		if err := tool(ctx, ".", "go", "test", "-c", "-ldflags", "-s -w", "-o", filepath.Join(dst, filepath.Base(pkg)+".test"), "./"+pkg); err != nil {
			return err
		}
		if err := copyDir(filepath.Join(pkg, "testdata"), filepath.Join(dst, "testdata")); err != nil {
			return err
		}
	}
	for _, d := range []string{"scripts", "docs"} {
		if err := copyDir(d, filepath.Join(stage, "src", d)); err != nil {
			return err
		}
	}
	// What is made from the list is older than a list just copied, and there is no
	// archive in the lab to make it again from.
	list := filepath.Join(stage, "src", defaultList)
	text, err := os.ReadFile(defaultList)
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Dir(list), 0o755), os.WriteFile(list, text, 0o644), os.Chtimes(list, time.Time{}, time.Unix(1, 0)))
	}
	return err
}

// defaultList is the list of packages that the tests' image is made of.
const defaultList = "image/bootstrap/minimal.list"

func copyDir(from, to string) error {
	if _, err := os.Stat(from); os.IsNotExist(err) {
		return nil
	}
	return os.CopyFS(to, os.DirFS(from))
}

// wantImage says whether a step runs the default image.
func wantImage(steps []step) bool {
	return slices.ContainsFunc(steps, func(s step) bool { return s.pkg == "test/vm" && !slices.Contains(s.args, "-busybox") })
}

// stageGuests puts a kernel, and the default image if it is wanted, where the
// tests look for them. Both are fetched by this host, once.
func (l *lab) stageGuests(ctx context.Context, stage, bin string, image bool) error {
	home := filepath.Join(l.o.cache, "host")
	kernels := filepath.Join(home, "data/banger/kernels")
	unlock, err := lockFile(filepath.Join(l.o.cache, "host.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	// This tree may want another format than the one there; what fits stays.
	if err := pullKernel(ctx, home, bin); err != nil {
		return err
	}
	tests := filepath.Join(stage, "cache/banger-test")
	if err := tool(ctx, ".", "cp", "-al", kernels, filepath.Join(tests, "kernels")); err != nil {
		return err
	}
	for _, room := range []string{"qemu", "script"} {
		if err := os.MkdirAll(filepath.Join(tests, room), 0o755); err != nil {
			return err
		}
		if err := os.Symlink("../kernels", filepath.Join(tests, room, "kernels")); err != nil {
			return err
		}
	}
	if !image {
		return nil
	}
	list, err := os.ReadFile(defaultList)
	if err != nil {
		return err
	}
	tar := filepath.Join(l.o.cache, fmt.Sprintf("debian-12-%.6x.tar", sha256.Sum256(list)))
	if _, err := os.Stat(tar); err != nil {
		if err := l.rootTar(ctx, tar); err != nil {
			return err
		}
	}
	return os.Link(tar, filepath.Join(tests, "debian-12.tar"))
}

func newer(a, b string) bool {
	x, err := os.Stat(a)
	y, errY := os.Stat(b)
	return err == nil && errY == nil && x.ModTime().After(y.ModTime())
}

// labKernel is the kernel of the lab's VMs, which have KVM; this host's may be another.
const labKernel = "debian-12-cloud"

// pullKernel has banger itself fetch that kernel, with directories of its own, and ends the
// daemon that this started.
func pullKernel(ctx context.Context, home, bin string) error {
	env := append(os.Environ(), "HOME="+home)
	for _, kind := range []string{"STATE", "DATA", "CACHE", "CONFIG"} {
		env = append(env, "XDG_"+kind+"_HOME="+filepath.Join(home, strings.ToLower(kind)))
	}
	for _, args := range [][]string{{"kernel", "pull", labKernel}, {"daemon", "stop"}} {
		cmd := exec.CommandContext(ctx, filepath.Join(bin, "banger"), args...)
		cmd.Env, cmd.Stdout, cmd.Stderr = env, os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("banger %s: %w", strings.Join(args, " "), err)
		}
	}
	return nil
}

// rootTar makes the default image's tar, or takes the one that the tests keep.
func (l *lab) rootTar(ctx context.Context, tar string) error {
	kept := filepath.Join(filepath.Dir(l.o.cache), "banger-test/debian-12.tar")
	next := tar + ".new"
	if err := os.Remove(next); err != nil && !os.IsNotExist(err) {
		return err
	}
	if newer(kept, defaultList) {
		if err := tool(ctx, ".", "cp", "--reflink=auto", kept, next); err != nil {
			return err
		}
		return os.Rename(next, tar)
	}
	out, err := os.OpenFile(next, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "scripts/image", defaultList, "bookworm")
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	if err := cmd.Run(); err != nil {
		_ = out.Close()
		return fmt.Errorf("scripts/image: %w", err)
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Rename(next, tar)
}

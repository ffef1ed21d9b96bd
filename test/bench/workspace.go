package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"banger"
)

// copies compares two ways to bring a tree of 50,000 files in a VM up to date after one was
// changed: `workspace prepare`, and rsync through the ssh that users have. Then it compares an
// export of one change with the guest's own git diff, whose index is fresh.
type copies struct{ *bench }

func (b *copies) run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "bench-workspace-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	repo, config := filepath.Join(dir, "repo"), filepath.Join(dir, "ssh")
	if err := manyFiles(repo); err != nil {
		return err
	}
	vm, err := b.client.VMs().CreateVM(ctx, banger.Spec{Name: "bench-workspace", Image: b.image}, true, nil)
	if err != nil {
		return err
	}
	defer func() { _ = b.client.VMs().DeleteVM(ctx, vm.ID) }()
	text, err := exec.Command(b.banger, "ssh-config").Output()
	if err = errors.Join(err, os.WriteFile(config, text, 0o600)); err != nil {
		return err
	}
	prepare := []string{b.banger, "workspace", "prepare", "-q", vm.ID, repo}
	rsync := []string{"rsync", "-a", "--delete", "-e", "ssh -F " + config, repo + "/", vm.Spec.Name + ".vm:/root/rsynced/"}
	export := []string{b.banger, "workspace", "export", "-q", "-o", filepath.Join(dir, "patch"), vm.ID}
	diff := []string{b.banger, "exec", vm.ID, "--", "git", "-C", "/root/repo", "diff"}
	for _, c := range [][]string{prepare, rsync} {
		first, err := took(c...)
		if err != nil {
			return err
		}
		print("the first time: "+filepath.Base(c[0]), []time.Duration{first})
	}
	change := func() error { return os.WriteFile(file(repo, 8), []byte(time.Now().String()), 0o644) }
	if err := b.compare(change, prepare, rsync, "prepare", "rsync"); err != nil {
		return err
	}
	if _, err := took(b.banger, "exec", vm.ID, "--", "sh", "-c", "cd /root/repo && git commit -qam all && echo x >>"+file(".", 7)+" && git status"); err != nil {
		return err
	}
	return b.compare(func() error { return nil }, export, diff, "export", "git diff there")
}

// compare runs two commands in turn, each time after a change.
func (b *copies) compare(change func() error, ours, floor []string, names ...string) error {
	var times [2][]time.Duration
	for range b.n {
		if err := change(); err != nil {
			return err
		}
		for i, c := range [][]string{ours, floor} {
			d, err := took(c...)
			if err != nil {
				return err
			}
			times[i] = append(times[i], d)
		}
	}
	print(names[0], times[0])
	print(names[1], times[1])
	fmt.Printf("ratio of medians: %.2f\n", float64(median(times[0]))/float64(median(times[1])))
	return nil
}

func file(repo string, i int) string { return fmt.Sprintf("%s/%d/%d/file-%d", repo, i%500, i%7, i) }

// manyFiles makes a repository of 50,000 small files.
func manyFiles(repo string) error {
	for i := range 50_000 {
		name := file(repo, i)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, bytes.Repeat(fmt.Appendln(nil, "line", i), 50), 0o644)); err != nil {
			return err
		}
	}
	_, err := took("sh", "-c", "cd '"+repo+"' && git init -q && git config user.name b && git config user.email b@localhost && git add -A && git commit -qm many")
	return err
}

// took runs a command and says how long it took.
func took(argv ...string) (time.Duration, error) {
	start := time.Now()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s", argv[0], err, bytes.TrimSpace(out))
	}
	return time.Since(start), nil
}

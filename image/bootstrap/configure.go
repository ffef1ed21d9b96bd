package bootstrap

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"io"
	"slices"
	"strings"

	"banger"
	"banger/guest"
)

// configureScript runs in the guest; its comments are in the file.
//
//go:embed configure.sh
var configureScript string

// exportCommand writes the guest's root as a tar. The guest's own tar keeps all that a
// package may have set, attributes and access control lists, too. Directories that the
// running guest changes are made anew: see live.
var exportCommand = []string{"tar", "--create", "--format=pax", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls",
	"--one-file-system", "--sort=name", "--exclude=./proc", "--exclude=./sys", "--exclude=./dev", "--exclude=./run", "--exclude=./tmp",
	"--directory=/", "."}

// machine is a guest in which packages are configured.
type machine struct {
	client guest.Client
	report func(stage, message string, done, total int64)
}

// configure configures the unpacked packages, as dpkg --configure does.
func (m machine) configure(ctx context.Context, packages []banger.Package) error {
	seen := &setups{report: func(name string, n int) {
		m.report("configure", name, int64(n), int64(len(packages)))
	}}
	m.report("configure", "", 0, int64(len(packages)))
	st, err := m.client.Exec(ctx, guest.ExecSpec{Argv: []string{"/bin/sh", "-c", configureScript, "configure"}, Dir: "/"}, guest.IO{Stdout: seen, Stderr: seen})
	switch {
	case err != nil:
		return err
	case st.Error != "":
		return fmt.Errorf("the guest's shell didn't start: %s", st.Error)
	case st.Code != 0:
		return fmt.Errorf("it ended with status %d; its last words:\n%s", st.Code, seen.last())
	}
	return nil
}

// mounts returns the guest's mount points without the leading slash. What is mounted
// there isn't part of the image.
func (m machine) mounts(ctx context.Context) ([]string, error) {
	var out bytes.Buffer
	st, err := m.client.Exec(ctx, guest.ExecSpec{Argv: []string{"cat", "/proc/self/mounts"}, Dir: "/"}, guest.IO{Stdout: &limited{&out, 1 << 20}})
	if err != nil || st.Code != 0 {
		return nil, fmt.Errorf("read the guest's mounts: %w (status %d)", err, st.Code)
	}
	var all []string
	for line := range strings.Lines(out.String()) {
		if f := strings.Fields(line); len(f) > 1 && len(f[1]) > 1 {
			all = append(all, f[1][1:])
		}
	}
	return all, nil
}

// export writes the guest's root to w.
func (m machine) export(ctx context.Context, w io.Writer) error {
	said := &setups{report: func(string, int) {}}
	st, err := m.client.Exec(ctx, guest.ExecSpec{Argv: exportCommand, Dir: "/"}, guest.IO{Stdout: w, Stderr: said})
	if err == nil && (st.Error != "" || st.Code != 0) {
		err = fmt.Errorf("tar in the guest ended with status %d: %s%s", st.Code, st.Error, said.last())
	}
	return err
}

// setups reads dpkg's output: it counts the packages that were set up, and keeps the end
// of the output.
type setups struct {
	report func(name string, n int)
	line   []byte
	tail   []string
	n      int
}

const tailLines, maxTailLine = 12, 300

func (s *setups) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			s.line = append(s.line, rest[:min(len(rest), maxTailLine-min(maxTailLine, len(s.line)))]...)
			break
		}
		s.line = append(s.line, rest[:min(i, maxTailLine)]...)
		s.end(string(s.line))
		s.line, rest = s.line[:0], rest[i+1:]
	}
	return len(p), nil
}

func (s *setups) end(line string) {
	if s.tail = append(s.tail, line); len(s.tail) > tailLines {
		s.tail = slices.Delete(s.tail, 0, 1)
	}
	if name, ok := strings.CutPrefix(line, "Setting up "); ok {
		s.n++
		name, _, _ = strings.Cut(name, " ")
		s.report(name, s.n)
	}
}

func (s *setups) last() string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && (r < ' ' || r >= 0x7f && r < 0xa0) {
			return '?'
		}
		return r
	}, strings.Join(append(s.tail, string(s.line)), "\n"))
}

// limited refuses more bytes than an honest guest would write.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, fmt.Errorf("the guest wrote too much")
	}
	return l.w.Write(p)
}

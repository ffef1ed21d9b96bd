package git

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"banger"
	"banger/host/xdg"
)

// Scratches is where throw-away repositories and packs are made. It is in the user's
// cache: /tmp is often memory, and a repository may be larger.
func Scratches() string {
	dirs, err := xdg.Of(os.Getenv)
	dir := filepath.Join(dirs.Cache, "packs")
	if err != nil || os.MkdirAll(dir, 0o700) != nil {
		return os.TempDir()
	}
	return dir
}

// Bare is a throw-away repository without files, for what comes from a guest. Its
// configuration is ours alone: neither a user's nor a repository's is read, so no program
// that they name runs. It sees the objects of the repository that it was made beside, and
// never writes there.
type Bare struct {
	Dir    string
	Format string // of object names
}

// settings of a Bare. Large files aren't kept in memory.
var settings = []string{"core.bigFileThreshold=16m", "core.attributesFile=/dev/null", "core.excludesFile=/dev/null", "core.quotePath=true", "pack.threads=1", "gc.auto=0", "core.hooksPath=/dev/null",
	"safe.directory=*", "merge.renames=true", "diff.renameLimit=2000", "core.fsmonitor=false"}

// NewBare makes one in a directory that exists, beside the objects of a repository.
// CodeUnavailable if git is too old to be trusted with it.
func NewBare(ctx context.Context, dir, format, objects string) (*Bare, error) {
	text, version, err := Version(ctx)
	if err != nil {
		return nil, banger.Errorf(banger.CodeUnavailable, "git is needed to take work from a VM: %w", err).WithHint("apt install git")
	}
	if slices.Compare(version[:], Oldest[:]) < 0 {
		return nil, banger.Errorf(banger.CodeUnavailable, "git is version %s; taking work from a VM needs %d.%d.%d or later", text, Oldest[0], Oldest[1], Oldest[2])
	}
	b := &Bare{Dir: dir, Format: format}
	if err := b.Call(ctx, Call{Args: []string{"init", "-q", "--bare", "--template=", "--object-format=" + b.Format, "-b", "banger"}}); err != nil {
		return nil, err
	}
	if strings.ContainsAny(objects, "\n\"") {
		return nil, banger.Errorf(banger.CodeInvalid, "the path %q can't be that of a repository whose work comes back", objects)
	}
	if err := os.MkdirAll(filepath.Join(dir, "objects/info"), 0o700); err != nil {
		return nil, err
	}
	return b, os.WriteFile(filepath.Join(dir, "objects/info/alternates"), []byte(objects+"\n"), 0o600)
}

// Call runs git in it.
func (b *Bare) Call(ctx context.Context, c Call) error {
	var all []string
	for _, s := range settings {
		all = append(all, "-c", s)
	}
	c.Args = append(all, c.Args...)
	c.Env = append([]string{"GIT_DIR=" + b.Dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_ATTR_NOSYSTEM=1"}, c.Env...)
	return call(ctx, b.Dir, len(all), c)
}

// MaxAnswer bounds what git may say in one Run, in bytes: a guest chose what is listed, and a
// pack of a few KiB can have paths of gigabytes.
const MaxAnswer = 512 << 20

// Run runs a git command in it and returns its output. CodeInvalid: it has more than MaxAnswer.
func (b *Bare) Run(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	var out answer
	err := b.Call(ctx, Call{Args: args, Stdin: stdin, Stdout: &out, Bounds: &Bounds{Memory: 3 << 30}})
	if out.over {
		return nil, banger.Errorf(banger.CodeInvalid, "the guest's work is refused: git lists more than %d MiB of it", MaxAnswer>>20)
	}
	return out.said.Bytes(), err
}

// answer keeps what git says, up to MaxAnswer.
type answer struct {
	said bytes.Buffer
	over bool
}

// Write implements io.Writer.
func (a *answer) Write(p []byte) (int, error) {
	if a.over = a.over || a.said.Len()+len(p) > MaxAnswer; a.over {
		return 0, io.ErrShortBuffer
	}
	return a.said.Write(p)
}

// Line is Run whose output is one line.
func (b *Bare) Line(ctx context.Context, args ...string) (string, error) {
	out, err := b.Run(ctx, nil, args...)
	return strings.TrimSuffix(string(out), "\n"), err
}

package workspace

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"banger"
)

// head is where a repository stands.
type head struct {
	commit string // "" before the first commit
	branch string // full name, "refs/heads/main"; "" when detached
}

// writeGit writes a .git that holds the newest commit, what is staged, and the
// address of origin. It is put together from objects and a few lines of our
// own: cloning would run the repository's idea of a server.
func (r *Repo) writeGit(ctx context.Context, t *tree, index []indexEntry) error {
	h, err := r.head(ctx)
	if err != nil {
		return err
	}
	tmp, remove, err := scratch(os.TempDir())
	if err != nil {
		return err
	}
	defer remove()
	if err := r.writePack(ctx, tmp, h, index); err != nil {
		return err
	}
	if err := r.writeIndex(ctx, tmp, index); err != nil {
		return err
	}
	for _, dir := range []string{"objects/info", "objects/pack", "refs/heads", "refs/tags"} {
		if err := t.directory(".git/" + dir); err != nil {
			return err
		}
	}
	small := map[string]string{".git/HEAD": "ref: " + h.branch + "\n", ".git/config": r.config(ctx)}
	if h.branch == "" {
		small[".git/HEAD"] = h.commit + "\n"
	} else if h.commit != "" {
		small[".git/"+h.branch] = h.commit + "\n"
	}
	if h.commit != "" {
		small[".git/shallow"] = h.commit + "\n" // its parents aren't here
	}
	for name, text := range small {
		if err := t.bytes(name, []byte(text)); err != nil {
			return err
		}
	}
	return t.copyMade(tmp)
}

// copyMade writes what git made in a directory of ours.
func (t *tree) copyMade(tmp string) error {
	made, err := os.ReadDir(tmp)
	if err != nil {
		return err
	}
	for _, m := range made {
		name := ".git/" + m.Name()
		if strings.HasPrefix(m.Name(), "pack-") {
			name = ".git/objects/pack/" + m.Name()
		}
		if err := t.copyFile(name, filepath.Join(tmp, m.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) copyFile(name, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := t.header(name, 0o644, info.Size(), "", t.now); err != nil {
		return err
	}
	_, err = io.CopyN(t.w, f, info.Size())
	return err
}

func (r *Repo) head(ctx context.Context) (head, error) {
	var h head
	out, err := r.git(ctx, nil, "symbolic-ref", "-q", "HEAD")
	if err != nil && !saidNo(err) {
		return h, err
	}
	h.branch = strings.TrimSpace(string(out))
	if h.branch != "" && (!strings.HasPrefix(h.branch, "refs/heads/") || checkPath(h.branch) != nil || strings.ContainsAny(h.branch, "\x00\n")) {
		return h, banger.Errorf(banger.CodeInvalid, "the repository's HEAD is %.100q, not a branch", h.branch)
	}
	if err := r.refuseBranchLinks(h.branch); h.branch != "" && err != nil {
		return h, err
	}
	out, err = r.git(ctx, nil, "rev-parse", "--verify", "-q", "HEAD^{commit}")
	if err != nil && !saidNo(err) {
		return h, err
	}
	h.commit = strings.TrimSpace(string(out))
	if h.commit == "" && h.branch == "" {
		return h, banger.Errorf(banger.CodeInvalid, "the repository's HEAD names neither a branch nor a commit")
	}
	return h, nil
}

// writePack packs the commit, its trees and files, and what is staged.
func (r *Repo) writePack(ctx context.Context, dir string, h head, index []indexEntry) error {
	var list []byte
	if h.commit != "" {
		out, err := r.git(ctx, nil, "rev-list", "--objects", "--no-object-names", "--max-count=1", h.commit)
		if err != nil {
			return unreadable(err)
		}
		list = out
	}
	for _, e := range index {
		if e.mode() != gitlink {
			list = append(append(list, e.object()...), '\n')
		}
	}
	if len(list) == 0 {
		return nil
	}
	// No search for new deltas: it costs more than the bytes it saves here.
	_, err := r.git(ctx, bytes.NewReader(list), "pack-objects", "-q", "--window=0", filepath.Join(dir, "pack"))
	return unreadable(err)
}

func unreadable(err error) error {
	if err == nil || banger.CodeOf(err) != banger.CodeInternal {
		return err
	}
	return banger.Errorf(banger.CodeInvalid, "the repository's newest commit can't be read: %w", err).
		WithHint("git fsck says what is missing; in a partial clone, git fetch --refetch gets it")
}

// writeIndex makes an index without the host's file times and numbers.
func (r *Repo) writeIndex(ctx context.Context, dir string, index []indexEntry) error {
	var all, unwanted bytes.Buffer
	for _, e := range index {
		fmt.Fprintf(&all, "%s\t%s\x00", e.info, e.path)
		if e.unwanted {
			unwanted.WriteString(e.path + "\x00")
		}
	}
	env := []string{"GIT_INDEX_FILE=" + filepath.Join(dir, "index")}
	if _, err := r.gitEnv(ctx, env, &all, "update-index", "-z", "--index-info"); err != nil {
		return err
	}
	if unwanted.Len() == 0 {
		return nil
	}
	_, err := r.gitEnv(ctx, env, &unwanted, "update-index", "-z", "--skip-worktree", "--stdin")
	return err
}

// config is all the configuration that travels.
func (r *Repo) config(ctx context.Context) string {
	text := "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n"
	if r.format != "sha1" {
		text = strings.Replace(text, "= 0", "= 1", 1) + "[extensions]\n\tobjectformat = " + r.format + "\n"
	}
	out, err := r.git(ctx, nil, "config", "--local", "--get", "remote.origin.url")
	address, ok := publicURL(strings.TrimSuffix(string(out), "\n"))
	if err != nil || !ok {
		return text // none, or none that would mean anything in a guest
	}
	return text + "[remote \"origin\"]\n\turl = \"" + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(address) +
		"\"\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n"
}

// publicURL returns an address without secrets: people keep tokens in it.
// Paths and helpers of this host are no address for a guest.
func publicURL(address string) (string, bool) {
	if strings.ContainsFunc(address, func(c rune) bool { return c < ' ' || c == 0x7F }) {
		return "", false
	}
	u, err := url.Parse(address)
	switch {
	case err == nil && (u.Scheme == "http" || u.Scheme == "https"):
		u.User, u.RawQuery, u.Fragment = nil, "", ""
		return u.String(), u.Host != ""
	case err == nil && (u.Scheme == "ssh" || u.Scheme == "git"):
		if u.User != nil {
			u.User = url.User(u.User.Username())
		}
		return u.String(), u.Host != ""
	}
	// git@host:path (gitglossary(7) calls it scp-like) can't hold a password.
	host, path, ok := strings.Cut(address, ":")
	return address, ok && host != "" && path != "" && !strings.Contains(host, "/") && !strings.HasPrefix(path, ":") && !strings.HasPrefix(host, "-")
}

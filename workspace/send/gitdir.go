package send

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
	"banger/host/hostfs"
	"banger/workspace/git"
)

// writeGit writes a .git with the newest commit, what is staged, and the address of
// origin. It copies objects and writes a few lines itself: git clone could run a
// program that the repository names.
func (r *Repo) writeGit(ctx context.Context, t *tree, index []indexEntry) error {
	h, err := r.newest(ctx)
	if err != nil {
		return err
	}
	tmp, remove, err := hostfs.Scratch(ctx, git.Scratches())
	if err != nil {
		return err
	}
	defer remove()
	commits, cut, err := r.history(ctx, h.Commit)
	if err != nil {
		return err
	}
	if err := r.writePack(ctx, tmp, commits, index); err != nil {
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
	small := map[string]string{".git/HEAD": "ref: " + h.Branch + "\n", ".git/config": r.config(ctx)}
	if h.Branch == "" {
		small[".git/HEAD"] = h.Commit + "\n"
	} else if h.Commit != "" {
		small[".git/"+h.Branch] = h.Commit + "\n"
	}
	if len(cut) > 0 {
		small[".git/shallow"] = strings.Join(cut, "\n") + "\n" // their parents aren't there
	}
	for name, text := range small {
		if err := t.bytes(name, []byte(text)); err != nil {
			return err
		}
	}
	return t.copyMade(tmp)
}

// copyMade writes the files that git made in the directory tmp.
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

// history lists the commits that go, and those of them whose parents don't.
func (r *Repo) history(ctx context.Context, head string) (commits, cut []string, err error) {
	if head == "" {
		return nil, nil, nil
	}
	gone := map[string]bool{} // a shallow repository's own
	for _, c := range r.git.Shallow(1 << 20) {
		gone[c] = true
	}
	if r.Depth < 0 {
		out, err := r.git.Run(ctx, nil, "rev-list", head)
		commits = strings.Fields(string(out))
		for _, c := range commits {
			if gone[c] {
				cut = append(cut, c)
			}
		}
		return commits, cut, unreadable(err)
	}
	parents, left := map[string][]string{}, max(1, r.Depth)
	for next := []string{head}; len(next) > 0 && len(parents) < maxHistory; {
		commits = append(commits, next...)
		out, err := r.git.Run(ctx, strings.NewReader(strings.Join(next, "\n")+"\n"), "rev-list", "--no-walk=unsorted", "--parents", "--stdin")
		if err != nil {
			return nil, nil, unreadable(err)
		}
		next = nil
		for line := range strings.Lines(string(out)) {
			f := strings.Fields(line)
			parents[f[0]] = f[1:]
		}
		if left--; left <= 0 {
			break
		}
		seen := map[string]bool{}
		for line := range strings.Lines(string(out)) {
			for _, p := range strings.Fields(line)[1:] {
				if _, had := parents[p]; !had && !seen[p] {
					seen[p] = true
					next = append(next, p)
				}
			}
		}
	}
	for _, c := range commits {
		lacks := gone[c]
		for _, p := range parents[c] {
			if _, goes := parents[p]; !goes {
				lacks = true
			}
		}
		if lacks {
			cut = append(cut, c)
		}
	}
	return commits, cut, nil
}

// maxHistory bounds the commits of a history that has an end.
const maxHistory = 100_000

// writePack packs commits, their trees and files, and what is staged.
func (r *Repo) writePack(ctx context.Context, dir string, commits []string, index []indexEntry) error {
	var list []byte
	if len(commits) > 0 {
		in := strings.NewReader(strings.Join(commits, "\n") + "\n")
		out, err := r.git.Run(ctx, in, "rev-list", "--objects", "--no-object-names", "--no-walk=unsorted", "--stdin")
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
	_, err := r.git.Run(ctx, bytes.NewReader(list), "pack-objects", "-q", "--window=0", filepath.Join(dir, "pack"))
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
	if _, err := r.git.RunEnv(ctx, env, &all, "update-index", "-z", "--index-info"); err != nil {
		return err
	}
	if unwanted.Len() == 0 {
		return nil
	}
	_, err := r.git.RunEnv(ctx, env, &unwanted, "update-index", "-z", "--skip-worktree", "--stdin")
	return err
}

// quoted is a value between quotes in a configuration (git-config(1)).
var quoted = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// config is the configuration that the guest gets.
func (r *Repo) config(ctx context.Context) string {
	text := "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n"
	if r.git.Format != "sha1" {
		text = strings.Replace(text, "= 0", "= 1", 1) + "[extensions]\n\tobjectformat = " + r.git.Format + "\n"
	}
	for _, key := range []string{"name", "email"} { // a commit in the guest needs an author
		out, err := r.git.Run(ctx, nil, "config", "--get", "user."+key)
		value := strings.TrimSuffix(string(out), "\n")
		if err != nil || value == "" || len(value) > 200 || strings.ContainsFunc(value, func(c rune) bool { return c < ' ' || c == 0x7F }) {
			continue
		}
		text += "[user]\n\t" + key + " = \"" + quoted.Replace(value) + "\"\n"
	}
	out, err := r.git.Run(ctx, nil, "config", "--local", "--get", "remote.origin.url")
	address, ok := publicURL(strings.TrimSuffix(string(out), "\n"))
	if err != nil || !ok {
		return text // no address, or none that works in a guest
	}
	return text + "[remote \"origin\"]\n\turl = \"" + quoted.Replace(address) +
		"\"\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n"
}

// publicURL returns an address without secrets, as people keep tokens in it. It is
// false for a path or a helper of this host, which doesn't exist in a guest.
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
	if strings.Contains(address, "://") {
		return "", false // of another kind, or none: it may hold a secret anywhere
	}
	// git@host:path (gitglossary(7) calls it scp-like) can't hold a password.
	host, path, ok := strings.Cut(address, ":")
	return address, ok && host != "" && path != "" && !strings.Contains(host, "/") && !strings.HasPrefix(path, ":") && !strings.HasPrefix(host, "-")
}

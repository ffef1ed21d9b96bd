package take

import (
	"context"
	"path"
	"strings"

	"banger/guest"
	"banger/workspace/git"
)

// Executes is a file that runs by itself, or has something run, once it is in a checkout or
// pushed. What runs only if somebody builds or tests isn't listed: that is anything.
type Executes struct {
	Path guest.Bytes `json:"path"`
	Why  string      `json:"why"`
}

// byName are patterns of paths, as path.Match has them, with why they are listed. One that
// ends with a slash is a directory anywhere; one without a slash is a name anywhere.
var byName = []struct{ pattern, why string }{
	{".github/workflows/", "CI runs it"}, {".github/actions/", "CI runs it"}, {".gitlab-ci.yml", "CI runs it"}, {".circleci/", "CI runs it"},
	{".forgejo/workflows/", "CI runs it"}, {".gitea/workflows/", "CI runs it"}, {".buildkite/", "CI runs it"}, {".woodpecker/", "CI runs it"},
	{".woodpecker.y*ml", "CI runs it"}, {".travis.yml", "CI runs it"}, {".drone.y*ml", "CI runs it"}, {"azure-pipelines*.y*ml", "CI runs it"}, {"bitbucket-pipelines.yml", "CI runs it"},
	{"Jenkinsfile", "CI runs it"}, {"appveyor.yml", "CI runs it"}, {".cirrus.yml", "CI runs it"},
	{".husky/", "git runs it as a hook"}, {".githooks/", "git may run it as a hook"}, {".pre-commit-config.yaml", "git runs it as a hook"}, {"*lefthook.y*ml", "git runs it as a hook"}, {".lintstagedrc*", "git runs it as a hook"},
	{".gitattributes", "git may run filters by it"}, {".gitmodules", "git fetches by it"}, {".lfsconfig", "git fetches by it"}, {".gitconfig", "git may run programs by it"},
	{".envrc", "a shell runs it (direnv)"}, {"mise.toml", "a shell runs it (mise)"}, {".mise.toml", "a shell runs it (mise)"}, {".mise/", "a shell runs it (mise)"}, {".tool-versions", "a shell chooses programs by it"}, {".autoenv*", "a shell runs it"},
	{".vscode/", "an editor runs its tasks"}, {".idea/", "an editor runs its tasks"}, {".zed/", "an editor runs its tasks"}, {".fleet/", "an editor runs its tasks"}, {"*.code-workspace", "an editor runs its tasks"},
	{".devcontainer/", "an editor runs it"}, {".devcontainer.json", "an editor runs it"}, {".exrc", "an editor runs it"}, {".nvimrc", "an editor runs it"}, {".nvim.lua", "an editor runs it"}, {".vimrc", "an editor runs it"}, {".dir-locals.el", "an editor runs it"},
	{".claude/", "an agent runs its hooks"}, {".cursor/", "an agent runs its hooks"}, {".gemini/", "an agent runs its hooks"}, {".codex/", "an agent runs its hooks"}, {".mcp.json", "an agent starts its servers"},
	{".gdbinit", "a debugger runs it"}, {".lldbinit", "a debugger runs it"}, {".npmrc", "npm reads it"}, {".yarnrc*", "yarn runs it"}, {".pypirc", "pip reads it"},
}

// why says why a path is listed; "": it isn't.
func why(name string) string {
	lower := strings.ToLower(name)
	for _, b := range byName {
		pattern := strings.ToLower(b.pattern)
		if dir, ok := strings.CutSuffix(pattern, "/"); ok {
			if strings.HasPrefix(lower, dir+"/") || strings.Contains(lower, "/"+dir+"/") {
				return b.why
			}
			continue
		}
		if ok, err := path.Match(pattern, path.Base(lower)); ok && err == nil {
			return b.why
		}
	}
	return ""
}

// maxLinks bounds how many symbolic links are read.
const maxLinks = 1000

// Executes lists what of some changes runs by itself: by its name, because it can be run
// and couldn't before, or because it is a link that leads out.
func (w *Work) Executes(ctx context.Context, changes []Change) (list []Executes, err error) {
	links := 0
	for _, c := range changes {
		switch reason := why(string(c.Path)); {
		case c.Status == "deleted":
		case reason != "":
			list = append(list, Executes{c.Path, reason})
		case c.NewMode == "100755" && c.OldMode != "100755":
			list = append(list, Executes{c.Path, "it can be run, and couldn't before"})
		case c.NewMode == "120000":
			if links++; links > maxLinks {
				list = append(list, Executes{c.Path, "one of so many links that they weren't looked at"})
				return list, nil
			}
			var to head
			if err := w.bare.Call(ctx, git.Call{Args: []string{"cat-file", "blob", c.object}, Stdout: &to}); err != nil {
				return nil, err
			}
			if leadsOut(string(c.Path), string(to)) {
				list = append(list, Executes{c.Path, "a link that leads out of the repository"})
			}
		}
	}
	return list, nil
}

// leadsOut reports whether a symbolic link leads out of the tree that it is in.
func leadsOut(at, to string) bool {
	if path.IsAbs(to) {
		return true
	}
	end := path.Join(path.Dir(at), to)
	return end == ".." || strings.HasPrefix(end, "../") || git.IsGit(end)
}

// head keeps the first 4 KiB of what is written to it.
type head []byte

func (h *head) Write(p []byte) (int, error) {
	*h = append(*h, p[:min(len(p), 4096-len(*h))]...)
	return len(p), nil
}

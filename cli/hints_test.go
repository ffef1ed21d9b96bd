package cli_test

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"banger/cli"
)

var (
	// quoted is a command to be typed, as hints and pages write it.
	quoted = regexp.MustCompile("`banger ([^`]+)`")
	// mentioned is one in a sentence.
	mentioned = regexp.MustCompile(`\bbanger ([a-z][a-z-]*(?: [a-z][a-z-]*)?)`)
	// verb is one of a text's formatted words, and placeholder a word in capitals or
	// brackets, for something that is to be filled in.
	verb = regexp.MustCompile(`%(\[\d+\])?[sdvq]`)
	// built is a command of the sources, which a release doesn't have.
	built = regexp.MustCompile(`\bmake (quickstart|build|unit|lab|docs|bench|dist|packages)\b`)
)

// find returns the command that words name, and what follows. ok is false where they
// name none.
func find(root *cobra.Command, words []string) (c *cobra.Command, rest []string, ok bool) {
	c = root
	for i, w := range words {
		next := (*cobra.Command)(nil)
		for _, sub := range c.Commands() {
			if sub.Name() == w || sub.HasAlias(w) {
				next = sub
			}
		}
		if next == nil {
			return c, words[i:], !c.HasSubCommands()
		}
		c = next
	}
	return c, nil, true
}

// typable says why a command line can't be typed as it stands, "" if it can.
func typable(line string) string {
	root, _ := cli.Command()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	line = verb.ReplaceAllString(line, "x")
	line, _, _ = strings.Cut(line, " | ")
	line, _, _ = strings.Cut(line, " > ")
	line, _, _ = strings.Cut(line, " # ")
	line = strings.NewReplacer("[", "", "]", "", "'", "", `"`, "").Replace(line)
	words := strings.Fields(line)
	if len(words) == 0 || strings.HasPrefix(words[0], "-") || words[0] == "COMMAND" {
		return ""
	}
	c, rest, ok := find(root, words)
	if !ok && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") && strings.ToUpper(rest[0]) != rest[0] {
		return "there is no command " + c.CommandPath() + " " + rest[0]
	}
	if _, none := errors.AsType[*pflag.NotExistError](c.ParseFlags(rest)); none { // what a flag is given may be left open
		err := c.ParseFlags(rest)
		return c.CommandPath() + ": " + err.Error()
	}
	return ""
}

// Commands that texts tell people to type are there, in a release too.
func TestHintsNameCommands(t *testing.T) {
	root, _ := cli.Command()
	seen := 0
	check := func(where, text string) {
		for _, m := range quoted.FindAllStringSubmatch(text, -1) {
			seen++
			if why := typable(m[1]); why != "" {
				t.Errorf("%s: `banger %s`: %s", where, m[1], why)
			}
		}
		for _, m := range mentioned.FindAllStringSubmatch(text, -1) {
			words := strings.Fields(m[1])
			if c, rest, ok := find(root, words); c != root && !ok && len(rest) > 0 && !strings.HasSuffix(words[0], "s") {
				t.Errorf("%s: %s has no %s: %s", where, c.CommandPath(), rest[0], text)
			}
		}
	}
	err := filepath.WalkDir("..", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, "../")
		switch {
		case e.IsDir() && (strings.HasPrefix(e.Name(), ".") && len(e.Name()) > 2 || name == "test" || name == "dist" || name == "bin" || name == "scripts"):
			return fs.SkipDir
		case strings.HasSuffix(path, ".md"):
			data, err := os.ReadFile(path)
			code := false
			for _, line := range strings.Split(string(data), "\n") {
				check(name, line)
				code = code != strings.HasPrefix(line, "```")
				if line = strings.TrimPrefix(line, "$ "); strings.HasPrefix(line, "banger ") && code && !strings.HasSuffix(line, "[flags]") {
					seen++
					line, _, _ = strings.Cut(line, "   ") // what follows says what it does
					if why := typable(strings.TrimPrefix(line, "banger ")); why != "" {
						t.Errorf("%s: %s: %s", name, line, why)
					}
				}
			}
			return err
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				text, _ := strconv.Unquote(lit.Value)
				check(name, text)
				if m := built.FindString(text); m != "" {
					t.Errorf("%s: a release has no %q: %s", name, m, text)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 100 {
		t.Errorf("only %d commands were found in texts", seen)
	}
}

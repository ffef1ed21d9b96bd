package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"banger/cli"
)

// command is the command line with the commands that cobra adds by itself.
func command() *cobra.Command {
	root, _ := cli.Command()
	root.DisableAutoGenTag = true
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	return root
}

// each calls f for a command and all below it, as they are listed.
func each(c *cobra.Command, f func(*cobra.Command) error) error {
	if !c.IsAvailableCommand() && c.HasParent() {
		return nil
	}
	if err := f(c); err != nil {
		return err
	}
	for _, sub := range c.Commands() {
		if err := each(sub, f); err != nil {
			return err
		}
	}
	return nil
}

// references are what is made from the code, by the files that hold it.
var references = map[string]func() ([]byte, error){
	"docs/reference/cli.md":  reference,
	"docs/reference/json.md": jsonReference,
	"api/openapi.json":       openAPI,
}

func writeReferences() error {
	for path, make := range references {
		text, err := make()
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// reference is docs/reference/cli.md.
func reference() ([]byte, error) {
	var out bytes.Buffer
	out.WriteString("# Command line\n\nMade from the commands themselves by `make docs`; a test fails when it is stale.\n\n")
	err := each(command(), func(c *cobra.Command) error {
		c.DisableAutoGenTag = true
		return doc.GenMarkdownCustom(c, &out, func(link string) string {
			return "#" + strings.ReplaceAll(strings.TrimSuffix(link, ".md"), "_", "-")
		})
	})
	return narrow(out.Bytes()), err
}

// flagLine is a line of help that begins with a flag; the flag is its first group.
var flagLine = regexp.MustCompile(`^( {2,6}(?:-\w, )?--\S+(?: \S+)? {2,})\S`)

// narrow breaks the lines that tell of flags as a terminal's help does.
func narrow(text []byte) []byte {
	const widest = 100
	var out bytes.Buffer
	for line := range strings.Lines(string(text)) {
		first := flagLine.FindStringSubmatch(line)
		for first != nil && utf8.RuneCountInString(line) > widest+1 {
			at := strings.LastIndexByte(line[:widest+1], ' ')
			if at <= len(first[1]) {
				break
			}
			out.WriteString(line[:at] + "\n")
			line = strings.Repeat(" ", len(first[1])) + line[at+1:]
		}
		out.WriteString(line)
	}
	return out.Bytes()
}

// manuals are the pages of section 1.
func manuals(version string, stamp time.Time) ([]file, error) {
	var files []file
	err := each(command(), func(c *cobra.Command) error {
		c.DisableAutoGenTag = true
		var page bytes.Buffer
		header := &doc.GenManHeader{Section: "1", Date: &stamp, Source: "banger " + version, Manual: "banger"}
		if err := doc.GenMan(c, header, &page); err != nil {
			return err
		}
		name := strings.ReplaceAll(c.CommandPath(), " ", "-")
		files = append(files, file{"share/man/man1/" + name + ".1", 0o644, page.Bytes()})
		return nil
	})
	return files, err
}

// completions are those of the shells, where each looks for them.
func completions() ([]file, error) {
	root := command()
	var bash, zsh, fish bytes.Buffer
	for shell, err := range map[string]error{"bash": root.GenBashCompletionV2(&bash, true), "zsh": root.GenZshCompletion(&zsh), "fish": root.GenFishCompletion(&fish, true)} {
		if err != nil {
			return nil, fmt.Errorf("completion for %s: %w", shell, err)
		}
	}
	return []file{
		{"share/bash-completion/completions/banger", 0o644, bash.Bytes()},
		{"share/zsh/site-functions/_banger", 0o644, zsh.Bytes()},
		{"share/fish/vendor_completions.d/banger.fish", 0o644, fish.Bytes()},
	}, nil
}

package banger_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	dropped = regexp.MustCompile("[^a-z0-9 _-]")
)

// wide are the pages with wide tables: those of the reference, of the lab, and those
// that say where each bound or wall is in the code.
var wide = regexp.MustCompile(`^(docs/(lab|reference)/.*|docs/(bounds|dependencies|isolation|jail)\.md|fetch/.*|[A-Z]+\.md)$`)

// Links between the pages lead somewhere, and the first page is short. Tables are narrow where
// users read them.
func TestPages(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".md" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if n := strings.Count(string(text), "\n"); path == "README.md" && n > 60 {
			t.Errorf("%s has %d lines, at most 60", path, n)
		}
		for i, part := range strings.Split(string(text), "```") {
			for line := range strings.Lines(part) {
				if i%2 == 1 && utf8.RuneCountInString(line) > 101 {
					t.Errorf("%s: what is shown as in a terminal has at most 100 columns: %s", path, line)
				}
			}
		}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "|") && utf8.RuneCountInString(line) > 101 && (path == "README.md" || !wide.MatchString(path)) {
				t.Errorf("%s: a table has at most 100 columns: %s", path, line)
			}
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			to, anchor, _ := strings.Cut(m[1], "#")
			page := path
			if to != "" {
				page = filepath.Join(filepath.Dir(path), to)
			}
			there, err := os.ReadFile(page)
			if info, serr := os.Stat(page); serr == nil && info.IsDir() {
				err = nil
			}
			if err != nil || anchor != "" && !hasAnchor(string(there), anchor) {
				t.Errorf("%s links to %s, which isn't there", path, m[1])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// hasAnchor reports whether a page has a heading that the anchor leads to.
func hasAnchor(page, anchor string) bool {
	for _, m := range heading.FindAllStringSubmatch(page, -1) {
		if strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-") == anchor {
			return true
		}
	}
	return false
}

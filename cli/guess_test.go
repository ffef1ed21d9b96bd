package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// holders are the commands that hold others, the root among them.
func holders(c *cobra.Command) (all []*cobra.Command) {
	if c.HasSubCommands() {
		all = append(all, c)
	}
	for _, sub := range c.Commands() {
		all = append(all, holders(sub)...)
	}
	return all
}

// mistypes are a word with a letter less, more, another, or two exchanged.
func mistypes(word string) (all []string) {
	for i := range word {
		all = append(all, word[:i]+word[i+1:])
		if i > 0 {
			all = append(all, word[:i-1]+word[i:i+1]+word[i-1:i]+word[i+1:])
		}
		for l := 'a'; l <= 'z'; l++ {
			all = append(all, word[:i]+string(l)+word[i+1:], word[:i]+string(l)+word[i:], word+string(l))
		}
	}
	return all
}

// A guess never ends or deletes anything, unless somebody typed a name of just that.
func TestGuessesAreHarmless(t *testing.T) {
	root, _ := Command()
	var words []string
	for _, h := range holders(root) {
		for _, c := range h.Commands() {
			for _, name := range append(slices.Clone(c.Aliases), c.Name()) {
				words = append(words, name, name[:1])
				words = append(words, mistypes(name)...)
			}
		}
	}
	words = append(words, strings.Fields(`pause unpause suspend freeze resume hibernate halt poweroff shutdown reboot reset save snapshot
		destroy remove erase wipe clean cleanup purge drop del down up new make get put set add use open close describe inspect info status top
		events history diff commit tag push pull login search build images volumes networks container machine instance node pod apply edit
		scale port proxy forward tunnel mount ssh scp sync backup export import load move mv clone fork copy find grep test check verify`)...)
	slices.Sort(words)
	guessed := 0
	for _, h := range holders(root) {
		for _, word := range slices.Compact(words) {
			c := meant(h, word)
			if c == nil {
				continue
			}
			guessed++
			if typed := c.Name() == word || c.HasAlias(word) || slices.Contains(c.SuggestFor, word); slices.Contains(ends, c.Name()) && !typed {
				t.Errorf("%s %s: did you mean `%s`?", h.CommandPath(), word, c.CommandPath())
			}
			if h != root && h.Name() != "vm" && c.Parent() != h {
				t.Errorf("%s %s: did you mean `%s`, of another noun?", h.CommandPath(), word, c.CommandPath())
			}
		}
	}
	if guessed < 1000 {
		t.Errorf("only %d words of %d were guessed", guessed, len(words))
	}
	for word, says := range otherWords {
		if c := meant(root, word); c != nil && c.Parent() == root && c.Name() == word {
			t.Errorf("%q is a command by now, and %q is said of it", word, says)
		}
	}
	for line, want := range map[string]string{"vm pause": "", "operation ls": "list", "vm lst": "list", "dcotor": "doctor", "vm exce": "exec", "image inspect": "show", "vm destroy": "delete", "vm delte": ""} {
		words := strings.Fields(line)
		h, _, _ := root.Find(words[:len(words)-1])
		got := ""
		if c := meant(h, words[len(words)-1]); c != nil {
			got = c.Name()
		}
		if got != want {
			t.Errorf("%s is guessed to be %q, want %q", line, got, want)
		}
	}
}

package banger_test

import (
	"slices"
	"strings"
	"testing"

	"banger"
)

func TestIDs(t *testing.T) {
	long := strings.Repeat("0f", 32)
	for s, want := range map[string][2]bool{
		"0123456789ab": {true, true}, long: {false, true}, "": {}, "0123456789AB": {}, "0123456789a": {}, long + "0": {},
		"../456789abc": {}, strings.Repeat("/", 64): {},
	} {
		if got := [2]bool{banger.IsID(s), banger.IsImageID(s)}; got != want {
			t.Errorf("%q: %v, want %v", s, got, want)
		}
	}
	if banger.ShortID(long) != "0f0f0f0f0f0f" || banger.ShortID("abc") != "abc" {
		t.Error(banger.ShortID(long), banger.ShortID("abc"))
	}
}

func TestNameOfImage(t *testing.T) {
	const short, long = "aaaaaaaaaaaa", "bbbbbbbbbbbbcc"
	for _, c := range []struct {
		id    string
		taken []string
		want  string
	}{
		{short, nil, short},
		{short, []string{short, short + "-2"}, short + "-3"},
		{long, nil, "bbbbbbbbbbbb"},
		{long, []string{"bbbbbbbbbbbb"}, "bbbbbbbbbbbbc"},
		{long, []string{"bbbbbbbbbbbb", "bbbbbbbbbbbbc", long}, long + "-2"},
	} {
		if got := banger.NameOfImage(c.id, func(n string) bool { return slices.Contains(c.taken, n) }); got != c.want {
			t.Errorf("%s beside %q: %q, want %q", c.id, c.taken, got, c.want)
		}
	}
}

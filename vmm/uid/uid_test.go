package uid

import (
	"fmt"
	"slices"
	"testing"
)

// Two VMs whose ids make the same choice have two user ids, each its own for good.
func TestUsersDontCollide(t *testing.T) {
	Taken = t.TempDir()
	var taken []int
	for _, dir := range []string{"/state/a", "/state/b", "/other/a"} {
		user, err := Take("a1", dir)
		if err != nil || slices.Contains(taken, user) {
			t.Fatalf("%s: %d, %v; taken are %d", dir, user, err, taken)
		}
		if again, err := Take("a1", dir); err != nil || again != user {
			t.Errorf("%s has %d and then %d, %v", dir, user, again, err)
		}
		if got := Of("a1", dir); got != user {
			t.Errorf("%s took %d and has %d", dir, user, got)
		}
		taken = append(taken, user)
	}
	if err := Free(taken[0], "/state/b"); err != nil {
		t.Error(err)
	}
	if got := Of("a1", "/state/a"); got != taken[0] {
		t.Errorf("another VM gave its id away: %d", got)
	}
	if err := Free(taken[0], "/state/a"); err != nil {
		t.Error(err)
	}
	if got := Of("a1", "/state/b"); got != taken[1] {
		t.Errorf("when one goes the other's changes from %d to %d", taken[1], got)
	}
	if user, err := Take("a1", "/state/c"); err != nil || user != taken[0] {
		t.Errorf("what is given back isn't taken again: %d, %v; want %d", user, err, taken[0])
	}
	for i := range tries { // /state/c has one of them
		if _, err := Take("a1", fmt.Sprint("/state/more", i)); err != nil {
			return
		}
	}
	t.Error("more were given than there are")
}

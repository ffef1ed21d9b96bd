package banger_test

import (
	"testing"
	"time"

	"banger"
)

func TestFindVM(t *testing.T) {
	young := time.Unix(2, 0)
	vms := []banger.VM{
		{ID: "aaaa00000001", Spec: banger.Spec{Name: "web"}, State: banger.Running},
		{ID: "aaaa00000002", Spec: banger.Spec{Name: "web"}, State: banger.Deleting},
		{ID: "bbbb00000001", Spec: banger.Spec{Name: "aaaa"}, State: banger.Stopped},
		{ID: "cccc00000001", Spec: banger.Spec{Name: "db"}, State: banger.Deleting},
		{ID: "cccc00000002", Spec: banger.Spec{Name: "db"}, State: banger.Deleting, Created: young},
	}
	for ref, want := range map[string]string{
		"web": "aaaa00000001", "aaaa00000002": "aaaa00000002", "aaaa": "bbbb00000001", "bbbb": "bbbb00000001",
		"db": "cccc00000002", "cccc00000001": "cccc00000001",
		"aaaa0": "conflict", "cccc": "conflict", "bbb": "not_found", "": "not_found", "dddd": "not_found",
	} {
		got, err := banger.FindVM(ref, func(yield func(*banger.VM) bool) {
			for i := range vms {
				if !yield(&vms[i]) {
					return
				}
			}
		})
		said := string(banger.CodeOf(err))
		if err == nil {
			said = got.ID
		}
		if said != want {
			t.Errorf("%q finds %s, want %s", ref, said, want)
		}
	}
}

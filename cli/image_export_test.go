package cli

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
)

// exporting writes an image, or half of one.
type exporting struct {
	banger.ImageService
	err error
}

func (e exporting) ExportImage(_ context.Context, _ banger.Export, w io.Writer, _ banger.Progress) error {
	_, err := io.WriteString(w, "an image")
	if e.err != nil {
		return e.err
	}
	return err
}

// An image is in its file when it is whole. Half of one leaves what was there.
func TestExport(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "image.tar")
	run := func(err error, to string) (int, string, string) {
		var out, errs strings.Builder
		status := Run(t.Context(), App{Services: banger.Parts{Image: exporting{err: err}}, In: strings.NewReader(""), Out: &out, Err: &errs}, []string{"image", "export", "x", to})
		return status, out.String(), errs.String()
	}
	if status, _, errs := run(nil, path); status != 0 {
		t.Errorf("%d: %s", status, errs)
	}
	if status, _, errs := run(banger.Errorf(banger.CodeUnavailable, "cut off"), path); status == 0 || !strings.Contains(errs, "cut off") {
		t.Errorf("half an image: %d: %s", status, errs)
	}
	if status, _, _ := run(nil, filepath.Join(dir, "none/x")); status == 0 {
		t.Error("a file in no directory")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "an image" {
		t.Errorf("%q, %v", got, err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
		t.Errorf("left: %v, %v", list, err)
	}
	if status, out, errs := run(nil, "-"); status != 0 || out != "an image" {
		t.Errorf("to standard output: %d, %q: %s", status, out, errs)
	}
	if status, _, errs := run(nil, "/dev/null"); status != 0 {
		t.Errorf("to /dev/null: %s", errs)
	}
}

package banger_test

import (
	"errors"
	"io"
	"io/fs"
	"testing"

	"banger"
)

func TestCausesStayReachable(t *testing.T) {
	one := banger.Errorf(banger.CodeNotFound, "no file: %w", fs.ErrNotExist)
	two := banger.Errorf(banger.CodeUnavailable, "%w: %w", io.EOF, fs.ErrNotExist).WithHint("look")
	none := banger.Errorf(banger.CodeInvalid, "bad")
	if !errors.Is(one, fs.ErrNotExist) || !errors.Is(two, io.EOF) || !errors.Is(two, fs.ErrNotExist) || errors.Unwrap(none) != nil {
		t.Errorf("%v, %v, %v", errors.Unwrap(one), errors.Unwrap(two), errors.Unwrap(none))
	}
	if banger.CodeOf(two) != banger.CodeUnavailable || two.Error() != "EOF: file does not exist" {
		t.Errorf("%s: %v", banger.CodeOf(two), two)
	}
}

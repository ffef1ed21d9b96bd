package diskfile

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"banger"
)

var _ banger.DiskReader = Disks{}

// Read implements banger.DiskReader.
func (d Disks) Read(_ context.Context, dir string) (io.ReaderAt, int64, func(), error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, 0, nil, fmt.Errorf("read disk: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, 0, nil, fmt.Errorf("read disk: %w", err)
	}
	return f, st.Size(), func() { _ = f.Close() }, nil
}

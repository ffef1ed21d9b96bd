package rootfs

import (
	"io"

	"github.com/ulikunitz/xz"
)

var xzMagic = []byte("\xfd7zXZ\x00")

func newXZReader(r io.Reader) (io.Reader, error) { return xz.NewReader(r) }

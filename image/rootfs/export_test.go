package rootfs

import (
	"context"
	"io"
	"os"

	"banger"
)

// WriteWithin is Write with another bound than MaxBytes.
func WriteWithin(ctx context.Context, stream io.Reader, out *os.File, p banger.Progress, maxBytes int64) (Stats, error) {
	return write(ctx, stream, out, p, Limits{Bytes: maxBytes}.whole())
}

// WriteAsking is Write that asks room whether to go on.
func WriteAsking(ctx context.Context, stream io.Reader, out *os.File, room func(*os.File) error) (Stats, error) {
	return write(ctx, stream, out, nil, limits{Limits{}.Of(), room})
}

// LeaveMiB is what Write leaves free.
const LeaveMiB = leaveMiB

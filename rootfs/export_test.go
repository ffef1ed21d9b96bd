package rootfs

// WriteWithin is Write with another bound than MaxBytes.
var WriteWithin = write

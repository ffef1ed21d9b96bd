package disktest

import (
	"io/fs"
	"syscall"
)

// blocks returns how many units of 512 bytes a file occupies (stat(2)).
func blocks(st fs.FileInfo) int64 { return st.Sys().(*syscall.Stat_t).Blocks }

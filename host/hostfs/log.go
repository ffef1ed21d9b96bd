package hostfs

import "os"

// Log is a file and its older half, named with ".1".
type Log struct {
	Path  string
	Limit int64 // bytes of both together are at most twice that
	f     *os.File
	size  int64
}

// Append appends. If the disk is full the bytes are lost: a log must not stop a console.
func (l *Log) Append(b []byte) {
	if len(b) == 0 {
		return
	}
	if l.f != nil && l.size+int64(len(b)) > l.Limit {
		l.Close()
		_ = os.Rename(l.Path, l.Path+".1")
	}
	if l.f == nil {
		f, err := os.OpenFile(l.Path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return
		}
		l.f = f
		if st, err := f.Stat(); err == nil {
			l.size = st.Size()
		}
	}
	n, _ := l.f.Write(b)
	l.size += int64(n)
}

// Close closes the file. Append opens it again.
func (l *Log) Close() {
	if l.f != nil {
		_ = l.f.Close()
		l.f = nil
	}
}

package machine

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
)

// File is a VMM's program as a file of the host.
type File struct {
	Path    string `json:"path"`
	Size    int64  `json:"size"`
	ModTime int64  `json:"mtime"` // nanoseconds since 1970
}

func stat(path string) (File, error) {
	st, err := os.Stat(path)
	if err != nil {
		return File{}, err
	}
	return File{path, st.Size(), st.ModTime().UnixNano()}, nil
}

// Answers caches what programs say about themselves, as asking takes starting them. An answer
// is valid as long as the file is the same.
type Answers[T any] struct {
	Dir, Name string // of the cache file; no Dir: only in memory

	mu   sync.Mutex
	last answer[T]
}

type answer[T any] struct {
	File File `json:"file"`
	Said T    `json:"said"`
}

// Of returns the answer of the program at path. It calls ask if there is none in the cache.
// Errors, and answers that aren't sure, aren't kept.
func (a *Answers[T]) Of(path string, ask func() (said T, sure bool, err error)) (f File, said T, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if f, err = stat(path); err != nil {
		return f, said, err
	}
	kept := filepath.Join(a.Dir, a.Name)
	if a.last.File != f && a.Dir != "" {
		var was answer[T]
		if data, err := os.ReadFile(kept); err == nil && json.Unmarshal(data, &was) == nil {
			a.last = was
		}
	}
	if a.last.File == f {
		return f, a.last.Said, nil
	}
	said, sure, err := ask()
	if err == nil && sure {
		a.last = answer[T]{f, said}
		if data, err := json.Marshal(a.last); err == nil && a.Dir != "" {
			_ = os.WriteFile(kept, data, 0o600) // without it we ask again; half a file doesn't parse
		}
	}
	return f, said, err
}

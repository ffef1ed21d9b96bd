package kernel

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"banger"
	"banger/fetch/debian"
	"banger/host/hostfs"
)

// Look is what is known of a kernel without asking the archive.
type Look struct {
	Have   banger.Kernel // the newest that is here; its zero value: none
	Newest string        // the package the archive had at the last look, with its version
	When   time.Time     // when the archive was last looked at, by a fetch of Have or later
	Behind bool          // the archive had a newer one
	// Current is the version of the release's own kernel at the last look, for a kernel that is
	// a program: Debian rebuilds those at point releases only. Older: Have is older than that.
	Current string
	Older   bool
}

// looked is the content of .newest-NAME, which every look at the archive writes.
type looked struct {
	Package string    `json:"package"`
	ID      string    `json:"id"` // the id that a kernel made of the package would have
	When    time.Time `json:"when"`
	Current string    `json:"current,omitempty"`
}

func (k *Kernels) noteFile(name string) string { return filepath.Join(k.Dir, ".newest-"+name) }

// note records which package the archive has.
func (k *Kernels) note(name string, p pkg) error {
	data, err := json.Marshal(looked{p.name + " " + p.version, p.id(name), k.now().UTC(), p.current})
	if err != nil {
		return err
	}
	return hostfs.Replace(k.noteFile(name), data, 0o644)
}

// Last returns what is known of the kernel of a name.
func (k *Kernels) Last(name string) (Look, error) {
	var l Look
	l.Have, _ = k.pulled(name)
	l.When = l.Have.Created
	data, err := os.ReadFile(k.noteFile(name))
	if errors.Is(err, os.ErrNotExist) {
		return l, nil
	}
	var n looked
	if err == nil {
		err = json.Unmarshal(data, &n)
	}
	if err != nil {
		return l, err
	}
	l.Newest = n.Package
	l.Current, _, _ = strings.Cut(n.Current, "-")
	l.Older = l.Have.ID != "" && l.Current != "" && debian.Compare(l.Have.Version, l.Current) < 0
	if n.When.After(l.When) { // else Have was fetched by that look
		l.When, l.Behind = n.When, l.Have.ID != "" && l.Have.ID != n.ID
	}
	return l, nil
}

// Notice lets somebody who reads a release's indexes for another purpose report the
// packages: call each for every one and then done, which records the newest kernel.
func (k *Kernels) Notice(release string) (each func(map[string]string) error, done func()) {
	found := candidates{}
	return found.from(""), func() {
		for name, from := range origins {
			have, _ := k.pulled(name)
			if p, err := found.newest(from); from.release == release && err == nil && have.ID != "" {
				_ = k.note(name, p) // on an error the next look records it
			}
		}
	}
}

package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// manifest is where an unpacked release lists its files, below its prefix.
const manifest = "share/doc/banger/MANIFEST"

// Remove implements cli.Daemon. It removes the directories first and the programs
// last, so that after an interruption it can be called again.
func (d *daemon) Remove(all bool) (removed, stays []string, err error) {
	made := d.dirs.Made()
	places := []string{d.dirs.Cache}
	kept := []string{d.dirs.Data, d.dirs.Config, d.dirs.State}
	if all {
		places = append(places, kept...)
	} else {
		stays = slices.DeleteFunc(kept, func(dir string) bool { return !exists(dir) })
	}
	for _, dir := range places {
		if !exists(dir) {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return removed, stays, err
		}
		removed = append(removed, dir)
	}
	if all {
		for _, dir := range made { // deepest first; one that isn't empty stays
			if os.Remove(dir) == nil {
				removed = append(removed, dir)
			}
		}
	}
	programs, err := removePrograms()
	removed = append(removed, programs...)
	if len(programs) == 0 && err == nil {
		if self, err := os.Executable(); err == nil {
			stays = append(stays, filepath.Dir(self)+" (not from a release: remove it the way it was installed)")
		}
	}
	return removed, stays, err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// removePrograms removes the files of the release that this program belongs to, as its
// manifest lists them, and the directories that are empty then.
func removePrograms() (removed []string, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return nil, err
	}
	prefix := filepath.Dir(filepath.Dir(self))
	data, err := os.ReadFile(filepath.Join(prefix, manifest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var dirs []string
	for name := range strings.Lines(string(data)) {
		name = strings.TrimSuffix(name, "\n")
		if !filepath.IsLocal(name) { // the list is a file that others may have written to
			continue
		}
		path := filepath.Join(prefix, name)
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, err
		}
		removed = append(removed, path)
		for dir := filepath.Dir(path); len(dir) >= len(prefix); dir = filepath.Dir(dir) {
			dirs = append(dirs, dir)
		}
	}
	slices.Sort(dirs)
	slices.Reverse(dirs) // deepest first: a directory sorts before what is in it
	for _, dir := range slices.Compact(dirs) {
		_ = os.Remove(dir) // refused unless it is empty
	}
	return removed, nil
}

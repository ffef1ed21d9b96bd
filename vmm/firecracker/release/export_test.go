package release

import "banger/fetch"

// Expect returns an installer that takes another archive for the release.
func (i Installer) Expect(b fetch.Blob) Installer {
	i.other = &b
	return i
}

package main

import (
	"context"
	"path/filepath"

	"banger/cli"
	"banger/vmm/firecracker/release"
)

// FetchFirecracker implements cli.Daemon. bangerd looks in the same place.
func (d *daemon) FetchFirecracker(ctx context.Context, mirror string) (cli.Fetched, error) {
	if d.unusable != nil {
		return cli.Fetched{}, d.unusable
	}
	if mirror == "" {
		mirror = d.firecrackerMirror
	}
	in, err := release.Installer{Dir: filepath.Join(d.dirs.Data, "firecracker"), Mirror: mirror}.Install(ctx)
	return cli.Fetched{Version: in.Version, Path: in.Firecracker}, err
}

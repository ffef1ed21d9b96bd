package main

import (
	"context"
	"path/filepath"

	"banger"
	"banger/cli"
	"banger/fetch/debian"
	"banger/vmm/firecracker/release"
	"banger/vmm/qemu/packaged"
)

// FetchFirecracker implements cli.Daemon. bangerd looks in the same place.
func (d *daemon) FetchFirecracker(ctx context.Context, mirror string) (cli.Fetched, error) {
	if d.unusable != nil {
		return cli.Fetched{}, d.unusable
	}
	if mirror == "" {
		mirror = d.conf.FirecrackerAt
	}
	in, err := release.Installer{Dir: filepath.Join(d.dirs.Data, "firecracker"), Mirror: mirror}.Install(ctx)
	return cli.Fetched{Version: in.Version, Path: in.Firecracker}, err
}

// FetchQEMU implements cli.Daemon. bangerd looks in the same place.
func (d *daemon) FetchQEMU(ctx context.Context, mirror string, p banger.Progress) (cli.Fetched, error) {
	if d.unusable != nil {
		return cli.Fetched{}, d.unusable
	}
	from := debian.Source{
		Mirror: d.conf.Mirror, Security: d.conf.Security,
		CacheDir: filepath.Join(d.dirs.Cache, "qemu"), SeenDir: filepath.Join(d.dirs.Data, "seen"),
	}
	if mirror != "" {
		from.Mirror = mirror
	}
	in, err := packaged.Installer{Dir: filepath.Join(d.dirs.Data, "qemu"), From: from}.Install(ctx, p)
	if err != nil {
		return cli.Fetched{}, err
	}
	return cli.Fetched{Version: in.Version, Path: in.Path()}, nil
}

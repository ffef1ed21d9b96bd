package main

import (
	"os"
	"path/filepath"

	"banger"
	"banger/disk/diskfile"
	"banger/disk/dmsnap"
	"banger/host/xdg"
)

// hostDisks returns the disk drivers that this daemon can use. Those that make devices
// need root. The base of dm-snapshot is beside the VMs, as it must be on their
// filesystem.
func hostDisks(dirs xdg.Dirs) (map[string]banger.Disks, []banger.KernelObjects) {
	files := diskfile.Disks{Dir: filepath.Join(dirs.Data, "disks")}
	drivers := map[string]banger.Disks{"file": files}
	if os.Getuid() != 0 {
		return drivers, nil
	}
	snapshots := &dmsnap.Disks{Base: files, Dir: filepath.Join(dirs.State, "disks"), Owner: dirs.State}
	drivers["dm-snapshot"] = snapshots
	return drivers, []banger.KernelObjects{snapshots}
}

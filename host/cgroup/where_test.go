package cgroup

import "testing"

func TestPlaces(t *testing.T) {
	const (
		v1     = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
		cpu    = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
		hybrid = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
		v2     = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
		part   = "29 23 0:26 /docker/1 /sys/fs/cgroup ro - cgroup cgroup rw,memory\n"
	)
	for _, c := range []struct{ what, mounts, groups, want string }{
		{"version 1", cpu + v1, "4:memory:/a/b\n0::/\n", "/sys/fs/cgroup/memory/a/b"},
		{"version 1, in its root", v1, "4:memory:/\n", "/sys/fs/cgroup/memory"},
		{"both, memory in version 1", hybrid + v1 + cpu, "0::/x\n4:cpu,memory:/a\n", "/sys/fs/cgroup/memory/a"},
		{"version 2", v2, "0::/user.slice/user-1000.slice/session-1.scope\n", "/sys/fs/cgroup/user.slice/user-1000.slice/session-1.scope"},
		{"a name with colons", v2, "0::/a:b\n", "/sys/fs/cgroup/a:b"},
		{"a part of it, as in a container", part, "4:memory:/docker/1/x\n", "/sys/fs/cgroup/x"},
		{"another part of it", part, "4:memory:/docker/10\n", ""},
		{"no memory controller", cpu, "3:cpu:/\n", ""},
		{"nothing", "", "", ""},
		{"noise", "- - -\n\n", "::\n:\n", ""},
	} {
		got := ""
		if at, ok := parseMounts(c.mounts); ok {
			if path, ok := at.pathIn(c.groups); ok {
				got = (Group{Dir: at.dir + path}).Dir
			}
		}
		if got != c.want && got != c.want+"/" {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

package dial

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"banger/guest/agent/account"
	"banger/guest/flow"
)

// maxPorts bounds the list of ports, so that an answer holds it.
const maxPorts = 1024

// Ports lists the guest's sockets that wait for others. A process in a network namespace of
// its own, as a container's, isn't seen.
func Ports() []flow.Port {
	owners := owners()
	list := []flow.Port{}
	for _, network := range []string{"tcp", "udp"} {
		for s := range sockets(network) {
			if len(list) == maxPorts {
				return list
			}
			p := flow.Port{Network: network, Address: s.at.Addr().String(), Port: s.at.Port(), PID: owners[s.inode]}
			if name, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/comm"); err == nil {
				p.Process = strings.TrimSpace(string(name))
			}
			if who, err := account.Lookup("", strconv.Itoa(int(s.uid))); err == nil {
				p.User = who.Name
			}
			list = append(list, p)
		}
	}
	slices.SortStableFunc(list, func(a, b flow.Port) int { return int(a.Port) - int(b.Port) })
	return list
}

// owners finds the process of each socket, by its inode; of several the oldest number.
func owners() map[uint64]int {
	of := map[uint64]int{}
	all, err := os.ReadDir("/proc")
	if err != nil {
		return of
	}
	for _, entry := range all {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		dir := "/proc/" + entry.Name() + "/fd"
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // it has ended, or is another's
		}
		for _, fd := range fds {
			to, err := os.Readlink(dir + "/" + fd.Name())
			if err != nil {
				continue
			}
			number, ok := strings.CutPrefix(to, "socket:[")
			if !ok {
				continue
			}
			inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64)
			if _, known := of[inode]; err == nil && !known {
				of[inode] = pid
			}
		}
	}
	return of
}

package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// systemd makes a group as a scope (systemd.scope(5)): a unit of processes that it
// hasn't started. It ends with them, and nothing of it is left.

const (
	systemSocket = "/run/systemd/private" // as systemctl(1) of root uses it; no message bus is needed
	lingerers    = "/var/lib/systemd/linger"
	scopeTimeout = 5 * time.Second
	scopePause   = time.Millisecond
)

// managerSocket returns where the systemd listens that makes groups for us, "" for
// none, and why, where it is one that could.
//
// A user's own manager ends with the user's last login, unless the user lingers, and
// what it made ends with it. A VM outlives a logout, so it gets a scope of that manager
// only where it would end with it anyway, or the manager doesn't end.
func managerSocket(own Group) (string, error) {
	if _, err := os.Stat("/run/systemd/system"); err != nil { // sd_booted(3)
		return "", nil
	}
	uid := os.Getuid()
	if uid == 0 {
		if _, err := os.Stat(systemSocket); err != nil {
			return "", nil
		}
		return systemSocket, nil
	}
	if own.v1 {
		return "", errors.New("with control groups of version 1 only root may make groups")
	}
	socket := fmt.Sprintf("/run/user/%d/systemd/private", uid)
	if _, err := os.Stat(socket); err != nil {
		return "", errors.New("there is no manager of systemd's for this user")
	}
	if strings.Contains(own.Dir+"/", fmt.Sprintf("/user@%d.service/", uid)) {
		return socket, nil
	}
	u, err := user.Current()
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(lingerers, u.Username)); err != nil {
		return "", errors.New("the group of a login isn't ours, and systemd's manager of this user would end VMs at the last logout")
	}
	return socket, nil
}

type property struct {
	Name  string
	Value dbus.Variant
}

type auxiliary struct {
	Name       string
	Properties []property
}

const manager = "org.freedesktop.systemd1.Manager."

// startScope has systemd make a scope of this process.
func startScope(ctx context.Context, socket, name string, bound int64) error {
	properties := []property{
		{"Description", dbus.MakeVariant("banger's virtual machine " + name)},
		{"PIDs", dbus.MakeVariant([]uint32{uint32(os.Getpid())})},
		{"MemoryMax", dbus.MakeVariant(uint64(bound))},
		{"MemorySwapMax", dbus.MakeVariant(uint64(bound))},
		// It is ours: where the kernel ends one of its processes, systemd leaves the others.
		{"Delegate", dbus.MakeVariant(true)},
		{"CollectMode", dbus.MakeVariant("inactive-or-failed")},
	}
	return order(ctx, socket, name, func(systemd dbus.BusObject) error {
		err := systemd.CallWithContext(ctx, manager+"StartTransientUnit", 0, name, "fail", properties, []auxiliary{}).Err
		if e, ok := errors.AsType[dbus.Error](err); ok && e.Name == "org.freedesktop.systemd1.UnitExists" {
			return errBusy // the last run's, which systemd hasn't seen end yet
		}
		return err
	})
}

// joinScope has it put this process into a scope that there is.
func joinScope(ctx context.Context, socket, name string) error {
	return order(ctx, socket, name, func(systemd dbus.BusObject) error {
		return systemd.CallWithContext(ctx, manager+"AttachProcessesToUnit", 0, name, "", []uint32{uint32(os.Getpid())}).Err
	})
}

var errBusy = errors.New("not yet")

// order asks systemd for something and returns when this process is in the scope.
func order(ctx context.Context, socket, name string, ask func(dbus.BusObject) error) error {
	ctx, cancel := context.WithTimeout(ctx, scopeTimeout)
	defer cancel()
	conn, err := dbus.Dial("unix:path="+socket, dbus.WithContext(ctx))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.Auth(nil); err != nil {
		return err
	}
	systemd := conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
	for {
		err := ask(systemd)
		if err == nil {
			break
		}
		if !errors.Is(err, errBusy) || !pause(ctx) {
			return fmt.Errorf("systemd: %w", err)
		}
	}
	for !within(name) {
		if !pause(ctx) {
			return fmt.Errorf("systemd hasn't made the scope %s: %w", name, ctx.Err())
		}
	}
	return nil
}

// within reports whether this process is in a group of that name.
func within(name string) bool {
	b, err := os.ReadFile("/proc/self/cgroup")
	return err == nil && strings.Contains(string(b), "/"+name+"\n")
}

func pause(ctx context.Context) bool {
	select {
	case <-time.After(scopePause):
		return true
	case <-ctx.Done():
		return false
	}
}

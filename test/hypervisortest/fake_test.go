package hypervisortest_test

import (
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"banger"
	"banger/test/fake"
	"banger/test/hypervisortest"
)

// The fake host must keep the same promises as real ones.
func TestFake(t *testing.T) {
	hypervisortest.Run(t, func(t *testing.T) hypervisortest.Bed {
		h := fake.NewHost()
		var spoiled atomic.Bool
		life := h.Live(func(point string) fake.Fate {
			if point == "after start vmm" && spoiled.Load() {
				return fake.Fail
			}
			return fake.Live
		})
		return hypervisortest.Bed{
			Hypervisor: life.Hypervisor(), Host: host{h}, Spoil: func() { spoiled.Store(true) },
			Machine: banger.Machine{ID: "a1", Dir: t.TempDir(), RAMDir: t.TempDir(), VCPU: 1, MemoryMiB: 256},
		}
	})
}

func TestFakeTemplates(t *testing.T) {
	hypervisortest.RunTemplates(t, func(t *testing.T) hypervisortest.TemplateBed {
		h := fake.NewHost()
		life := h.Live(func(string) fake.Fate { return fake.Live })
		ids := 0
		another := func(t *testing.T) banger.Machine {
			ids++
			return banger.Machine{ID: "a" + strconv.Itoa(ids), Dir: t.TempDir(), RAMDir: t.TempDir(), VCPU: 1, MemoryMiB: 256}
		}
		return hypervisortest.TemplateBed{
			Bed:     hypervisortest.Bed{Hypervisor: life.Hypervisor(), Host: host{h}, Machine: another(t)},
			Another: another,
		}
	})
}

type host struct{ *fake.Host }

func (h host) Alive(p banger.Process) bool { return h.Is(p) }

func (h host) Kill(t *testing.T, p banger.Process) {
	t.Helper()
	if strings.Contains(h.String(), "process "+strconv.Itoa(p.PID)+" started "+strconv.Itoa(int(p.StartTime))+": vmm a1\n") {
		h.EndGuest("a1", banger.Exit{Kind: banger.ExitUnknown, Status: -1})
		return
	}
	h.Shoot(p.PID)
}

func (h host) Bystander(_ *testing.T, _ banger.Machine) banger.Process {
	p := banger.Process{PID: h.Stranger("qemu -name banger-a1"), BootID: h.BootID()}
	for !h.Is(p) {
		p.StartTime++
	}
	return p
}

func (h host) Held(_ *testing.T, m banger.Machine) []string {
	return slices.Clone(h.Owned()[m.ID])
}

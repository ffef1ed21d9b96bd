package qemu_test

import (
	"errors"
	"io/fs"
	"testing"

	"banger"
	"banger/test/hypervisortest"
)

func TestTemplateContract(t *testing.T) {
	hypervisortest.RunTemplates(t, func(t *testing.T) hypervisortest.TemplateBed {
		d, _ := newDriver(t)
		m := newMachine(t)
		killLater(t, d, m)
		return hypervisortest.TemplateBed{
			Bed: hypervisortest.Bed{Hypervisor: d, Machine: m, Host: host{}},
			Another: func(t *testing.T) banger.Machine {
				m := newMachine(t)
				killLater(t, d, m)
				return m
			},
		}
	})
}

func TestKindWithoutKernel(t *testing.T) {
	d, _ := newDriver(t)
	m := newMachine(t)
	m.Kernel = "/no-such-kernel"
	if k, err := d.Kind(t.Context(), m); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the kind of a machine without a kernel is %q, %v", k, err)
	}
}

package qemu_test

import (
	"testing"

	"banger"
	"banger/hypervisortest"
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

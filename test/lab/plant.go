package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// plant is a mistake in what is built for the lab alone, which a step is to find by
// cuts right after the operation op, before the kernel writes by itself.
type plant struct{ op, file, right, wrong string }

// plants are missing flushes, each of another kind of file.
var plants = map[string]plant{
	"records": {"create", "daemon/sqlite/sqlite.go", `s := &Store{sync: "NORMAL", full: "FULL"}`, `s := &Store{sync: "OFF", full: "OFF"}`},
	"images":  {"import", "image/rootfs/store.go", "errors.Join(f.Chmod(0o400), f.Sync())", "f.Chmod(0o400)"},
	"guests":  {"sync", "vmm/qemu/command.go", "cache.no-flush=off", "cache.no-flush=on"},
}

// put returns the file of this tree with the mistake in it.
func (p plant) put(tree string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(tree, p.file))
	if err != nil {
		return nil, err
	}
	if n := strings.Count(string(text), p.right); n != 1 {
		return nil, fmt.Errorf("%s has %d places with %q for a mistake, want one", p.file, n, p.right)
	}
	return []byte(strings.Replace(string(text), p.right, p.wrong, 1)), nil
}

// overlay returns the arguments that have go build take the file with the mistake.
func (p plant) overlay(dir string) ([]string, error) {
	text, err := p.put(".")
	if err != nil {
		return nil, err
	}
	here, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	planted, list := filepath.Join(dir, "planted.go"), filepath.Join(dir, "overlay.json")
	data, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(here, p.file): planted}})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(planted, text, 0o600); err != nil {
		return nil, err
	}
	return []string{"-overlay", list}, os.WriteFile(list, data, 0o600)
}

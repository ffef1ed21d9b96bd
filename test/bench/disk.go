package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"time"

	"banger"
)

// disk compares making VMs, not started, with disks of 1 and of 64 GiB.
func (b *bench) disk(ctx context.Context) error {
	took := map[int][]time.Duration{}
	for range b.n {
		for _, gib := range []int{1, 64} {
			start := time.Now()
			vm, err := b.client.VMs().CreateVM(ctx, banger.Spec{DiskMiB: gib << 10}, false, nil)
			if err != nil {
				return err
			}
			took[gib] = append(took[gib], time.Since(start))
			if err := b.client.VMs().DeleteVM(ctx, vm.ID); err != nil {
				return err
			}
		}
	}
	print("create a VM with a disk of 1 GiB", took[1])
	print("create a VM with a disk of 64 GiB", took[64])
	fmt.Printf("ratio of medians: %.2f\n", float64(median(took[64]))/float64(median(took[1])))
	return nil
}

// memory prints what the daemon holds after all of the above.
func (b *bench) memory(context.Context) error {
	out, err := exec.Command(b.banger, "daemon", "status", "--json").Output()
	if err != nil {
		return err
	}
	var status struct {
		Results []struct {
			PID int `json:"pid"`
		} `json:"results"`
	}
	if err := json.Unmarshal(out, &status); err != nil || len(status.Results) != 1 {
		return fmt.Errorf("banger daemon status says %s: %v", out, err)
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", status.Results[0].PID))
	if err != nil {
		return err
	}
	for line := range bytes.Lines(data) {
		for _, key := range []string{"Rss:", "Pss:", "Private_Dirty:"} {
			if bytes.HasPrefix(line, []byte(key)) {
				fmt.Printf("%s", line)
			}
		}
	}
	return nil
}

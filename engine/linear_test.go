package engine_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"banger"
)

// request and response are one call as the sequential model knows it. Calls on
// different names don't touch each other, so each name has a history of its own.
type (
	request  struct{ verb, name string }
	response struct {
		code  banger.Code
		state banger.State // of a "get"; empty: in the middle of something
		vcpu  int
	}
	modelled struct {
		state banger.State // Gone, Stopped or Running
		vcpu  int
	}
)

// sequential says what each call does when calls come one after the other.
var sequential = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byName := map[string][]porcupine.Operation{}
		for _, op := range history {
			name := op.Input.(request).name
			byName[name] = append(byName[name], op)
		}
		var parts [][]porcupine.Operation
		for _, part := range byName {
			parts = append(parts, part)
		}
		return parts
	},
	Init:              func() any { return modelled{} },
	Step:              func(state, in, out any) (bool, any) { return step(state.(modelled), in.(request).verb, out.(response)) },
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v -> %+v", in, out) },
}

func step(s modelled, verb string, out response) (bool, any) {
	exists := s.state != banger.Gone
	to := func(state banger.State) (bool, any) { return exists, modelled{state, s.vcpu} }
	if out.code == banger.CodeNotFound {
		return !exists, s
	}
	switch verb {
	case "get":
		return out.state == "" || s == modelled{out.state, out.vcpu}, s
	case "create":
		if out.code == banger.CodeConflict {
			return exists, s
		}
		// One that was given up had the name, and lost it by a deletion.
		return !exists && (out.code == "" || out.code == banger.CodeCanceled), modelled{banger.Stopped, 1}
	case "start":
		if out.code != "" { // cut short by a deletion or a kill
			return s.state == banger.Stopped, s
		}
		return to(banger.Running)
	case "restart":
		if out.code != "" {
			return to(banger.Stopped)
		}
		return to(banger.Running)
	case "stop":
		ok, next := to(banger.Stopped)
		return ok && out.code == "", next
	case "kill":
		if out.code == banger.CodeNotRunning {
			return true, s // in the middle of a restart, too, which is one step here
		}
		ok, next := to(banger.Stopped)
		return ok && out.code == "", next
	case "set":
		return exists && out.code == "", modelled{s.state, out.vcpu}
	case "delete":
		return out.code == "", modelled{}
	case "prune":
		if out.code == banger.CodeConflict {
			return s.state == banger.Running, s
		}
		return s.state == banger.Stopped && out.code == "", modelled{}
	}
	return false, s
}

var calls = []string{"get", "get", "get", "create", "create", "start", "start", "restart", "stop", "kill", "set", "delete", "prune"}

// call makes one call and says what came of it.
func call(d *daemon, req request, rnd *rand.Rand) response {
	ctx := context.Background()
	var vm banger.VM
	var err error
	switch req.verb {
	case "get":
		vm, err = d.VM(ctx, req.name)
	case "create":
		_, err = d.CreateVM(ctx, banger.Spec{Name: req.name}, false, nil)
	case "start":
		_, err = d.StartVM(ctx, req.name, nil)
	case "restart":
		_, err = d.RestartVM(ctx, req.name, banger.StopOptions{}, nil)
	case "stop":
		_, err = d.StopVM(ctx, req.name, banger.StopOptions{Force: rnd.IntN(2) == 0})
	case "kill":
		_, err = d.KillVM(ctx, req.name, "KILL")
	case "set":
		vm.Spec.VCPU = 1 + rnd.IntN(8)
		_, err = d.SetVM(ctx, req.name, banger.Change{VCPU: vm.Spec.VCPU})
	case "delete":
		err = d.DeleteVM(ctx, req.name)
	case "prune":
		err = d.PruneVM(ctx, req.name)
	}
	out := response{code: banger.CodeOf(err), vcpu: vm.Spec.VCPU}
	restarting := vm.Exit != nil && vm.Exit.Kind == banger.ExitReboot
	if (vm.State == banger.Stopped || vm.State == banger.Running) && !restarting {
		out.state = vm.State
	}
	return out
}

// Whatever many clients do at once, what they are told is what they would have
// been told one after the other.
func TestLinearizable(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	total := 0
	for round := range 30 {
		w := newWorld(t)
		d := w.open(nil)
		var mu sync.Mutex
		var history []porcupine.Operation
		var wg sync.WaitGroup
		begin := time.Now()
		for client := range 6 {
			rnd := rand.New(rand.NewPCG(seed, uint64(round*100+client)))
			wg.Go(func() {
				for range 25 {
					req := request{calls[rnd.IntN(len(calls))], fmt.Sprintf("vm-%d", rnd.IntN(2))}
					from := time.Since(begin)
					out := call(d, req, rnd)
					op := porcupine.Operation{ClientId: client, Input: req, Call: int64(from), Output: out, Return: int64(time.Since(begin))}
					mu.Lock()
					history = append(history, op)
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		d.kill()
		total += len(history)
		for _, part := range sequential.Partition(history) {
			if got := porcupine.CheckOperationsTimeout(sequential, part, time.Minute); got != porcupine.Ok {
				slices.SortFunc(part, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
				for _, op := range part {
					t.Logf("%d: %d–%d %+v -> %+v", op.ClientId, op.Call, op.Return, op.Input, op.Output)
				}
				t.Fatalf("round %d of seed %d: %s", round, seed, got)
			}
		}
	}
	t.Logf("%d calls", total)
}

// The test of the test: histories that can't be are refused.
func TestModelRefuses(t *testing.T) {
	at := int64(0)
	op := func(verb string, out response) porcupine.Operation {
		at += 10
		return porcupine.Operation{Input: request{verb, "it"}, Output: out, Call: at, Return: at + 5}
	}
	for name, history := range map[string][]porcupine.Operation{
		"a read of the past":       {op("create", response{}), op("start", response{}), op("get", response{state: banger.Stopped, vcpu: 1})},
		"an acknowledged VM lost":  {op("create", response{}), op("get", response{code: banger.CodeNotFound})},
		"two of one name":          {op("create", response{}), op("create", response{})},
		"a change lost":            {op("create", response{}), op("set", response{vcpu: 4}), op("get", response{state: banger.Stopped, vcpu: 1})},
		"a running VM pruned":      {op("create", response{}), op("start", response{}), op("prune", response{})},
		"a deleted VM still there": {op("create", response{}), op("delete", response{}), op("stop", response{})},
	} {
		if porcupine.CheckOperations(sequential, history) {
			t.Errorf("%s was believed", name)
		}
	}
}

package engine_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"banger"
	"banger/test/fake"
)

// request and response are one call as the sequential model knows it. Calls on
// different names don't touch each other, so each name has a history of its own.
type (
	request struct {
		verb, name string
		id         int // of a creation, and of the taking back of it; at most 63 in a history
	}
	response struct {
		code  banger.Code
		lost  bool         // nobody heard it: the daemon died, or was ended
		state banger.State // of a "get"; empty: in the middle of something
		vcpu  int
		said  string // for who reads a history
	}
	modelled struct {
		state banger.State // Gone, Stopped or Running
		vcpu  int
		by    int    // the creation it is from
		begun uint64 // creations that there were, a bit each
		cut   bool   // a deletion that was given up may have cut a start short
		shot  bool   // a kill that was given up may end the run at any time
	}
)

// sequential says what each call does when calls come one after the other. What
// was canceled, or whose answer was lost, may have come to more than one end.
var sequential = nondeterministic.ToModel()

var nondeterministic = porcupine.NondeterministicModel{
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
	Init: func() []any { return []any{modelled{}} },
	Step: func(state, in, out any) (next []any) {
		before := []modelled{state.(modelled)}
		if ended := before[0]; ended.shot {
			ended.state, ended.shot = banger.Stopped, false
			before = append(before, ended)
		}
		for _, s := range before {
			for _, s := range step(s, in.(request), out.(response)) {
				next = append(next, s)
			}
		}
		return next
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v -> %+v", in, out) },
}

// step returns what may be after a call; nothing: the answer can't be.
func step(s modelled, req request, out response) []modelled {
	exists := s.state != banger.Gone
	to := func(state banger.State) modelled {
		next := s
		if next.state = state; state == banger.Gone {
			next = modelled{begun: s.begun}
		}
		next.shot = s.shot && state == banger.Running
		return next
	}
	switch req.verb {
	case "create":
		return created(s, req, out, exists)
	case "take back": // what is left of a creation that failed, canceled or lost
		switch {
		case s.begun&(1<<req.id) == 0:
			return nil
		case s.by != req.id || !exists:
			return []modelled{s}
		case out.lost:
			return []modelled{s, to(banger.Gone)}
		}
		return []modelled{to(banger.Gone)}
	}
	if out.lost || out.code == banger.CodeCanceled {
		return interrupted(s, req, out, to)
	}
	if out.code == banger.CodeNotFound {
		return only(!exists, s)
	}
	switch req.verb {
	case "get":
		return only(out.state == "" || s.state == out.state && s.vcpu == out.vcpu, s)
	case "start":
		if out.code != "" { // cut short by a kill
			return only(s.state == banger.Stopped, s)
		}
		return only(exists, to(banger.Running))
	case "restart":
		if out.code != "" {
			return only(exists, to(banger.Stopped))
		}
		return only(exists, to(banger.Running))
	case "stop":
		return only(exists && out.code == "", to(banger.Stopped))
	case "kill":
		if out.code == banger.CodeNotRunning {
			return only(true, s) // in the middle of a restart, too, which is one step here
		}
		return only(exists && out.code == "", to(banger.Stopped))
	case "set":
		s.vcpu = out.vcpu
		return only(exists && out.code == "", s)
	case "delete":
		return only(out.code == "", to(banger.Gone))
	case "prune":
		if out.code == banger.CodeConflict {
			return only(s.state == banger.Running, s)
		}
		return only(s.state == banger.Stopped && out.code == "", to(banger.Gone))
	}
	return nil
}

func only(may bool, s modelled) []modelled {
	if !may {
		return nil
	}
	return []modelled{s}
}

// created is step for a creation. One that failed had the name, and lost it by
// being taken back, unless it was refused.
func created(s modelled, req request, out response, exists bool) []modelled {
	ends := modelled{state: banger.Stopped, vcpu: 1, by: req.id}
	if strings.HasSuffix(req.name, started) {
		ends.state = banger.Running
	}
	s.begun |= 1 << req.id
	ends.begun = s.begun
	switch {
	case out.lost || out.code == banger.CodeCanceled:
		if exists {
			return []modelled{s}
		}
		return []modelled{s, ends}
	case out.code == banger.CodeConflict:
		return only(exists, s)
	}
	return only(!exists, ends)
}

// interrupted is step for a call that was canceled, or whose answer was lost. Where the
// daemon ended, the next one has finished or taken back what had begun.
func interrupted(s modelled, req request, out response, to func(banger.State) modelled) []modelled {
	may := []modelled{s}
	switch req.verb {
	case "start":
		if s.state == banger.Stopped && out.lost {
			may = append(may, to(banger.Running))
		}
	case "restart":
		if s.state == banger.Stopped {
			may = append(may, to(banger.Running))
		}
		if s.state == banger.Running && (!out.lost || s.cut) {
			may = append(may, to(banger.Stopped))
		}
	case "stop", "kill":
		if s.state == banger.Running {
			may = append(may, to(banger.Stopped))
		}
		if shot := s; s.state == banger.Running && req.verb == "kill" {
			shot.shot = true
			may = append(may, shot)
		}
	case "set":
		if s.state != banger.Gone {
			changed := s
			changed.vcpu = out.vcpu
			may = append(may, changed)
		}
	case "delete":
		cut := s
		cut.cut = s.state != banger.Gone
		may = append(may, cut, to(banger.Gone))
	case "prune":
		if s.state == banger.Stopped {
			may = append(may, to(banger.Gone))
		}
	}
	return may
}

// started ends the names of VMs whose creation starts them.
const started = "-running"

var calls = []string{"get", "get", "get", "get", "create", "create", "start", "start", "restart", "restart", "stop", "kill", "set", "delete", "prune"}

// call makes one call and says what came of it.
func call(ctx context.Context, d *daemon, req request, rnd *rand.Rand) response {
	var vm banger.VM
	want := 1 + rnd.IntN(8)
	force := rnd.IntN(2) == 0
	err := d.do(func() (err error) {
		switch req.verb {
		case "get":
			vm, err = d.VM(ctx, req.name)
		case "create":
			_, err = d.CreateVM(ctx, banger.Spec{Name: req.name}, strings.HasSuffix(req.name, started), nil)
		case "start":
			_, err = d.StartVM(ctx, req.name, banger.StartOptions{}, nil)
		case "restart":
			_, err = d.RestartVM(ctx, req.name, banger.StopOptions{}, nil)
		case "stop":
			_, err = d.StopVM(ctx, req.name, banger.StopOptions{Force: force})
		case "kill":
			_, err = d.KillVM(ctx, req.name, "KILL")
		case "set":
			_, err = d.SetVM(ctx, req.name, banger.Change{VCPU: want})
		case "delete":
			err = d.DeleteVM(ctx, req.name)
		case "prune":
			err = d.PruneVM(ctx, req.name)
		}
		return err
	})
	if err == errDead || err != nil && d.ctx.Err() != nil {
		return response{lost: true, vcpu: want}
	}
	out := response{code: banger.CodeOf(err), vcpu: want, said: fmt.Sprintf("%.12p %s %v", d.life, vm.Reason, err)}
	if req.verb == "get" {
		out.vcpu = vm.Spec.VCPU
	}
	restarting := strings.HasPrefix(vm.Reason, "restarting")
	if (vm.State == banger.Stopped || vm.State == banger.Running) && !restarting {
		out.state = vm.State
	}
	return out
}

// chaos ends daemons and cancels calls at random points.
type chaos struct {
	mu      sync.Mutex
	left    int // points until the daemon dies
	cancels []patience
}

// patience is that of a client: how many points it has, and how it leaves.
type patience struct {
	left  int
	leave context.CancelFunc
}

func (c *chaos) decide(_, _ string) fake.Fate {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancels = slices.DeleteFunc(c.cancels, func(p patience) bool { return p.left <= 0 })
	for i := range c.cancels {
		if c.cancels[i].left--; c.cancels[i].left == 0 {
			c.cancels[i].leave()
		}
	}
	if c.left--; c.left == 0 {
		return fake.Die
	}
	return fake.Live
}

// impatient is a context that ends after some points.
func (c *chaos) impatient(ctx context.Context, points int) (context.Context, context.CancelFunc) {
	ctx, leave := context.WithCancel(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancels = append(c.cancels, patience{points, leave})
	return ctx, leave
}

// crowd is clients that do as they like with few names, through one daemon after
// the other.
type crowd struct {
	w     *world
	chaos chaos
	clock atomic.Int64 // orders what happens

	mu      sync.Mutex
	d       *daemon
	next    chan struct{} // closed once there is another daemon
	history []porcupine.Operation
	creates map[string]int
	lost    int
	gaveUp  int
}

// client makes calls until it has made enough of them.
func (c *crowd) client(id int, rnd *rand.Rand) {
	names := []string{"vm-0", "vm-1" + started}
	for range 25 {
		req := request{verb: calls[rnd.IntN(len(calls))], name: names[rnd.IntN(2)]}
		c.mu.Lock()
		d, next := c.d, c.next
		if req.verb == "create" {
			c.creates[req.name]++
			if req.id = c.creates[req.name]; req.id > 63 {
				req = request{verb: "get", name: req.name}
			}
		}
		c.mu.Unlock()
		ctx, leave := d.ctx, context.CancelFunc(func() {})
		if rnd.IntN(5) == 0 {
			ctx, leave = c.chaos.impatient(ctx, 1+rnd.IntN(30))
		}
		from := c.clock.Add(1)
		out := call(ctx, d, req, rnd)
		leave()
		if out.lost {
			<-next
		}
		to := c.clock.Add(1)
		c.mu.Lock()
		c.history = append(c.history, porcupine.Operation{ClientId: id, Input: req, Call: from, Output: out, Return: to})
		if refused := out.code == banger.CodeConflict; req.verb == "create" && !refused && (out.lost || out.code != "") {
			req.verb = "take back"
			c.history = append(c.history, porcupine.Operation{ClientId: id, Input: req, Call: from, Output: out, Return: to})
		}
		if out.lost {
			c.lost++
		}
		if out.code == banger.CodeCanceled {
			c.gaveUp++
		}
		c.mu.Unlock()
	}
}

// serve gives the crowd a daemon that lives for so many points.
func (c *crowd) serve(points int) *daemon {
	c.chaos.mu.Lock()
	c.chaos.left = 0 // its recovery is nothing that clients see
	c.chaos.mu.Unlock()
	d := c.w.open(c.chaos.decide)
	c.w.settled(d)
	c.chaos.mu.Lock()
	c.chaos.left = points
	c.chaos.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next != nil {
		close(c.next)
	}
	c.d, c.next = d, make(chan struct{})
	return d
}

// history lets six clients loose on daemons that die, or are ended, in the midst.
func history(w *world, rnd *rand.Rand) *crowd {
	c := &crowd{w: w, creates: map[string]int{}}
	w.pauses.take(3 * time.Second)
	points := func() int { return 20 + rnd.IntN(300) }
	d := c.serve(points())
	var clients sync.WaitGroup
	for id := range 6 {
		own := rand.New(rand.NewPCG(rnd.Uint64(), rnd.Uint64()))
		clients.Go(func() { c.client(id, own) })
	}
	all := make(chan struct{})
	go func() { clients.Wait(); close(all) }()
	for {
		graceful := time.After(time.Duration(1+rnd.IntN(30)) * time.Second)
		select {
		case <-d.life.Dead():
		case <-graceful:
			d.leave()
			if rnd.IntN(2) == 0 {
				time.Sleep(10 * time.Second)
			}
		case <-all:
			d.kill()
			return c
		}
		d.kill()
		d = c.serve(points())
	}
}

// firstWrong returns the first answer of a history that can't be, whatever became
// of the calls that were under way then.
func firstWrong(part []porcupine.Operation) porcupine.Operation {
	part = slices.SortedFunc(slices.Values(part), func(a, b porcupine.Operation) int { return int(a.Return - b.Return) })
	for _, last := range part {
		var history []porcupine.Operation
		for _, op := range part {
			switch {
			case op.Call > last.Return:
				continue
			case op.Return > last.Return:
				op.Output, op.Return = response{lost: true, vcpu: op.Output.(response).vcpu}, last.Return
				if req := op.Input.(request); req.verb == "create" {
					history = append(history, op)
					req.verb = "take back"
					op.Input = req
				}
			}
			history = append(history, op)
		}
		if !porcupine.CheckOperations(sequential, history) {
			return last
		}
	}
	return porcupine.Operation{}
}

// Whatever many clients do at once, what they are told is what they would have
// been told one after the other: also when they leave before they are told, and
// when daemons die, or are ended, in the midst.
func TestLinearizable(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rounds := 60
	if *deep {
		rounds = 2000
	}
	total, lost, gaveUp, daemons := 0, 0, 0, 0
	for round := range rounds {
		inBubble(t, func(t *testing.T, w *world) {
			c := history(w, rand.New(rand.NewPCG(seed, uint64(round))))
			total, lost, gaveUp, daemons = total+len(c.history), lost+c.lost, gaveUp+c.gaveUp, daemons+len(w.daemons)
			for _, part := range sequential.Partition(c.history) {
				if got := porcupine.CheckOperationsTimeout(sequential, part, 0); got != porcupine.Ok {
					slices.SortFunc(part, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
					for _, op := range part {
						t.Logf("%d: %d–%d %+v -> %+v", op.ClientId, op.Call, op.Return, op.Input, op.Output)
					}
					t.Fatalf("round %d of seed %d: %s, from %+v on", round, seed, got, firstWrong(part))
				}
			}
		})
	}
	t.Logf("%d calls, %d canceled and %d lost with %d daemons", total, gaveUp, lost, daemons)
	if lost == 0 || gaveUp == 0 {
		t.Error("nothing was ever cut short")
	}
}

// The test of the test: histories that can't be are refused, those that may be aren't.
func TestModelRefuses(t *testing.T) {
	at := int64(0)
	op := func(verb string, out response) porcupine.Operation {
		at += 10
		return porcupine.Operation{Input: request{verb: verb, name: "it", id: 1}, Output: out, Call: at, Return: at + 5}
	}
	// over is an operation that is under way during the one before it, too.
	over := func(verb string, id int, out response) porcupine.Operation {
		at += 10
		return porcupine.Operation{Input: request{verb: verb, name: "it", id: id}, Output: out, Call: at - 15, Return: at + 5}
	}
	ok, lost, canceled := response{}, response{lost: true, vcpu: 4}, response{code: banger.CodeCanceled, vcpu: 4}
	is := func(state banger.State) response { return response{state: state, vcpu: 1} }
	none := response{code: banger.CodeNotFound}
	for name, history := range map[string][]porcupine.Operation{
		"a read of the past":              {op("create", ok), op("start", ok), op("get", is(banger.Stopped))},
		"an acknowledged VM lost":         {op("create", ok), op("get", none)},
		"two of one name":                 {op("create", ok), op("create", ok)},
		"a change lost":                   {op("create", ok), op("set", response{vcpu: 4}), op("get", is(banger.Stopped))},
		"a running VM pruned":             {op("create", ok), op("start", ok), op("prune", ok)},
		"a deleted VM still there":        {op("create", ok), op("delete", ok), op("stop", ok)},
		"a canceled creation left":        {op("create", canceled), over("take back", 1, canceled), op("get", is(banger.Stopped))},
		"another's VM taken back":         {op("create", ok), op("create", response{code: banger.CodeConflict}), over("take back", 2, lost), op("get", none)},
		"a lost creation that comes late": {op("create", lost), op("get", none), op("get", is(banger.Stopped))},
		"a VM lost with a restart":        {op("create", ok), op("start", ok), op("restart", lost), op("get", none)},
		"a restart that was cut short":    {op("create", ok), op("start", ok), op("restart", lost), op("get", is(banger.Stopped))},
		"a stop that comes late":          {op("create", ok), op("start", ok), op("stop", canceled), op("get", is(banger.Running)), op("get", is(banger.Stopped))},
		"a lost stop that starts":         {op("create", ok), op("stop", lost), op("get", is(banger.Running))},
		"a canceled start that started":   {op("create", ok), op("start", canceled), op("get", is(banger.Running))},
		"a lost change that is another":   {op("create", ok), op("set", lost), op("get", response{state: banger.Stopped, vcpu: 5})},
		"a lost deletion of half a VM":    {op("create", ok), op("delete", lost), op("get", none), op("get", is(banger.Stopped))},
		"a lost start of nothing":         {op("start", lost), op("get", is(banger.Running))},
		"a deletion that starts":          {op("create", ok), op("delete", lost), op("get", is(banger.Running))},
		"a lost prune of what runs":       {op("create", ok), op("start", ok), op("prune", lost), op("get", none)},
	} {
		if porcupine.CheckOperations(sequential, history) {
			t.Errorf("%s was believed", name)
		}
	}
	for name, history := range map[string][]porcupine.Operation{
		"a kill that was given up and comes late":                 {op("create", ok), op("start", ok), op("kill", canceled), op("get", is(banger.Running)), op("get", is(banger.Stopped))},
		"a restart that a deletion cut short, which was given up": {op("create", ok), op("start", ok), op("delete", canceled), over("restart", 0, lost), op("get", is(banger.Stopped))},
		"a lost creation that came to be":                         {op("create", lost), over("take back", 1, lost), op("get", is(banger.Stopped))},
		"one that did not":                                        {op("create", lost), over("take back", 1, lost), op("get", none)},
		"a canceled creation":                                     {op("create", canceled), over("take back", 1, canceled), op("get", none)},
		"a lost restart":                                          {op("create", ok), op("start", ok), op("restart", lost), op("get", is(banger.Running))},
		"a lost stop that came to be":                             {op("create", ok), op("start", ok), op("stop", lost), op("get", is(banger.Stopped))},
		"one that did not come to anything":                       {op("create", ok), op("start", ok), op("stop", lost), op("get", is(banger.Running))},
	} {
		if !porcupine.CheckOperations(sequential, history) {
			t.Errorf("%s was refused", name)
		}
	}
}

package take

// What reads a guest's bytes, for fuzzing.
var (
	ParseTree = parseTree
	ParseRaw  = parseRaw
	ReadHead  = readHead
	Why       = why
	LeadsOut  = leadsOut
)

// NewWatched and Waits are the time for which a guest may be silent: Waits ends it, and
// reports whether it ran.
var (
	NewWatched = newWatched
	Waits      = func(w *watched) bool { return w.timer.Stop() }
)

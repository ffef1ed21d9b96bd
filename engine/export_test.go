package engine

// HookFiles makes every file operation of the engine's own go through do. Call
// it before Open.
func (e *Engine) HookFiles(do func(op string, effect func() error) error) { e.fs = do }

// Scratch is the content of handles.json.
type Scratch = scratch

package take

// What reads a guest's bytes, for fuzzing.
var (
	ParseTree = parseTree
	ParseRaw  = parseRaw
	ReadHead  = readHead
	Why       = why
	LeadsOut  = leadsOut
)

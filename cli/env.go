package cli

import (
	"io"
	"os"
	"strings"

	"banger"
)

// maxEnvFile bounds a file of variables.
const maxEnvFile = 1 << 20

// environment returns the variables of a command: those of files, then those of flags.
// One that is given without a value has that of the caller's.
func environment(a *App, files, flags []string) ([]string, error) {
	var env []string
	for _, path := range files {
		list, err := readEnvFile(path)
		if err != nil {
			return nil, err
		}
		env = append(env, list...)
	}
	given := make([]string, 0, len(env)+len(flags))
	for _, kv := range append(env, flags...) {
		key, _, ok := strings.Cut(kv, "=")
		if key == "" || strings.ContainsAny(key, " \t\x00") {
			return nil, banger.Errorf(banger.CodeInvalid, "%q is no variable", kv).WithHint("write KEY=VALUE, or KEY alone for the value that it has here")
		}
		if !ok {
			value, set := a.lookup(key)
			if !set {
				continue // as it is here
			}
			kv = key + "=" + value
		}
		given = append(given, kv)
	}
	return given, nil
}

// lookup reads a variable of the caller's.
func (a *App) lookup(key string) (string, bool) {
	if a.Getenv == nil {
		return "", false
	}
	return a.Getenv(key)
}

// readEnvFile reads variables, one a line. Values are taken as they stand, quotes too.
func readEnvFile(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, banger.Errorf(banger.CodeInvalid, "%w", err)
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, maxEnvFile+1))
	if err == nil && len(text) > maxEnvFile {
		err = banger.Errorf(banger.CodeInvalid, "%s is larger than %s: it is no file of variables", path, formatBytes(maxEnvFile))
	}
	if err != nil {
		return nil, banger.Errorf(banger.CodeInvalid, "%w", err)
	}
	var env []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\r\n")
		if kv := strings.TrimLeft(line, " \t"); kv != "" && kv[0] != '#' {
			env = append(env, kv)
		}
	}
	return env, nil
}

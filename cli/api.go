package cli

import (
	"context"
	"encoding/json"

	"github.com/spf13/cobra"
)

// OpenAPI is a description of an HTTP API.
type OpenAPI map[string]any

func apiCommand(a *App) *cobra.Command {
	return answer(a, &cobra.Command{
		Use: "api", Short: "Print the description of the daemon's HTTP API (OpenAPI 3.1)", Args: nargs(0, 0),
		Long: `Prints what programs can ask of the daemon, as OpenAPI 3.1, which generators of
clients read. The API is HTTP and JSON over a Unix socket, which "banger daemon status"
names. The running daemon gives the same at /v2/openapi.json.`,
		Example: `  banger api > banger.json
  curl --unix-socket SOCKET http://banger/v2/vms`,
	}, func(context.Context, []string) (d OpenAPI, err error) {
		err = json.Unmarshal(a.API, &d)
		return d, err
	}, func(w *page, _ OpenAPI) { _, _ = w.Write(a.API) })
}

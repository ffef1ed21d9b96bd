package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func imageShowCommand(a *App) *cobra.Command {
	var lock bool
	cmd := answer(a, &cobra.Command{
		Use: "show IMAGE", SuggestFor: []string{"inspect"}, Short: "Show an image: how it is run, or the packages it was built from",
		Example: `  banger image show debian-12
  banger image show debian-12 --lock > debian-12.lock`,
		Args: nargs(1, 1), ValidArgsFunction: a.completeImages,
	}, func(ctx context.Context, args []string) (banger.Image, error) {
		img, err := a.Images().Image(ctx, args[0])
		if err == nil && lock && img.Lock == nil {
			return img, banger.Errorf(banger.CodeInvalid, "image %s was imported, not built, so its packages aren't known", img.Name).
				WithHint("`banger image build` makes one whose packages are known")
		}
		return img, err
	}, func(w *page, img banger.Image) {
		if !lock {
			showImage(w, img)
			return
		}
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		_ = e.Encode(img.Lock) // w keeps the error
	})
	cmd.Flags().BoolVar(&lock, "lock", false, "print the packages as a lock file for image build")
	return cmd
}

func showImage(w *page, img banger.Image) {
	rows := [][]string{
		{"name", img.Name}, {"id", img.ID}, {"size", formatBytes(img.Size)}, {"entries", strconv.Itoa(img.Entries)},
		{"source", printable(img.Source, 200)}, {"created", img.Created.Local().Format(time.DateTime)},
	}
	if img.Config != nil {
		rows = append(rows, configRows(img.Config)...)
	}
	if img.Lock == nil {
		w.fields(rows)
		return
	}
	var size int64
	for _, p := range img.Lock.Packages {
		size += p.Size
	}
	w.fields(append(rows, []string{"archive", img.Lock.Suite + " of " + img.Lock.Date.UTC().Format(time.RFC3339)},
		[]string{"packages", fmt.Sprintf("%d, %s to fetch", len(img.Lock.Packages), formatBytes(size))}))
	_, _ = fmt.Fprintln(w)
	var list [][]string
	for _, p := range img.Lock.Packages {
		list = append(list, []string{printable(p.Name, 128), printable(p.Version, 128), printable(p.SHA256, 64)})
	}
	w.table([]column{{title: "PACKAGE", least: 30}, {title: "VERSION", least: 20}, {title: "SHA256", rank: 1, least: 12}}, list)
}

// configRows are what an OCI image says of itself.
func configRows(c *banger.ImageConfig) (rows [][]string) {
	row := func(name string, values ...string) {
		for _, v := range values {
			if v != "" {
				rows = append(rows, []string{name, printable(v, 200)})
				name = ""
			}
		}
	}
	row("platform", c.Platform)
	row("digest", c.Digest)
	row("layers", strconv.Itoa(len(c.DiffIDs)))
	row("entrypoint", quoted(c.Entrypoint))
	row("command", quoted(c.Cmd))
	row("user", c.User)
	row("directory", c.WorkDir)
	row("environment", c.Env...)
	row("ports", strings.Join(c.Exposed, " "))
	row("volumes", strings.Join(c.Volumes, " "))
	row("stop signal", c.StopSignal)
	row("health", quoted(c.Health))
	for _, key := range slices.Sorted(maps.Keys(c.Labels)) {
		row("label", key+"="+c.Labels[key])
	}
	return rows
}

// quoted is a command's words, each in quotes where a shell would need them.
func quoted(words []string) string {
	var out []string
	for _, w := range words {
		if w == "" || strings.ContainsAny(w, " \t\n\"'$`\\;&|<>()*?[]#~") {
			w = strconv.Quote(w)
		}
		out = append(out, w)
	}
	return strings.Join(out, " ")
}

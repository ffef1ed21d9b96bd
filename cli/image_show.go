package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"banger"
)

func imageShowCommand(a *App) *cobra.Command {
	var lock bool
	cmd := answer(a, &cobra.Command{
		Use: "show IMAGE", SuggestFor: []string{"inspect", "history"}, Short: "Show an image, and the packages it was built from",
		Example: `  banger image show debian-12
  banger image show debian-12 --lock > debian-12.lock`,
		Args: nargs(1, 1), ValidArgsFunction: a.completeImages,
	}, func(ctx context.Context, args []string) (banger.Image, error) {
		img, err := a.Images().Image(ctx, args[0])
		if err == nil && lock && img.Lock == nil {
			return img, banger.Errorf(banger.CodeInvalid, "image %s was imported, not built, so its packages aren't known", img.Name).
				WithHint("banger image build makes one whose packages are known")
		}
		return img, err
	}, func(w io.Writer, img banger.Image) {
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

func showImage(w io.Writer, img banger.Image) {
	rows := [][]string{
		{"name", img.Name}, {"id", img.ID}, {"size", formatBytes(img.Size)}, {"entries", strconv.Itoa(img.Entries)},
		{"source", printable(img.Source, 200)}, {"created", img.Created.Local().Format(time.DateTime)},
	}
	if img.Lock == nil {
		table(w, rows)
		return
	}
	var size int64
	for _, p := range img.Lock.Packages {
		size += p.Size
	}
	table(w, append(rows, []string{"archive", img.Lock.Suite + " of " + img.Lock.Date.UTC().Format(time.RFC3339)},
		[]string{"packages", fmt.Sprintf("%d, %s to fetch", len(img.Lock.Packages), formatBytes(size))}))
	_, _ = fmt.Fprintln(w)
	list := [][]string{{"PACKAGE", "VERSION", "SHA256"}}
	for _, p := range img.Lock.Packages {
		list = append(list, []string{printable(p.Name, 128), printable(p.Version, 128), printable(p.SHA256, 64)})
	}
	table(w, list)
}

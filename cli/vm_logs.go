package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"syscall"

	"github.com/spf13/cobra"

	"banger"
	"banger/guest"
)

// Console is what a VM wrote to its serial console, or with -f a line of it.
type Console struct {
	VM   string      `json:"vm"`   // as it was named
	Text guest.Bytes `json:"text"` // {"base64": ...} where it isn't UTF-8
}

func vmLogsCommand(a *App) *cobra.Command {
	var follow bool
	cmd := gives(a, &cobra.Command{
		Use:   "logs VM",
		Short: "Print a VM's console",
		Long:  "Prints what the VM wrote to its serial console. Of a long output only the latest part\nis kept.",
		Example: `  banger vm logs web
  banger vm logs -f web`,
		Args:              nargs(1, 1),
		ValidArgsFunction: a.completeVMs(1),
	}, &follow, func(ctx context.Context, args []string, say func(...Console) error) error {
		ctx, stop := interruptible(ctx)
		defer stop()
		read, left := whileRead(ctx, a.Out)
		defer left()
		rc, err := a.VMs().Logs(read, args[0], follow)
		if ctx.Err() == nil && read.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		defer func() { _ = rc.Close() }()
		part := readPart
		switch {
		case !a.json:
		case follow:
			part = readLine
		default:
			part = readAll
		}
		for r := bufio.NewReaderSize(rc, 64<<10); err == nil; {
			var text []byte
			if text, err = part(r); len(text) > 0 {
				err = firstError(say(Console{args[0], text}), err)
			}
		}
		switch {
		case ctx.Err() != nil:
			return banger.Errorf(banger.CodeCanceled, "interrupted")
		case read.Err() != nil, errors.Is(err, syscall.EPIPE), err == io.EOF:
			return nil
		}
		return banger.Errorf(banger.CodeUnavailable, "the log broke off: %w", err)
	}, func(w io.Writer, list []Console) {
		for _, c := range list {
			_, _ = w.Write(c.Text)
		}
	})
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the VM ends")
	return cmd
}

// readPart reads what there is, as soon as there is something.
func readPart(r *bufio.Reader) ([]byte, error) {
	if _, err := r.Peek(1); err != nil {
		return nil, err
	}
	text := make([]byte, r.Buffered())
	_, err := io.ReadFull(r, text)
	return text, err
}

// readLine reads a line, or as much of it as r has room for: a guest may write one that
// never ends.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		err = nil
	}
	return bytes.Clone(line), err
}

// readAll reads to the end, and says that it was the end.
func readAll(r *bufio.Reader) ([]byte, error) {
	text, err := io.ReadAll(r)
	return text, firstError(err, io.EOF)
}

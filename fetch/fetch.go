package debian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"banger"
)

const (
	attempts   = 4                // tries of one file, each going on where the last one ended
	stallAfter = 30 * time.Second // without a byte, a connection counts as dead
)

var (
	errStalled = errors.New("no data arrived")
	errMissing = errors.New("the server doesn't have it")
	errHash    = errors.New("content doesn't match the signed hash")
)

// blob names a file by its content, as a signed index does.
type blob struct {
	sha256 string // lower-case hex
	size   int64
}

// fetcher gets files over HTTP from servers that may be slow, broken or lying.
type fetcher struct {
	client *http.Client
	stall  time.Duration
}

// newClient bounds every phase of a request but the body, which is bounded by
// progress: a slow line may take its time, a silent one may not.
func newClient() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	t.ResponseHeaderTimeout = stallAfter
	t.DisableCompression = true // a hash is over the bytes as they are stored
	return &http.Client{Transport: t, CheckRedirect: func(_ *http.Request, via []*http.Request) error {
		if len(via) > 5 {
			return errors.New("more than 5 redirects")
		}
		return nil
	}}
}

// get returns a small file of at most max bytes.
func (f *fetcher) get(ctx context.Context, address string, max int64) ([]byte, error) {
	var last error
	for try := range attempts {
		f.pause(ctx, try)
		data, err := f.getOnce(ctx, address, max)
		if err == nil || !transient(ctx, err) {
			return data, f.explain(ctx, address, err)
		}
		last = err
	}
	return nil, f.explain(ctx, address, last)
}

func (f *fetcher) getOnce(ctx context.Context, address string, max int64) ([]byte, error) {
	body, _, err := f.open(ctx, address, 0)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, max+1))
	if err == nil && int64(len(data)) > max {
		err = permanent{fmt.Errorf("longer than %d bytes", max)}
	}
	return data, err
}

// download stores the file of a hash in dir and returns its path. What an
// earlier call left half done is continued. progress gets the bytes there so far.
func (f *fetcher) download(ctx context.Context, address, dir string, want blob, progress func(int64)) (string, error) {
	file := filepath.Join(dir, want.sha256)
	if err := checkFile(file, want); err == nil {
		return file, nil
	}
	part := file + ".part"
	var last error
	for try := range attempts {
		f.pause(ctx, try)
		info, err := os.Stat(part)
		fresh := err != nil || info.Size() == 0
		if err = f.fill(ctx, address, part, want, progress); err == nil {
			err = checkFile(part, want)
		}
		if err == nil {
			return file, os.Rename(part, file)
		}
		if errors.Is(err, errHash) {
			if err := os.Remove(part); err != nil {
				return "", err
			}
		}
		// A file fetched in one go that is wrong will be wrong again; one that
		// continued an older half may have had the damage in there.
		if last = err; !transient(ctx, err) || errors.Is(err, errHash) && fresh {
			break
		}
	}
	return "", f.explain(ctx, address, last)
}

// pause waits before another try, a little longer each time.
func (f *fetcher) pause(ctx context.Context, try int) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(try) * f.stall / 30):
	}
}

// fill brings part to its full size, from where it ends.
func (f *fetcher) fill(ctx context.Context, address, part string, want blob, progress func(int64)) error {
	out, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return permanent{err}
	}
	defer out.Close()
	have, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return permanent{err}
	}
	if have == want.size {
		return nil
	}
	if have > want.size {
		have = 0
	}
	body, start, err := f.open(ctx, address, have)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := out.Truncate(start); err != nil {
		return permanent{err}
	}
	n, err := io.Copy(&countingWriter{io.NewOffsetWriter(out, start), start, progress}, io.LimitReader(body, want.size-start+1))
	switch {
	case err != nil:
		return err
	case start+n > want.size:
		return errHash
	case start+n < want.size:
		return fmt.Errorf("ended after %d of %d bytes: %w", start+n, want.size, io.ErrUnexpectedEOF)
	}
	return nil
}

// open requests a file from a byte on and says where the body really starts: a
// server may ignore a range. The body fails with errStalled when it goes silent.
func (f *fetcher) open(ctx context.Context, address string, from int64) (io.ReadCloser, int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	body := &watched{ctx: ctx, cancel: cancel, stall: f.stall}
	body.timer = time.AfterFunc(f.stall, func() { cancel(errStalled) })
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		_ = body.Close()
		return nil, 0, permanent{err}
	}
	req.Header.Set("User-Agent", "banger")
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	resp, err := f.client.Do(req)
	if err != nil {
		err = body.why(err)
		_ = body.Close()
		return nil, 0, err
	}
	body.ReadCloser = resp.Body
	start, err := bodyStart(resp, from)
	if err != nil {
		_ = body.Close()
		return nil, 0, err
	}
	return body, start, nil
}

func bodyStart(resp *http.Response, from int64) (int64, error) {
	switch {
	case resp.StatusCode == http.StatusOK:
		return 0, nil
	case resp.StatusCode == http.StatusPartialContent && from > 0:
		var start int64
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &start); err != nil || start != from {
			return 0, permanent{fmt.Errorf("asked for bytes from %d on, got %.60q", from, resp.Header.Get("Content-Range"))}
		}
		return start, nil
	case resp.StatusCode == http.StatusNotFound, resp.StatusCode == http.StatusGone:
		return 0, errMissing
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && from > 0:
		return 0, permanent{fmt.Errorf("its file is shorter than the %d bytes that are here already", from+1)}
	case resp.StatusCode >= 500, resp.StatusCode == http.StatusTooManyRequests:
		return 0, fmt.Errorf("answered %.80s", resp.Status)
	}
	return 0, permanent{fmt.Errorf("answered %.80s", resp.Status)}
}

// watched is a body that must not go silent.
type watched struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	stall  time.Duration
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if n > 0 {
		w.timer.Reset(w.stall)
	}
	return n, w.why(err)
}

// why names the reason of a failed request rather than its symptom.
func (w *watched) why(err error) error {
	if err != nil && err != io.EOF && w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	return err
}

func (w *watched) Close() error {
	w.timer.Stop()
	w.cancel(context.Canceled)
	if w.ReadCloser == nil {
		return nil
	}
	return w.ReadCloser.Close()
}

type countingWriter struct {
	io.Writer
	n        int64
	progress func(int64)
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.n += int64(n)
	w.progress(w.n)
	if err != nil {
		err = permanent{err} // our disk, not the server
	}
	return n, err
}

// permanent marks an error that trying again can't cure.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

func transient(ctx context.Context, err error) bool {
	if ctx.Err() != nil || errors.Is(err, errMissing) {
		return false
	}
	if u, ok := errors.AsType[*url.Error](err); ok && !u.Timeout() {
		// Refused, unknown host, redirects: what a mirror answers at once, it
		// will answer again. A connection lost on the way is worth another try.
		return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	}
	_, fatal := errors.AsType[permanent](err)
	return !fatal
}

// explain turns a failure into what a user should know.
func (f *fetcher) explain(ctx context.Context, address string, err error) error {
	if err == nil || errors.Is(err, errMissing) {
		return err
	}
	if ctx.Err() != nil {
		return banger.Errorf(banger.CodeCanceled, "fetch %s: %w", shown(address), context.Cause(ctx))
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // the address stands in front already
	}
	switch {
	case errors.Is(err, errStalled):
		return banger.Errorf(banger.CodeTimeout, "fetch %s: %w for %s", shown(address), errStalled, f.stall).
			WithHint("try again: what has arrived is kept; or set another mirror")
	case errors.Is(err, errHash):
		return banger.Errorf(banger.CodeUnavailable, "fetch %s: %w", shown(address), err).
			WithHint("the mirror or something between is broken or lying: set another mirror")
	}
	return banger.Errorf(banger.CodeUnavailable, "fetch %s: %w", shown(address), err).
		WithHint("check the network and the mirror's address")
}

// shown is an address without a password in it.
func shown(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "an address that can't be parsed"
	}
	return u.Redacted()
}

// checkFile compares a file with what it must be.
func checkFile(path string, want blob) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(f, want.size+1))
	if err != nil {
		return err
	}
	if n != want.size || hex.EncodeToString(h.Sum(nil)) != want.sha256 {
		return errHash
	}
	return nil
}

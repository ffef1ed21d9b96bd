// Package fetch gets files over HTTP from servers that may be slow, broken or hostile.
// It continues a download that was broken off, gives up when no data arrives, and
// checks a file's hash. If several processes want a file, one fetches it and the others
// wait. Sizes are in bytes. Errors are banger.Error, or ErrMissing.
//
// It knows nothing of what the files are, or of where their hashes come from.
package fetch

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
	"strings"
	"sync"
	"time"

	"banger"
	"banger/host/hostfs"
)

const (
	attempts   = 4                // tries for one file; each goes on where the last one ended
	stallAfter = 30 * time.Second // a connection without data for this long counts as dead
)

var (
	// ErrMissing says that the server doesn't have a file (404 or 410).
	ErrMissing = errors.New("the server doesn't have it")

	errStalled = errors.New("no data arrived")
	errHash    = errors.New("content doesn't match its hash")
)

// Blob names a file by its content.
type Blob struct {
	SHA256 string // lower-case hex
	Size   int64  // in bytes
}

// Check checks a Blob that comes from others.
func (b Blob) Check() error {
	if len(b.SHA256) != 64 || strings.Trim(b.SHA256, "0123456789abcdef") != "" {
		return errors.New("not a SHA-256")
	}
	if b.Size < 0 {
		return fmt.Errorf("size %d", b.Size)
	}
	return nil
}

// Fetcher gets files. Its methods may be called concurrently.
type Fetcher struct {
	Client *http.Client  // nil: NewClient
	Stall  time.Duration // how long a server may be silent; 0: 30 s
}

var shared = sync.OnceValue(NewClient)

func (f Fetcher) client() *http.Client {
	if f.Client == nil {
		return shared()
	}
	return f.Client
}

func (f Fetcher) stall() time.Duration {
	if f.Stall == 0 {
		return stallAfter
	}
	return f.Stall
}

// NewClient returns a client that bounds the time of every phase of a request, but not
// of the body: a slow body may take long, and Fetcher ends one that stalls. Requests of
// one client share connections.
func NewClient() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	t.ResponseHeaderTimeout = stallAfter
	t.DisableCompression = true // the hash is of the bytes as they are stored
	return &http.Client{Transport: t, CheckRedirect: func(_ *http.Request, via []*http.Request) error {
		if len(via) > 5 {
			return errors.New("more than 5 redirects")
		}
		return nil
	}}
}

// Get returns a small file of at most max bytes.
func (f Fetcher) Get(ctx context.Context, address string, max int64) ([]byte, error) {
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

func (f Fetcher) getOnce(ctx context.Context, address string, max int64) ([]byte, error) {
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

// Download returns the path of a file in dir, named by its hash, and fetches what is
// missing of it. It continues a download that an earlier call broke off, and waits
// while another call fetches the same file. progress gets how many bytes are there.
func (f Fetcher) Download(ctx context.Context, address, dir string, want Blob, progress func(int64)) (string, error) {
	if err := want.Check(); err != nil {
		return "", err
	}
	file := filepath.Join(dir, want.SHA256)
	part, err := claim(ctx, file, want)
	if err != nil {
		if ctx.Err() != nil {
			err = banger.Errorf(banger.CodeCanceled, "fetch %s: %w", Shown(address), err)
		}
		return "", err
	}
	if part != nil {
		defer part.Close()
		if err := f.complete(ctx, address, part, want, progress); err != nil {
			if st, e := part.Stat(); e == nil && st.Size() == 0 {
				_ = os.Remove(part.Name()) // it is empty
			}
			return "", f.explain(ctx, address, err)
		}
		if err := os.Rename(part.Name(), file); err != nil {
			return "", err
		}
	}
	touch(file)
	return file, nil
}

// claim opens the partial file of a download and locks it, as two processes that write
// to it would damage it. It returns nil when the whole file is there.
func claim(ctx context.Context, file string, want Blob) (*os.File, error) {
	if checkFile(file, want) == nil {
		return nil, nil
	}
	for {
		part, err := hostfs.OpenLocked(ctx, file+".part")
		if err != nil {
			return nil, err
		}
		// Whoever had the lock before may have finished the file or removed this partial one.
		named := hostfs.Named(part, file+".part")
		if checkFile(file, want) == nil {
			if named {
				_ = os.Remove(part.Name()) // OpenLocked has just made it anew
			}
			return nil, part.Close()
		}
		if !named {
			_ = part.Close()
			continue
		}
		return part, nil
	}
}

// complete fetches the rest of a partial file and checks the hash.
func (f Fetcher) complete(ctx context.Context, address string, part *os.File, want Blob, progress func(int64)) error {
	var last error
	for try := range attempts {
		f.pause(ctx, try)
		info, err := part.Stat()
		if err != nil {
			return err
		}
		if err = f.fill(ctx, address, part, want, progress); err == nil {
			err = check(part, want)
		}
		if err == nil {
			return nil
		}
		if errors.Is(err, errHash) {
			if err := part.Truncate(0); err != nil {
				return err
			}
		}
		// If all of a file came from one try and its hash is wrong, it will be wrong again.
		// Else the damage may be in what an earlier try left.
		if last = err; !transient(ctx, err) || errors.Is(err, errHash) && info.Size() == 0 {
			break
		}
	}
	return last
}

// pause waits before another try, a little longer each time.
func (f Fetcher) pause(ctx context.Context, try int) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(try) * f.stall() / 30):
	}
}

// fill appends to a partial file until it has its full size.
func (f Fetcher) fill(ctx context.Context, address string, out *os.File, want Blob, progress func(int64)) error {
	have, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return permanent{err}
	}
	if have == want.Size {
		return nil
	}
	if have > want.Size {
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
	n, err := io.Copy(&countingWriter{io.NewOffsetWriter(out, start), start, progress}, io.LimitReader(body, want.Size-start+1))
	switch {
	case err != nil:
		return err
	case start+n > want.Size:
		return errHash
	case start+n < want.Size:
		return fmt.Errorf("ended after %d of %d bytes: %w", start+n, want.Size, io.ErrUnexpectedEOF)
	}
	return nil
}

// open requests a file from a byte on. It returns the body and the byte it starts with:
// 0 when the server ignores ranges. The body fails with errStalled when no data arrives.
func (f Fetcher) open(ctx context.Context, address string, from int64) (io.ReadCloser, int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	body := &watched{ctx: ctx, cancel: cancel, stall: f.stall()}
	body.timer = time.AfterFunc(f.stall(), func() { cancel(errStalled) })
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		_ = body.Close()
		return nil, 0, permanent{err}
	}
	req.Header.Set("User-Agent", "banger")
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	resp, err := f.client().Do(req)
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
		return 0, ErrMissing
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && from > 0:
		return 0, permanent{fmt.Errorf("its file is shorter than the %d bytes that are here already", from+1)}
	case resp.StatusCode >= 500, resp.StatusCode == http.StatusTooManyRequests:
		return 0, fmt.Errorf("answered %.80s", resp.Status)
	}
	return 0, permanent{fmt.Errorf("answered %.80s", resp.Status)}
}

// watched is a body whose reads fail when no data arrives for too long.
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

// why returns errStalled for an error that the stall caused; others stay as they are.
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
		err = permanent{err} // an error of our disk
	}
	return n, err
}

// permanent marks an error that trying again can't cure.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

func transient(ctx context.Context, err error) bool {
	if ctx.Err() != nil || errors.Is(err, ErrMissing) {
		return false
	}
	if u, ok := errors.AsType[*url.Error](err); ok && !u.Timeout() {
		// A mirror that refuses at once, isn't found or redirects too often will do so again.
		// A connection that was lost later is worth another try.
		return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	}
	_, fatal := errors.AsType[permanent](err)
	return !fatal
}

// explain makes an error for users.
func (f Fetcher) explain(ctx context.Context, address string, err error) error {
	if err == nil || errors.Is(err, ErrMissing) {
		return err
	}
	if ctx.Err() != nil {
		return banger.Errorf(banger.CodeCanceled, "fetch %s: %w", Shown(address), context.Cause(ctx))
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // without the address, which the message has already
	}
	switch {
	case errors.Is(err, errStalled):
		return banger.Errorf(banger.CodeTimeout, "fetch %s: %w for %s", Shown(address), errStalled, f.stall()).
			WithHint("try again: what has arrived is kept; or set another mirror")
	case errors.Is(err, errHash):
		return banger.Errorf(banger.CodeUnavailable, "fetch %s: %w", Shown(address), err).
			WithHint("the mirror, or a proxy before it, sends damaged data: set another mirror")
	}
	return banger.Errorf(banger.CodeUnavailable, "fetch %s: %w", Shown(address), err).
		WithHint("check the network and the mirror's address")
}

// Shown is an address without the password in it.
func Shown(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "an address that can't be parsed"
	}
	return u.Redacted()
}

// checkFile checks a file's size and hash.
func checkFile(path string, want Blob) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return check(f, want)
}

func check(f *os.File, want Blob) error {
	h := sha256.New()
	n, err := io.Copy(h, io.NewSectionReader(f, 0, want.Size+1))
	if err != nil {
		return err
	}
	if n != want.Size || hex.EncodeToString(h.Sum(nil)) != want.SHA256 {
		return errHash
	}
	return nil
}

// Reports makes the progress function of one download, of total bytes; 0: not known.
type Reports func(what string, total int64) func(done int64)

// Report tells p of the downloads of a stage, each time that a good part more has come.
func Report(p banger.Progress, stage string) Reports {
	const step = 256 << 10
	return func(what string, total int64) func(int64) {
		var said int64 = -1
		return func(done int64) {
			if p == nil || said >= 0 && done-said < step && done != total {
				return
			}
			said = done
			p(banger.Event{Stage: stage, Message: what, Done: done, Total: total, Time: time.Now()})
		}
	}
}

// Package sqlite keeps banger's records in one SQLite file: it owns the schema,
// its migrations, the transactions and the lock that keeps a second daemon out.
//
// It knows nothing of what the records mean: it checks names and references, and stores the
// rest as JSON documents.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	driver "modernc.org/sqlite" // also registers itself
	lib "modernc.org/sqlite/lib"

	"banger"
	"banger/host/hostfs"
)

// Store is a banger.Store in one file. It uses a single connection: SQLite allows only one
// writer at a time, and the daemon answers reads from memory.
type Store struct {
	db   *sql.DB
	lock *os.File
	sync string // PRAGMA synchronous for ordinary commits
	full string // and for durable ones
}

// Option changes how Open opens.
type Option func(*Store)

// Unsafe turns off syncing, for tests: records survive the process, but not a power cut.
func Unsafe(s *Store) { s.sync, s.full = "OFF", "OFF" }

// Open opens the database at path, made when it is missing (0600), locks it for
// this process (flock on path+".lock") and brings its schema up to date.
//
// CodeConflict: another process has it open. CodeInvalid: it is newer than this
// program, or damaged; nothing was changed and the hint says what to do.
func Open(ctx context.Context, path string, options ...Option) (*Store, error) {
	s := &Store{sync: "NORMAL", full: "FULL"}
	for _, o := range options {
		o(s)
	}
	var err error
	if s.lock, err = lock(path + ".lock"); err != nil {
		return nil, err
	}
	if err := s.open(ctx, path); err != nil {
		_ = s.Close()
		return nil, explain(path, err)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, path string) error {
	// SQLite would make the file with the umask's mode; it has a user's names and paths.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if s.db, err = sql.Open("sqlite", dsn(path, s.sync)); err != nil {
		return err
	}
	s.db.SetMaxOpenConns(1)
	if err := whole(ctx, s.db); err != nil {
		return err
	}
	return migrate(ctx, s.db)
}

// whole refuses a damaged file before anything is read or written: in the middle of a plan
// it would be too late.
func whole(ctx context.Context, db *sql.DB) error {
	var verdict string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return err
	}
	if verdict != "ok" {
		return fmt.Errorf("SQLITE_CORRUPT: %s", verdict)
	}
	return nil
}

// dsn has the pragmas, so that every connection gets them, also when one is reopened.
// Temporary b-trees stay in memory, so that reads work on a full disk.
func dsn(path, sync string) string {
	q := url.Values{"_pragma": {
		"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(" + sync + ")",
		"foreign_keys(ON)", "temp_store(MEMORY)", "trusted_schema(OFF)",
	}, "_txlock": {"immediate"}}
	return (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: q.Encode()}).String()
}

func lock(path string) (*os.File, error) {
	f, err := hostfs.TryOpenLocked(path)
	if errors.Is(err, hostfs.ErrLocked) {
		err = banger.Errorf(banger.CodeConflict, "another bangerd has %s locked", path).
			WithHint("use the running daemon, or stop it first: `banger daemon stop`")
	}
	return f, err
}

// explain makes an error for users of SQLite's errors for a damaged file.
func explain(path string, err error) error {
	msg := err.Error()
	if strings.Contains(msg, "SQLITE_NOTADB") || strings.Contains(msg, "SQLITE_CORRUPT") ||
		strings.Contains(msg, "not a database") || strings.Contains(msg, "malformed") {
		return banger.Errorf(banger.CodeInvalid, "%s is damaged: %w", path, err).
			WithHint("nothing was changed; restore it from a copy, or move it away to begin anew (the disks in vms/ stay)")
	}
	return fmt.Errorf("open %s: %w", path, err)
}

// Close ends the connection and lets another daemon in.
func (s *Store) Close() error {
	var err error
	if s.db != nil {
		err = s.db.Close()
	}
	return errors.Join(err, s.lock.Close())
}

// tx runs fn in one transaction. It ignores the end of ctx: if a client left in the middle,
// it wouldn't be known whether the commit was done.
func (s *Store) tx(ctx context.Context, durable bool, fn func(context.Context, *sql.Tx) error) (err error) {
	ctx = context.WithoutCancel(ctx)
	defer func() { err = full(err) }()
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	defer func() { _ = conn.Close() }() // back to the pool, the only one in it
	if durable && s.full != s.sync {
		// This works only outside a transaction. With WAL the commit then syncs the log, and so
		// every earlier commit, too.
		if _, err := conn.ExecContext(ctx, "PRAGMA synchronous="+s.full); err != nil {
			return fmt.Errorf("database: %w", err)
		}
		defer func() {
			_, e := conn.ExecContext(ctx, "PRAGMA synchronous="+s.sync)
			err = errors.Join(err, e)
		}()
	}
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("database: %w", err)
	}
	defer tx.Rollback() // after a commit this does nothing
	if err := fn(ctx, tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("database: commit: %w", err)
	}
	return nil
}

// full adds ENOSPC to SQLite's error for a full disk.
func full(err error) error {
	if e, ok := errors.AsType[*driver.Error](err); ok && e.Code()&0xff == lib.SQLITE_FULL {
		return fmt.Errorf("%w: %w", err, unix.ENOSPC)
	}
	return err
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000000Z") }

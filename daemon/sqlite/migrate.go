package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"

	"banger"
)

//go:embed migrations/*.sql
var files embed.FS

// A migration's number is the digits its file name begins with; it is also the
// schema version (PRAGMA user_version) once it was applied.
type migration struct {
	number int
	sql    string
}

func migrations() ([]migration, error) {
	names, err := fs.Glob(files, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	list := make([]migration, 0, len(names))
	for i, name := range names {
		n, err := strconv.Atoi(path.Base(name)[:4])
		if err != nil || n != i+1 {
			return nil, fmt.Errorf("migration %s: its number must be %04d", name, i+1)
		}
		text, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		list = append(list, migration{n, string(text)})
	}
	return list, nil
}

// Schema is how a database's schema compares with what this program knows.
type Schema int

// What Check finds.
const (
	Current Schema = iota // the two are the same
	Older                 // Open will migrate it; also when there is no database yet
	Newer                 // Open will refuse it
)

// Check compares the schema of the database at path with this program's. It changes
// nothing, and a daemon may have the database open. For a damaged one it returns Open's
// error.
func Check(ctx context.Context, path string) (Schema, error) {
	list, err := migrations()
	if err != nil {
		return Newer, err
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return Older, nil
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: "mode=ro"}).String())
	if err != nil {
		return Newer, err
	}
	defer func() { _ = db.Close() }() // nothing was written
	at, err := schema(ctx, db)
	switch {
	case err != nil:
		return Newer, explain(path, err)
	case at > len(list):
		return Newer, nil
	case at < len(list):
		return Older, nil
	}
	return Current, nil
}

func schema(ctx context.Context, db *sql.DB) (at int, err error) {
	err = db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&at)
	return at, err
}

// migrate applies the missing migrations, each with its number in one transaction. It
// refuses a database of a newer program, and doesn't change it.
func migrate(ctx context.Context, db *sql.DB) error {
	list, err := migrations()
	if err != nil {
		return err
	}
	at, err := schema(ctx, db)
	if err != nil {
		return err
	}
	if at > len(list) {
		return banger.Errorf(banger.CodeInvalid, "the database has schema %d, this program knows %d at most", at, len(list)).
			WithHint("it was written by a newer banger: install that version or a later one; nothing was changed")
	}
	for _, m := range list[at:] {
		if err := apply(ctx, db, m); err != nil {
			return fmt.Errorf("migration %04d: %w", m.number, err)
		}
	}
	return nil
}

func apply(ctx context.Context, db *sql.DB, m migration) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, m.sql); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version=%d", m.number)); err != nil {
		return err
	}
	return tx.Commit()
}

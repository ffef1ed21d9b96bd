package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
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

// migrate applies what is missing, each migration with its number in one
// transaction. A database from the future is refused untouched.
func migrate(ctx context.Context, db *sql.DB) error {
	list, err := migrations()
	if err != nil {
		return err
	}
	var at int
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&at); err != nil {
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

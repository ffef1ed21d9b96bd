package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"banger"
)

// VMs returns all VMs, oldest first.
func (s *Store) VMs(ctx context.Context) ([]banger.VM, error) {
	return documents[banger.VM](ctx, s.db, "SELECT doc FROM vms ORDER BY created, id")
}

// Ops returns the operations in flight, oldest first.
func (s *Store) Ops(ctx context.Context) ([]banger.Op, error) {
	return documents[banger.Op](ctx, s.db, "SELECT doc FROM ops ORDER BY opened, vm")
}

// Commit records a VM and its operation; see banger.Store.
func (s *Store) Commit(ctx context.Context, vm banger.VM, op *banger.Op, durable bool) error {
	return s.tx(ctx, durable, func(ctx context.Context, tx *sql.Tx) error {
		if vm.State == banger.Gone {
			return run(ctx, tx, "DELETE FROM vms WHERE id = ?", vm.ID)
		}
		if err := references(ctx, tx, vm); err != nil {
			return err
		}
		if err := putVM(ctx, tx, vm); err != nil {
			return err
		}
		if op == nil {
			return run(ctx, tx, "DELETE FROM ops WHERE vm = ?", vm.ID)
		}
		doc, err := json.Marshal(op)
		if err != nil {
			return err
		}
		return run(ctx, tx, "INSERT INTO ops (vm, opened, doc) VALUES (?, ?, ?) ON CONFLICT (vm) DO UPDATE SET opened = excluded.opened, doc = excluded.doc",
			vm.ID, stamp(op.Opened), string(doc))
	})
}

// references checks what a new VM names. An old one keeps what it has: images
// and kernels in use can't be deleted.
func references(ctx context.Context, tx *sql.Tx, vm banger.VM) error {
	known, err := exists(ctx, tx, "SELECT 1 FROM vms WHERE id = ?", vm.ID)
	if err != nil || known {
		return err
	}
	for _, ref := range []struct{ noun, query, id string }{
		{"image", "SELECT 1 FROM images WHERE id = ?", vm.ImageID},
		{"kernel", "SELECT 1 FROM kernels WHERE id = ?", vm.KernelID},
	} {
		ok, err := exists(ctx, tx, ref.query, ref.id)
		if err != nil {
			return err
		}
		if !ok {
			return banger.Errorf(banger.CodeNotFound, "%s %s isn't there any more", ref.noun, ref.id)
		}
	}
	return nil
}

func putVM(ctx context.Context, tx *sql.Tx, vm banger.VM) error {
	if vm.State != banger.Deleting {
		taken, err := exists(ctx, tx, "SELECT 1 FROM vms WHERE name = ? AND id <> ? AND state <> 'deleting'", vm.Spec.Name, vm.ID)
		if err != nil {
			return err
		}
		if taken {
			return banger.Errorf(banger.CodeConflict, "a VM named %q exists", vm.Spec.Name).
				WithHint("choose another --name, or delete it: banger vm delete %s", vm.Spec.Name)
		}
	}
	doc, err := json.Marshal(vm)
	if err != nil {
		return err
	}
	return run(ctx, tx, `INSERT INTO vms (id, name, state, image, kernel, created, doc) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET name = excluded.name, state = excluded.state, image = excluded.image,
		kernel = excluded.kernel, created = excluded.created, doc = excluded.doc`,
		vm.ID, vm.Spec.Name, string(vm.State), vm.ImageID, vm.KernelID, stamp(vm.Created), string(doc))
}

func run(ctx context.Context, tx *sql.Tx, query string, args ...any) error {
	if _, err := tx.ExecContext(ctx, query, args...); err != nil {
		return fmt.Errorf("database: %w", err)
	}
	return nil
}

func exists(ctx context.Context, tx *sql.Tx, query string, args ...any) (bool, error) {
	var one int
	switch err := tx.QueryRowContext(ctx, query, args...).Scan(&one); err {
	case nil:
		return true, nil
	case sql.ErrNoRows:
		return false, nil
	default:
		return false, fmt.Errorf("database: %w", err)
	}
}

func documents[T any](ctx context.Context, db *sql.DB, query string) ([]T, error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	defer rows.Close()
	var list []T
	for rows.Next() {
		var doc []byte
		var v T
		if err := rows.Scan(&doc); err != nil {
			return nil, fmt.Errorf("database: %w", err)
		}
		if err := json.Unmarshal(doc, &v); err != nil {
			return nil, fmt.Errorf("database: a record of %T: %w", v, err)
		}
		list = append(list, v)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("database: %w", err)
	}
	return list, nil
}

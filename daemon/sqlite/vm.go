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

// Plans returns all plans, oldest first.
func (s *Store) Plans(ctx context.Context) ([]banger.Plan, error) {
	return documents[banger.Plan](ctx, s.db, "SELECT doc FROM plans ORDER BY opened, id")
}

// Commit records VMs and their plan; see banger.Store.
func (s *Store) Commit(ctx context.Context, vms []banger.VM, plan *banger.Plan, durable bool) error {
	return s.tx(ctx, durable, func(ctx context.Context, tx *sql.Tx) error {
		for _, vm := range vms {
			if err := putVM(ctx, tx, vm); err != nil {
				return err
			}
		}
		if plan == nil {
			return nil
		}
		doc, err := json.Marshal(plan)
		if err != nil {
			return err
		}
		err = run(ctx, tx, "INSERT INTO plans (id, opened, doc) VALUES (?, ?, ?)", plan.ID, stamp(plan.Opened), string(doc))
		for _, vm := range plan.Subjects {
			if err == nil {
				err = run(ctx, tx, "INSERT INTO subjects (vm, plan) VALUES (?, ?)", vm, plan.ID)
			}
		}
		return err
	})
}

// putVM records a VM, or removes it, and ends the plan it had.
func putVM(ctx context.Context, tx *sql.Tx, vm banger.VM) error {
	if err := run(ctx, tx, "DELETE FROM plans WHERE id = (SELECT plan FROM subjects WHERE vm = ?)", vm.ID); err != nil {
		return err
	}
	if vm.State == banger.Gone {
		return run(ctx, tx, "DELETE FROM vms WHERE id = ?", vm.ID)
	}
	if err := references(ctx, tx, vm); err != nil {
		return err
	}
	if err := nameFree(ctx, tx, vm); err != nil {
		return err
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

// references checks that a new VM's image and kernel are recorded. An old VM's are, as
// images and kernels in use can't be deleted.
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

// nameFree returns CodeConflict if another VM has the name, and neither is being deleted.
func nameFree(ctx context.Context, tx *sql.Tx, vm banger.VM) error {
	if vm.State == banger.Deleting {
		return nil
	}
	taken, err := exists(ctx, tx, "SELECT 1 FROM vms WHERE name = ? AND id <> ? AND state <> 'deleting'", vm.Spec.Name, vm.ID)
	if err != nil {
		return err
	}
	if taken {
		return banger.Errorf(banger.CodeConflict, "a VM named %q exists", vm.Spec.Name).
			WithHint("choose another --name, or delete that VM: `banger rm %s`", vm.Spec.Name)
	}
	return nil
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

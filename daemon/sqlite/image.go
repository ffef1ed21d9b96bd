package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"banger"
)

// Images returns all image names, by name.
func (s *Store) Images(ctx context.Context) ([]banger.Image, error) {
	return documents[banger.Image](ctx, s.db, "SELECT doc FROM images ORDER BY name")
}

// PutImage gives an image a name; see banger.Store.
func (s *Store) PutImage(ctx context.Context, img banger.Image, replace bool) error {
	return s.tx(ctx, true, func(ctx context.Context, tx *sql.Tx) error {
		old, err := imageNamed(ctx, tx, img.Name)
		if err != nil && err != sql.ErrNoRows {
			return err
		}
		if err == nil && old.ID != img.ID {
			if !replace {
				return banger.Errorf(banger.CodeConflict, "an image named %q exists", img.Name).
					WithHint("choose another name, or replace it with --replace; VMs made from the old one keep it")
			}
			return rename(ctx, tx, old, img)
		}
		return putImage(ctx, tx, img)
	})
}

// DeleteImage removes a name; see banger.Store.
func (s *Store) DeleteImage(ctx context.Context, name string) error {
	return s.tx(ctx, true, func(ctx context.Context, tx *sql.Tx) error {
		img, err := imageNamed(ctx, tx, name)
		if err == sql.ErrNoRows {
			return banger.Errorf(banger.CodeNotFound, "no image %q", name)
		}
		if err != nil {
			return err
		}
		last, used, err := standing(ctx, tx, img)
		if err != nil {
			return err
		}
		if last && used {
			return banger.Errorf(banger.CodeConflict, "image %q is in use", name).
				WithHint("`banger ps` lists the VMs; delete those made from it first")
		}
		return run(ctx, tx, "DELETE FROM images WHERE name = ?", name)
	})
}

// rename moves a name from one image to another. If it was the last name of an image that a
// VM still uses, that image gets a name made of its id.
func rename(ctx context.Context, tx *sql.Tx, from, to banger.Image) error {
	last, used, err := standing(ctx, tx, from)
	if err != nil {
		return err
	}
	if err := putImage(ctx, tx, to); err != nil || !last || !used {
		return err
	}
	var failed error
	from.Name = banger.NameOfImage(from.ID, func(name string) bool {
		taken, err := exists(ctx, tx, "SELECT 1 FROM images WHERE name = ?", name)
		failed = errors.Join(failed, err)
		return taken && err == nil
	})
	if failed != nil {
		return failed
	}
	return putImage(ctx, tx, from)
}

// standing reports whether this is the image's last name, and whether a VM uses the image.
func standing(ctx context.Context, tx *sql.Tx, img banger.Image) (last, used bool, err error) {
	other, err := exists(ctx, tx, "SELECT 1 FROM images WHERE id = ? AND name <> ?", img.ID, img.Name)
	if err != nil {
		return false, false, err
	}
	used, err = exists(ctx, tx, "SELECT 1 FROM vms WHERE image = ?", img.ID)
	return !other, used, err
}

func imageNamed(ctx context.Context, tx *sql.Tx, name string) (img banger.Image, err error) {
	var doc []byte
	if err := tx.QueryRowContext(ctx, "SELECT doc FROM images WHERE name = ?", name).Scan(&doc); err != nil {
		return img, err
	}
	return img, json.Unmarshal(doc, &img)
}

func putImage(ctx context.Context, tx *sql.Tx, img banger.Image) error {
	doc, err := json.Marshal(img)
	if err != nil {
		return err
	}
	return run(ctx, tx, "INSERT OR REPLACE INTO images (name, id, doc) VALUES (?, ?, ?)", img.Name, img.ID, string(doc))
}

// Kernels returns all kernels, oldest first.
func (s *Store) Kernels(ctx context.Context) ([]banger.Kernel, error) {
	return documents[banger.Kernel](ctx, s.db, "SELECT doc FROM kernels ORDER BY created, id")
}

// DeleteKernel forgets a kernel; see banger.Store.
func (s *Store) DeleteKernel(ctx context.Context, id string) error {
	return s.tx(ctx, true, func(ctx context.Context, tx *sql.Tx) error {
		switch used, err := exists(ctx, tx, "SELECT 1 FROM vms WHERE kernel = ?", id); {
		case err != nil:
			return err
		case used:
			return banger.Errorf(banger.CodeConflict, "kernel %s is in use", id).
				WithHint("`banger ps` lists the VMs; delete those made from it first")
		}
		switch there, err := exists(ctx, tx, "SELECT 1 FROM kernels WHERE id = ?", id); {
		case err != nil:
			return err
		case !there:
			return banger.Errorf(banger.CodeNotFound, "no kernel %s", id)
		}
		return run(ctx, tx, "DELETE FROM kernels WHERE id = ?", id)
	})
}

// PutKernel records a kernel; see banger.Store.
func (s *Store) PutKernel(ctx context.Context, k banger.Kernel) error {
	doc, err := json.Marshal(k)
	if err != nil {
		return err
	}
	return s.tx(ctx, true, func(ctx context.Context, tx *sql.Tx) error {
		return run(ctx, tx, "INSERT OR REPLACE INTO kernels (id, created, doc) VALUES (?, ?, ?)", k.ID, stamp(k.Created), string(doc))
	})
}

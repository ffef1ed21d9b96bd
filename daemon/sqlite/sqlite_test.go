package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"banger"
	"banger/daemon/sqlite"
	"banger/test/storetest"
)

func open(t testing.TB, path string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Subject {
		// A name that a URI or a query string could trip over.
		path := filepath.Join(t.TempDir(), "a ?mode=ro&%2f#b.db")
		s := open(t, path)
		return storetest.Subject{Store: s, Reopen: func() banger.Store {
			_ = s.Close()
			return open(t, path)
		}}
	})
}

func TestFilesArePrivate(t *testing.T) {
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "db"))
	if err := s.PutKernel(t.Context(), banger.Kernel{ID: "cccccccccccc"}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) < 3 {
		t.Fatalf("%v, %v: database, log and lock expected", entries, err)
	}
	for _, e := range entries {
		if st, err := e.Info(); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v (%v)", e.Name(), st.Mode(), err)
		}
	}
}

func TestSecondDaemonIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	first := open(t, path)
	_, err := sqlite.Open(t.Context(), path)
	if banger.CodeOf(err) != banger.CodeConflict {
		t.Fatalf("a second store was opened beside the first: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, path)
}

// raw runs a statement on the file behind the store's back.
func raw(t *testing.T, path, query string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.Exec(query); err != nil {
		t.Fatal(err)
	}
}

func TestNewerDatabaseIsRefusedUntouched(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	_ = open(t, path).Close()
	raw(t, path, "PRAGMA user_version=9999; CREATE TABLE from_the_future (x)")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = sqlite.Open(t.Context(), path)
	if banger.CodeOf(err) != banger.CodeInvalid || !strings.Contains(err.Error(), "9999") {
		t.Fatalf("got %v", err)
	}
	if after, _ := os.ReadFile(path); string(after) != string(before) {
		t.Error("the refused database was changed")
	}
}

func TestDamagedDatabaseIsRefusedUntouched(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	junk := []byte(strings.Repeat("this is no database ", 500))
	if err := os.WriteFile(path, junk, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := sqlite.Open(t.Context(), path)
	if banger.CodeOf(err) != banger.CodeInvalid {
		t.Fatalf("got %v", err)
	}
	if after, _ := os.ReadFile(path); string(after) != string(junk) {
		t.Error("the damaged database was changed")
	}
}

// Damage in the middle of the file is found when it is opened, not later.
func TestDamageInside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := open(t, path)
	for i := range 200 {
		if err := s.PutKernel(t.Context(), banger.Kernel{ID: fmt.Sprintf("%012x", i), Source: strings.Repeat("x", 500)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	for at := page; at < len(whole); at += page {
		hurt := append([]byte(nil), whole...)
		copy(hurt[at:], strings.Repeat("\xff", page))
		if err := os.WriteFile(path, hurt, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := sqlite.Open(t.Context(), path)
		if err == nil {
			_ = s.Close()
		}
		if banger.CodeOf(err) != banger.CodeInvalid {
			t.Errorf("page %d of %d: %v", at/page, len(whole)/page, err)
		}
		if after, _ := os.ReadFile(path); string(after) != string(hurt) {
			t.Errorf("page %d: the damaged database was changed", at/page)
		}
	}
}

// Many writers and readers at once: nothing is lost and nothing is "locked".
func TestConcurrent(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	if err := s.PutImage(t.Context(), banger.Image{ID: "aaaaaaaaaaaa", Name: "debian"}, false); err != nil {
		t.Fatal(err)
	}
	if err := s.PutKernel(t.Context(), banger.Kernel{ID: "cccccccccccc"}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			vm := banger.VM{
				ID: fmt.Sprintf("%012x", i), State: banger.Stopped, ImageID: "aaaaaaaaaaaa", KernelID: "cccccccccccc",
				Spec: banger.Spec{Name: fmt.Sprintf("vm-%d", i)}, Created: time.Now(),
			}
			for n := range 10 {
				vm.Boots = n
				if err := s.Commit(t.Context(), []banger.VM{vm}, nil, n%2 == 0); err != nil {
					t.Error(err)
				}
				if _, err := s.VMs(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	list, err := s.VMs(t.Context())
	if err != nil || len(list) != 20 {
		t.Fatalf("%d VMs, %v", len(list), err)
	}
	for _, vm := range list {
		if vm.Boots != 9 {
			t.Errorf("vm %s: the last write was lost: %d", vm.ID, vm.Boots)
		}
	}
}

// A client that has left doesn't make the outcome of its commit unknown.
func TestCommitOutlivesItsContext(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "db"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.PutKernel(ctx, banger.Kernel{ID: "cccccccccccc"}); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkCommit(b *testing.B) {
	for _, durable := range []bool{false, true} {
		b.Run(fmt.Sprintf("durable=%v", durable), func(b *testing.B) {
			s := open(b, filepath.Join(b.TempDir(), "db"))
			if err := s.PutImage(b.Context(), banger.Image{ID: "aaaaaaaaaaaa", Name: "debian"}, false); err != nil {
				b.Fatal(err)
			}
			if err := s.PutKernel(b.Context(), banger.Kernel{ID: "cccccccccccc"}); err != nil {
				b.Fatal(err)
			}
			vm := banger.VM{ID: "111111111111", State: banger.Stopped, ImageID: "aaaaaaaaaaaa", KernelID: "cccccccccccc"}
			for b.Loop() {
				if err := s.Commit(b.Context(), []banger.VM{vm}, nil, durable); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What the first schema said by a forged end is a plan now, and ends are the truth.
func TestForgedEnds(t *testing.T) {
	text, err := os.ReadFile("testdata/flight-1.sql")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "db")
	raw(t, path, string(text))
	s := open(t, path)
	vms, err := s.VMs(t.Context())
	if err != nil || len(vms) != 20 {
		t.Fatalf("%d VMs, %v", len(vms), err)
	}
	names := map[string]string{}
	for _, vm := range vms {
		names[vm.ID] = vm.Spec.Name
		want, forged := map[string]banger.Exit{
			"stop-reboot": {Kind: banger.ExitReboot}, "stopped-reboot": {Kind: banger.ExitReboot}, "stopped": {Kind: banger.ExitPoweroff},
			"stopped-forged": {Kind: banger.ExitPoweroff}, "stopped-forged-cold": {Kind: banger.ExitKilled, Detail: "by request"},
		}[vm.Spec.Name]
		if forged && (vm.Exit == nil || vm.Exit.Kind != want.Kind || vm.Exit.Detail != want.Detail || vm.Exit.Time.IsZero()) {
			t.Errorf("%s ended by %+v, want %+v", vm.Spec.Name, vm.Exit, want)
		}
	}
	plans, err := s.Plans(t.Context())
	if err != nil || len(plans) != 18 {
		t.Fatalf("%d plans, %v", len(plans), err)
	}
	for _, p := range plans {
		name := names[p.Subjects[0]]
		verb, how, _ := strings.Cut(name, "-")
		kind, direction := banger.PlanKind(verb), map[string]banger.Direction{"create": banger.Back, "start": banger.Back, "stop": banger.Forward, "delete": banger.Forward, "restart": banger.Again}[verb]
		switch {
		case name == "unknown":
			kind, direction = "freeze", ""
		case verb == "stopped" || how == "reboot":
			kind, direction = banger.PlanRestart, banger.Again
		}
		if p.Kind != kind || p.Direction != direction || len(p.Subjects) != 1 || p.Opened.IsZero() || p.Cold != strings.HasSuffix(name, "-cold") || (verb == "stopped") != (len(p.Begun) == 0) {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

// A database of any released version is brought up to date and means what it
// meant. A new version adds a file; none ever changes.
func TestReleasedDatabases(t *testing.T) {
	files, err := filepath.Glob("testdata/released/*.sql")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "db")
		raw(t, path, string(text))
		s := open(t, path)
		vms, err := s.VMs(t.Context())
		if err != nil || len(vms) != 2 {
			t.Fatalf("%s: %+v, %v", file, vms, err)
		}
		web, db := vms[0], vms[1]
		if web.ID != "56ac692ca05f" || web.Spec.Name != "web" || web.State != banger.Running || web.Boots != 1 || web.Spec.MemoryMiB != 256 ||
			web.Held.VMM.PID != 26840 || web.Held.Shim.StartTime != 551070 || web.Held.RAMFile == "" || web.Started.IsZero() {
			t.Errorf("%s: %+v", file, web)
		}
		if db.State != banger.Creating || db.Spec.DiskMiB != 10240 || db.ImageID != "e4fa8d7247ff" || db.KernelID != "03a6c46371fb" {
			t.Errorf("%s: %+v", file, db)
		}
		plans, err := s.Plans(t.Context())
		if err != nil || len(plans) != 1 || !slices.Equal(plans[0].Subjects, []string{db.ID}) || plans[0].Kind != banger.PlanCreate ||
			plans[0].Direction != banger.Back || len(plans[0].Begun) != 2 {
			t.Errorf("%s: %+v, %v", file, plans, err)
		}
		images, err := s.Images(t.Context())
		if err != nil || len(images) != 1 || images[0].ID != "e4fa8d7247ff" {
			t.Errorf("%s: %+v, %v", file, images, err)
		}
		kernels, err := s.Kernels(t.Context())
		if err != nil || len(kernels) != 1 || kernels[0].Version != "6.1.0-50-cloud-amd64" {
			t.Errorf("%s: %+v, %v", file, kernels, err)
		}
		if err := s.Commit(t.Context(), []banger.VM{web}, nil, true); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

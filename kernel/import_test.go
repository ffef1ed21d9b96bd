package kernel_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger"
	"banger/kernel"
)

// tarred packs files, by name.
func tarred(files ...[2]string) *bytes.Reader {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	for _, f := range files {
		if err := t.WriteHeader(&tar.Header{Name: f[0], Mode: 0o644, Size: int64(len(f[1]))}); err != nil {
			panic(err)
		}
		_, _ = io.WriteString(t, f[1])
	}
	_ = t.Close()
	return bytes.NewReader(b.Bytes())
}

// What a user brings becomes a kernel, whatever form it has, and the same twice is one.
func TestImport(t *testing.T) {
	k := kernels(t)
	image, tables := string(bzImage(gzipped(elfKernel()))), "lib/modules/"+testVersion+"/modules.builtin"
	for form, in := range map[string]func() io.Reader{
		"package": func() io.Reader { return tarred([2]string{"linux.deb", string(goodDeb())}) },
		"packages": func() io.Reader {
			return tarred([2]string{"a.deb", string(deb([2]string{"./boot/vmlinuz-" + testVersion, image}))}, [2]string{"b.deb", string(deb([2]string{"./" + tables, builtin}))})
		},
		"directory": func() io.Reader {
			return tarred([2]string{"boot/vmlinuz-" + testVersion, image}, [2]string{"boot/config-" + testVersion, "CONFIG_X=y\n"}, [2]string{"usr/" + tables, builtin})
		},
		"build": func() io.Reader {
			return tarred([2]string{"vmlinux", string(elfKernel())}, [2]string{"config", "CONFIG_X=y\n"}, [2]string{tables, builtin})
		},
	} {
		t.Run(form, func(t *testing.T) {
			got, err := k.Import(t.Context(), form, "here", in(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if got.Name != form || got.Version != testVersion || !got.Imported || !strings.HasPrefix(got.Source, "here sha256:") {
				t.Errorf("imported %+v", got)
			}
			boot, err := k.Boot(t.Context(), got.ID)
			if err != nil {
				t.Fatal(err)
			}
			if data, err := os.ReadFile(boot.Vmlinux); err != nil || !bytes.Equal(data, elfKernel()) {
				t.Errorf("vmlinux: %d bytes, %v", len(data), err)
			}
			if _, err := os.Stat(boot.Modules); err != nil {
				t.Error(err)
			}
			again, err := k.Import(t.Context(), form, "here", in(), nil)
			if err != nil || again.ID != got.ID || !again.Created.Equal(got.Created) {
				t.Errorf("a second time: %+v, %v", again, err)
			}
			if found, err := k.Remove(got.ID); err != nil || !found {
				t.Errorf("removed: %v, %v", found, err)
			}
		})
	}
	if got, err := k.Import(t.Context(), "", "", tarred([2]string{"linux.deb", string(goodDeb())}), nil); err != nil || got.Name != testVersion {
		t.Errorf("without a name: %+v, %v", got, err)
	}
	left, err := filepath.Glob(filepath.Join(k.Dir, ".pull-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// What is no kernel is refused with a word that helps, and nothing is left.
func TestImportRefuses(t *testing.T) {
	k := kernels(t)
	image := string(bzImage(gzipped(elfKernel())))
	whole := [2]string{"linux.deb", string(goodDeb())}
	many := make([][2]string, 17)
	for i := range many {
		many[i] = [2]string{"a.deb", string(deb([2]string{"./x", ""}))}
	}
	for name, c := range map[string]struct {
		name string
		in   io.Reader
		code banger.Code
		want string
	}{
		"the archive's name": {"debian-12-cloud", tarred(whole), banger.CodeInvalid, "is a kernel of the archive"},
		"a path as name":     {"../x", tarred(whole), banger.CodeInvalid, "can't be a kernel's name"},
		"an id as name":      {"0123456789ab", tarred(whole), banger.CodeInvalid, "can't be a kernel's name"},
		"no tar":             {"x", strings.NewReader(strings.Repeat("no tar ", 200)), banger.CodeInvalid, "entry 0"},
		"cut off":            {"x", io.LimitReader(tarred(whole), 900), banger.CodeInvalid, "unexpected EOF"},
		"nothing":            {"x", tarred(), banger.CodeInvalid, "there is no boot/vmlinuz-VERSION"},
		"no modules":         {"x", tarred([2]string{"vmlinux", string(elfKernel())}), banger.CodeInvalid, "there is no boot/vmlinuz-VERSION"},
		"no kernel":          {"x", tarred([2]string{"lib/modules/6.1/modules.builtin", builtin}), banger.CodeInvalid, "there is no boot/vmlinuz-VERSION"},
		"a driver missing":   {"x", tarred([2]string{"vmlinux", string(elfKernel())}, [2]string{"lib/modules/6.1/modules.builtin", strings.Replace(builtin, "erofs.ko\n", "", 1)}), banger.CodeInvalid, "no module erofs"},
		"two kernels":        {"x", tarred([2]string{"vmlinux", string(elfKernel())}, [2]string{"bzImage", image}), banger.CodeInvalid, "the second kernel"},
		"two versions":       {"x", tarred([2]string{"boot/vmlinuz-6.1", image}, [2]string{"lib/modules/6.2/modules.builtin", builtin}), banger.CodeInvalid, "kernel version"},
		"a file as kernel":   {"x", tarred([2]string{"vmlinux", "text"}), banger.CodeInvalid, "neither an ELF file nor a bzImage"},
		"a file as package":  {"x", tarred([2]string{"x.deb", "text"}), banger.CodeInvalid, "not an ar archive"},
		"many packages":      {"x", tarred(many...), banger.CodeInvalid, "more than 16 packages"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := k.Import(t.Context(), c.name, "", c.in, nil)
			if banger.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", banger.CodeOf(err), err)
			}
		})
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("gave up"))
	if _, err := k.Import(ctx, "x", "", tarred(whole), nil); banger.CodeOf(err) != banger.CodeCanceled {
		t.Errorf("canceled: %v", err)
	}
	for _, pattern := range []string{".pull-*", "*/kernel.json"} {
		if left, err := filepath.Glob(filepath.Join(k.Dir, pattern)); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
}

// What pulls and imports left that died goes; what is under way stays.
func TestClean(t *testing.T) {
	k := kernels(t)
	dead := []string{".pull-+import-1", ".pull-debian-13-uml-2"}
	for _, dir := range dead {
		if err := os.MkdirAll(filepath.Join(k.Dir, dir, "boot"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	in, feed := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := k.Import(t.Context(), "x", "", in, nil)
		done <- err
	}()
	if _, err := io.CopyN(feed, tarred([2]string{"linux.deb", string(goodDeb())}), 512); err != nil { // it has its lock
		t.Fatal(err)
	}
	if err := k.Clean(); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(k.Dir, ".pull-*")); len(left) != 2 {
		t.Errorf("beside an import: %v", left)
	}
	_ = feed.Close()
	if err := <-done; banger.CodeOf(err) != banger.CodeInvalid {
		t.Errorf("half a tar: %v", err)
	}
	if err := k.Clean(); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(k.Dir, ".pull-*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// All that can be fetched is offered, with what is known of it.
func TestOffers(t *testing.T) {
	m := newMirror(t, goodDeb())
	k := m.kernels(t)
	offers, err := k.Offers()
	if err != nil || len(offers) != 3 || offers[0].Name != "debian-12-cloud" || offers[0].ID != "" || offers[0].Looked != nil || offers[0].Download == 0 {
		t.Errorf("%+v, %v", offers, err)
	}
	got, err := k.Pull(t.Context(), kernel.DefaultName, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if offers, err = k.Offers(); err != nil || offers[0].ID != got.ID || offers[0].Version != testVersion || offers[0].Looked == nil || offers[0].Behind {
		t.Errorf("%+v, %v", offers, err)
	}
	if err := os.WriteFile(filepath.Join(k.Dir, ".newest-debian-12-cloud"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Offers(); err == nil {
		t.Error("a damaged note says nothing")
	}
}

// A package doesn't fill the disk up, however small it is.
func TestTakeLeavesRoom(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	text := strings.Repeat("m", 1000)
	for name, file := range map[string]struct{ ext, text string }{"plain": {"", text}, "packed": {".gz", string(gzipped([]byte(text)))}} {
		module := "lib/modules/6.1/kernel/" + name + "%s.ko" + file.ext
		if err := kernel.Take(kernel.MaxModules-1000, root, fmt.Sprintf(module, 1), strings.NewReader(file.text)); err != nil {
			t.Errorf("%s: as many as may be: %v", name, err)
		}
		if err := kernel.Take(kernel.MaxModules-999, root, fmt.Sprintf(module, 2), strings.NewReader(file.text)); err == nil || !strings.Contains(err.Error(), "the modules are larger than") {
			t.Errorf("%s: one byte more: %v", name, err)
		}
	}
}

package overlay_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger"
	"banger/image/erofs"
	"banger/image/ext4"
	"banger/image/node"
	"banger/image/overlay"
	"banger/image/rootfs"
	"banger/test/treetest"
)

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// base is an image with what changes can be made of.
func base(t *testing.T) (image string) {
	t.Helper()
	capability := treetest.File("bin/ping", "ping")
	capability.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}
	var entries []treetest.Entry
	entries = append(entries, treetest.Dir("./", 0o755), treetest.Dir("etc", 0o755), treetest.File("etc/conf", "old"), treetest.File("etc/gone", "gone"),
		treetest.Dir("bin", 0o755), capability, treetest.Hardlink("bin/ping6", "bin/ping"), treetest.Hardlink("etc/ping-again", "bin/ping"),
		treetest.Dir("tree", 0o750), treetest.Dir("tree/deep", 0o700), treetest.File("tree/deep/f", "deep"), treetest.File("tree/f", "f"), treetest.Hardlink("tree/g", "tree/f"),
		treetest.Dir("was-dir", 0o755), treetest.File("was-dir/x", "x"), treetest.File("was-file", "y"), treetest.Dir("again", 0o755), treetest.File("again/old", "old"),
		treetest.Dir("var", 0o755), treetest.Dir("var/lib", 0o755), treetest.Dir("var/lib/docker", 0o711), treetest.File("var/lib/docker/preloaded", "p"),
		treetest.Symlink("long-link", strings.Repeat("l", 200)), treetest.File("big", strings.Repeat("0123456789abcdef", 100000)))
	for i := range 300 {
		entries = append(entries, treetest.File(fmt.Sprintf("tree/many-%03d-%s", i, strings.Repeat("n", 200)), fmt.Sprint(i)))
	}
	image = filepath.Join(t.TempDir(), "image")
	out, err := os.Create(image)
	must(t, err)
	_, err = rootfs.Write(t.Context(), bytes.NewReader(treetest.Archive(t, entries...)), out, nil)
	must(t, err, out.Close())
	return image
}

// disk makes a disk as those of VMs are made, and mounts it.
func disk(t *testing.T) (file, at string) {
	t.Helper()
	file, at = filepath.Join(t.TempDir(), "disk"), t.TempDir()
	treetest.Run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-J", "size=16",
		"-O", "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,meta_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum", file, "10G")
	treetest.Run(t, "mount", "-o", "loop", file, at)
	t.Cleanup(func() { treetest.Run(t, "umount", at) })
	return file, at
}

// changes are what a VM's programs do.
const changes = `set -e
cd "$1"
echo new > etc/conf
chmod 600 etc/conf
rm etc/gone
echo more >> bin/ping6 # all three names of it change
mv tree moved
rm moved/f
echo in > moved/deep/new
rm -r was-dir && echo file > was-dir
rm was-file && mkdir was-file && echo in > was-file/f
rm -r again && mkdir again && echo new > again/new
mkfifo pipe
mknod device c 10 200
mknod block b 300 70000
ln -s "$(printf 'x%.0s' $(seq 70))" symlink
ln -s short short
printf a > "$(printf 'odd\nname\377')"
dd if=/dev/urandom of=random bs=1M count=5 2>/dev/null
truncate -s 100M sparse && printf end >> sparse
for i in $(seq 1 2 199); do printf $i | dd of=fragments bs=4096 seek=$i conv=notrunc 2>/dev/null; done
fallocate -l 1M reserved
mkdir many; for i in $(seq 1500); do echo $i > "many/file-with-a-name-that-fills-the-directory-$i"; done
for i in $(seq 1 3 1500); do rm "many/file-with-a-name-that-fills-the-directory-$i"; done
chown 70000:80000 many
touch -d '2101-02-03 04:05:06.789' many/file-with-a-name-that-fills-the-directory-2
touch -d '1931-02-03 04:05:06' moved/deep/f
setfattr -n user.note -v hello random
setfattr -n user.large -v "$(head -c 3000 /dev/zero | tr '\0' v)" random
setfattr -n trusted.mine -v t moved
chmod u+s bin/ping
ln random random-again
mkdir -p var/new/er
sync -f .
`

func changed(t *testing.T, clean bool) (image, file string, merged map[string]string) {
	t.Helper()
	treetest.Needs(t, true, "mount", "mke2fs", "fsck.erofs", "setfattr")
	image = base(t)
	low := treetest.Mount(t, image)
	file, at := disk(t)
	root := t.TempDir()
	must(t, os.Mkdir(at+"/upper", 0o755), os.Mkdir(at+"/work", 0o700), os.MkdirAll(at+"/data/docker/overlay2/l", 0o700), os.WriteFile(at+"/data/docker/state", []byte("s"), 0o600))
	treetest.Run(t, "mount", "-t", "overlay", "-o", fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work,redirect_dir=on,index=on,xino=on", low, at, at), "overlay", root)
	mounted := true
	t.Cleanup(func() {
		if mounted {
			treetest.Run(t, "umount", root)
		}
	})
	treetest.Run(t, "sh", "-c", changes, "sh", root)
	merged = treetest.Snapshot(t, root)
	disk := filepath.Join(t.TempDir(), "copy")
	if clean {
		treetest.Run(t, "umount", root)
		mounted = false
		treetest.Run(t, "mount", "-o", "remount,ro", at)
	}
	treetest.Run(t, "sync")
	treetest.Run(t, "cp", "--sparse=always", file, disk)
	return image, disk, merged
}

func open(t *testing.T, path string) (*os.File, int64) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	info, err := f.Stat()
	must(t, err)
	return f, info.Size()
}

func layer(content []byte) rootfs.Layer {
	sum := sha256.Sum256(content)
	return rootfs.Layer{Name: "a layer", DiffID: hex.EncodeToString(sum[:]), Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}}
}

// files leaves out how many links directories have: an overlay says 1 for those that it merges.
func files(tree map[string]string) map[string]string {
	for name, d := range tree {
		if strings.HasPrefix(d, "4") {
			before, after, _ := strings.Cut(d, " links ")
			_, after, _ = strings.Cut(after, " ")
			tree[name] = before + " " + after
		}
	}
	return tree
}

// The image with the layer made of a VM's disk over it is what the VM had, whether the
// disk was unmounted or the VM's power was cut.
func TestLayerIsWhatTheVMHad(t *testing.T) {
	for _, clean := range []bool{true, false} {
		t.Run(fmt.Sprint("clean ", clean), func(t *testing.T) {
			image, disk, want := changed(t, clean)
			im, err := erofs.NewReader(open(t, image))
			must(t, err)
			fs, err := ext4.Open(open(t, disk))
			must(t, err)
			c := overlay.Change{Image: im, Disk: fs, Upper: "upper"}
			var flat, top, again bytes.Buffer
			must(t, overlay.Flat(t.Context(), im, &flat), c.Write(t.Context(), &top), c.Write(t.Context(), &again))
			if !bytes.Equal(top.Bytes(), again.Bytes()) {
				t.Error("the same disk gave two layers")
			}
			out, err := os.Create(filepath.Join(t.TempDir(), "made"))
			must(t, err)
			_, err = rootfs.WriteLayers(t.Context(), []rootfs.Layer{layer(flat.Bytes()), layer(top.Bytes())}, out, nil)
			must(t, err, out.Close())
			got := treetest.Snapshot(t, treetest.Mount(t, out.Name()))
			if diff := cmp.Diff(files(want), files(got)); diff != "" {
				t.Errorf("the VM (-) and the image (+) differ:\n%s", diff)
			}
			if len(want) < 1000 {
				t.Errorf("%d names, a layer of %d bytes", len(want), top.Len())
			}
		})
	}
}

// names is a tree in memory whose directories are lists.
type names map[uint64][]node.Name

func (n names) Root() uint64 { return 2 }

func (n names) Attr(ino uint64) (node.Attr, error) {
	if ino == large {
		return node.Attr{Mode: node.ModeRegular, Size: 1 << 60}, nil
	}
	return node.Attr{Mode: node.ModeDir | 0o755}, nil
}

func (n names) Names(ino uint64) ([]node.Name, error) { return n[ino], nil }

func (n names) Content(uint64) (io.Reader, error) { return nil, io.EOF }

const large = 7

// many are directories that are all one.
func many(ino uint64) (list []node.Name) {
	for i := range 2000 {
		list = append(list, node.Name{Name: fmt.Sprint(10000 + i), Ino: ino})
	}
	return list
}

// A disk that no VM's programs can have written makes no layer, and the error says why.
func TestHostileDisks(t *testing.T) {
	for says, disk := range map[string]names{
		"a path of over":            {2: {{Name: "upper", Ino: 3}}, 3: {{Name: strings.Repeat("d", 200), Ino: 3}}},
		"more files than":           {2: {{Name: "upper", Ino: 3}}, 3: many(4), 4: many(5)},
		"which means that a file":   {2: {{Name: "upper", Ino: 3}}, 3: {{Name: ".wh.x", Ino: 4}}},
		"more bytes than an image":  {2: {{Name: "upper", Ino: 3}}, 3: {{Name: "x", Ino: large}}},
		"more bytes than an image ": {2: {{Name: "data", Ino: 3}}, 3: {{Name: "x", Ino: large}}},
	} {
		c := overlay.Change{Image: names{}, Disk: disk, Upper: "upper", Plain: map[string]string{"var/lib/docker": "data"}}
		if err := c.Write(t.Context(), io.Discard); banger.CodeOf(err) != banger.CodeInvalid || !strings.Contains(err.Error(), strings.TrimSpace(says)) {
			t.Errorf("%s: %v", says, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := overlay.Change{Image: names{}, Disk: names{2: {{Name: "upper", Ino: 3}}, 3: {{Name: "a", Ino: 4}}}, Upper: "upper"}
	if err := c.Write(ctx, io.Discard); banger.CodeOf(err) != banger.CodeCanceled {
		t.Errorf("canceled: %v", err)
	}
}

package vm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/test/vmtest"
)

// What a VM wrote is in the image that is saved of it, and in VMs of that, which are
// machines of their own; what Docker keeps there, too.
func TestSavedImage(t *testing.T) {
	h := vmtest.Configured(t, "memory_mib = 256\nvcpu = 1\n")
	name := h.NewVM(t)
	h.OK(t, "vm", "exec", name, "--", "sh", "-ec", `echo kept > /root/kept; mkdir -p /var/lib/docker/overlay2; echo image > /var/lib/docker/overlay2/x; mv /usr/share /usr/moved; ln -s moved /usr/share; rm /etc/issue
		grep -q '^[^ ]* [^ ]* [^ ]* [^ ]* /var/lib/docker ' /proc/self/mountinfo; test -c /dev/fuse -a -c /dev/net/tun; grep -q shared: /proc/self/mountinfo`)
	if r := h.Run(nil, "image", "save", name, "saved"); r.Status == 0 || !strings.Contains(string(r.Stderr), "banger vm stop "+name) {
		t.Errorf("a running VM was saved: %s", r.Stderr)
	}
	h.OK(t, "vm", "stop", name)
	h.OK(t, "image", "save", "-q", "-m", "of a test", name, "saved")
	t.Cleanup(func() { h.OK(t, "image", "delete", "saved") })
	if out := h.OK(t, "image", "history", "saved"); !strings.Contains(out, "banger image save "+name) {
		t.Errorf("history: %s", out)
	}
	other := h.NewVM(t, "--image", "saved", "--init", "agent")
	out := h.OK(t, "vm", "exec", other, "--", "sh", "-ec", `cat /root/kept /var/lib/docker/overlay2/x; hostname; test -d /usr/share/doc; test ! -e /etc/issue; readlink /proc/1/exe; cat /etc/machine-id`)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) < 5 || lines[0] != "kept" || lines[1] != "image" || lines[2] != other || !strings.Contains(lines[3], "init") {
		t.Errorf("a VM of the image has %q", lines)
	}
	archive := filepath.Join(t.TempDir(), "saved.tar")
	h.OK(t, "image", "export", "-q", "saved", archive)
	if info, err := os.Stat(archive); err != nil || info.Size() < 1<<20 {
		t.Errorf("%v, %v", info, err)
	}
}

// docker is what is done in a guest that has Docker: all that is needed comes from there,
// as no registry can be asked.
const docker = `set -e
if [ -d /run/systemd/system ]; then systemctl start docker; else dockerd >/var/log/dockerd.log 2>&1 & fi
for i in $(seq 300); do docker info >/dev/null 2>&1 && break; sleep 1; done
mkdir -p /tmp/box; cd /tmp/box; cp /bin/busybox .
printf 'FROM scratch\nCOPY busybox /bin/busybox\nRUN ["/bin/busybox","--install","/bin"]\nRUN echo built > /built\nCMD ["cat","/built"]\n' > Dockerfile
docker build -q -t box . >/dev/null
echo "run $(docker run --rm box)"
docker run -d --name web -p 8080:80 box httpd -f -p 80 -h / >/dev/null
for i in $(seq 60); do busybox wget -qO /tmp/got http://127.0.0.1:8080/built && break; sleep 1; done
echo "port $(cat /tmp/got)"
docker rm -f web >/dev/null
printf 'version: "3"\nservices:\n  a:\n    image: box\n    command: httpd -f -p 80 -h /\n  b:\n    image: box\n    depends_on: [a]\n    command: sh -c "until wget -qO- http://a/built; do sleep 1; done"\n' > docker-compose.yml
docker-compose up -d 2>/dev/null
for i in $(seq 120); do docker-compose logs --no-color b 2>/dev/null | grep -q built && break; sleep 1; done
echo "compose $(docker-compose logs --no-color b 2>/dev/null | grep -c built)"
`

// Docker runs, builds, publishes a port and composes in an image with an init and kmod, and
// in one without either.
func TestDocker(t *testing.T) {
	if !*vmtest.Long {
		t.Skip("not run: it builds two images, half an hour by emulation; -long runs it")
	}
	h := vmtest.Configured(t, "memory_mib = 1536\nvcpu = 2\n")
	for name, packages := range map[string]string{
		"with-init":    "systemd\nsystemd-sysv\nudev\ndbus\nkmod\nprocps\n",
		"without-init": "",
	} {
		t.Run(name, func(t *testing.T) {
			list := filepath.Join(t.TempDir(), "list")
			if err := os.WriteFile(list, []byte(packages+"apt\ndocker.io\ndocker-compose\niptables\nbusybox-static\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if r := h.Within(40*time.Minute, nil, "image", "build", "-q", name, "--list", list); r.Status != 0 {
				t.Fatalf("build: %s", r.Stderr)
			}
			t.Cleanup(func() { h.OK(t, "image", "delete", name) })
			vm := h.NewVM(t, "--image", name)
			r := h.Within(15*time.Minute, nil, "vm", "exec", vm, "--", "sh", "-c", docker)
			if r.Status != 0 || !strings.HasSuffix(string(r.Stdout), "run built\nport built\ncompose 1\n") {
				t.Errorf("status %d: %s%s", r.Status, r.Stdout, r.Stderr)
			}
		})
	}
}

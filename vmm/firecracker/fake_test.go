package firecracker_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"banger"
	"banger/guest/agent"
	"banger/guest/agent/session"
	"banger/guest/link"
	"banger/test/hypervisortest"
	"banger/vmm/firecracker"
)

// Where there is no Firecracker or no KVM the driver is held to the contract with a
// process that this test program plays: it has Firecracker's arguments, files and
// sockets, and a guest's agent behind its vsock. The real one passes the same suite,
// in the lab.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "firecracker" {
		if err := fakeFirecracker(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "Error:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func TestContractOnFake(t *testing.T) {
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "firecracker")
	copyFile(t, self, program)
	hypervisortest.Run(t, func(t *testing.T) hypervisortest.Bed {
		d := firecracker.New(firecracker.Config{
			Binaries: []string{program}, Shim: filepath.Join(bin, "banger-shim"), CacheDir: t.TempDir(),
		})
		m := banger.Machine{
			ID: strconv.FormatInt(time.Now().UnixNano(), 16), Dir: t.TempDir(), RAMDir: t.TempDir(), VCPU: 1, MemoryMiB: 256,
			Kernel: program, Initramfs: program, Net: banger.NetConfig{Mode: banger.NetNone},
		}
		killLater(t, d, m)
		return hypervisortest.Bed{Hypervisor: d, Machine: m, Host: host{}, NoRAMFile: true}
	})
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// fakeFirecracker is its main function. It returns errors, or never.
func fakeFirecracker(args []string) error {
	if slices.Contains(args, "--version") {
		fmt.Println("Firecracker v" + firecracker.Tested)
		os.Exit(0)
	}
	option := func(name string) string {
		if i := slices.Index(args, name); i >= 0 && i+1 < len(args) {
			return args[i+1]
		}
		return ""
	}
	if _, err := os.OpenFile(option("--log-path"), os.O_RDWR|syscall.O_NONBLOCK, 0); err != nil {
		return err
	}
	text, err := os.ReadFile(option("--config-file"))
	if err != nil {
		return err
	}
	api, err := net.Listen("unix", option("--api-sock"))
	if err != nil {
		return err
	}
	var config struct {
		Boot struct {
			Kernel string `json:"kernel_image_path"`
		} `json:"boot-source"`
		Vsock struct {
			Path string `json:"uds_path"`
		} `json:"vsock"`
	}
	if err := json.Unmarshal(text, &config); err != nil {
		return err
	}
	if _, err := os.Stat(config.Boot.Kernel); err != nil {
		return err
	}
	vsock, err := net.Listen("unix", config.Vsock.Path)
	if err != nil {
		return err
	}
	go fakeGuest(vsock)
	return http.Serve(api, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"id": option("--id"), "state": "Running", "vmm_version": firecracker.Tested})
	}))
}

// fakeGuest answers on its port with the agent's own server.
func fakeGuest(l net.Listener) {
	hosts := &listener{accepted: make(chan net.Conn)}
	go func() { _ = (&agent.Server{Sessions: &session.Table{}}).Serve(hosts) }()
	for {
		conn, err := l.Accept()
		if err != nil {
			os.Exit(3)
		}
		go func() {
			in := bufio.NewReader(conn)
			if line, err := in.ReadString('\n'); err != nil || line != "CONNECT 512\n" {
				_ = conn.Close()
				return
			}
			_, _ = io.WriteString(conn, "OK 1073741824\n")
			mux := link.New(struct {
				io.Reader
				io.WriteCloser
			}{in, conn}, link.Guest)
			for {
				stream, err := mux.Accept()
				if err != nil {
					return
				}
				hosts.accepted <- stream
			}
		}()
	}
}

// listener has the streams of all connections.
type listener struct{ accepted chan net.Conn }

func (l *listener) Accept() (net.Conn, error) { return <-l.accepted, nil }
func (l *listener) Close() error              { return nil }
func (l *listener) Addr() net.Addr            { return &net.UnixAddr{Name: "fake"} }

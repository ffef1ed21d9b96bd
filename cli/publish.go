package cli

import (
	"fmt"
	"net"
	"strings"

	"github.com/spf13/pflag"

	"banger"
)

// publishFlags are the ports of the host that are to lead to a VM.
type publishFlags struct {
	ports  portList
	listen string
}

func (f *publishFlags) add(fs *pflag.FlagSet) {
	fs.VarP(&f.ports, "publish", "p", "lead a port of this host to one of the VM: 8080:80, 80 (any free port), 127.0.0.1:8080:80, 5353:53/udp (repeatable)")
	fs.StringVar(&f.listen, "listen", "", "the address of this host where -p listens, if not 127.0.0.1 and ::1: other hosts may reach the VM there")
}

// list is what they ask for.
func (f *publishFlags) list() ([]banger.Published, error) {
	if f.listen != "" && net.ParseIP(f.listen) == nil {
		return nil, banger.Errorf(banger.CodeInvalid, "--listen %s: it isn't an IP address", f.listen)
	}
	if f.listen != "" && len(f.ports) == 0 {
		return nil, banger.Errorf(banger.CodeInvalid, "--listen says where -p listens, and no -p is given")
	}
	var list []banger.Published
	for _, p := range f.ports {
		if p.Address == "" {
			p.Address = f.listen
		} else if !p.Local() && p.Address != f.listen {
			return nil, banger.Errorf(banger.CodeInvalid, "-p %s: other hosts could reach the VM at %s", p, p.Address).
				WithHint("if they may, add --listen %s", p.Address)
		}
		list = append(list, p)
	}
	return list, nil
}

// portList is a flag's ports.
type portList []banger.Published

// Set implements pflag.Value.
func (l *portList) Set(text string) error {
	p, err := banger.ParsePublished(text)
	if err != nil {
		return err
	}
	*l = append(*l, p)
	return nil
}

// String implements pflag.Value.
func (l *portList) String() string { return portWords(*l, "") }

// Type implements pflag.Value.
func (l *portList) Type() string { return "port" }

// portWords lists ports as -p takes them, with an arrow in place of the last colon if one is given.
func portWords(ports []banger.Published, arrow string) string {
	var words []string
	for _, p := range ports {
		text := p.String()
		if i := strings.LastIndexByte(text, ':'); i >= 0 && arrow != "" {
			text = text[:i] + arrow + text[i+1:]
		}
		words = append(words, text)
	}
	return strings.Join(words, ", ")
}

// tellPorts says which ports of this host were chosen for a VM.
func tellPorts(a *App, vm banger.VM, asked []banger.Published) {
	for _, q := range asked {
		for _, p := range vm.Spec.Ports {
			if q.Port == 0 && q.Guest == p.Guest && q.Protocol == p.Protocol && q.Address == p.Address {
				a.note("%s leads to port %s of vm %s", at(p), fmt.Sprint(p.Guest), vm.Spec.Name)
			}
		}
	}
}

// at is where a client on this host finds a published port.
func at(p banger.Published) string {
	host := p.Address
	if host == "" || net.ParseIP(host).IsUnspecified() {
		host = "localhost"
	}
	where := net.JoinHostPort(host, fmt.Sprint(p.Port))
	if p.Protocol == "udp" {
		where += " (UDP)"
	}
	return where
}

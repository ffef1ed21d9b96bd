package flow

import (
	"context"

	"banger/guest"
)

// Port is a socket in a guest that waits for others.
type Port struct {
	Network string `json:"network"` // "tcp" or "udp"
	Address string `json:"address"` // that it is bound to; "0.0.0.0" and "::" are all
	Port    uint16 `json:"port"`
	User    string `json:"user,omitempty"` // the socket's
	PID     int    `json:"pid,omitempty"`  // of its process; 0: not known
	Process string `json:"process,omitempty"`
}

// Ports lists what waits in a guest, by port: at most 1,024. An agent that doesn't know the
// operation says guest.CodeInvalid.
func Ports(ctx context.Context, to guest.Dialer) ([]Port, error) {
	var list []Port
	conn, _, err := guest.Open(ctx, to, guest.OpPorts, nil, &list)
	if err != nil {
		return nil, err
	}
	_ = conn.Close() // the answer was all
	for i := range list {
		p := &list[i]
		p.Network, p.Address, p.User, p.Process = guest.Clean(p.Network), guest.Clean(p.Address), guest.Clean(p.User), guest.Clean(p.Process)
	}
	return list, nil
}

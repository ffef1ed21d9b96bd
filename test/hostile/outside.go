package main

import (
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Ports of who serves beyond the host.
const (
	portWeb   = 8000 // answers "served", for guests that mean well
	portHose  = 9001 // sends without end
	portSink  = 9002 // accepts and never reads
	portEcho  = 9003
	portShut  = 9004 // hangs up at once
	portAmpli = 9005 // UDP: ten datagrams for one
)

// trapPorts are where it would be noticed that a guest gets to its host.
var trapPorts = []int{22, 53, 80, 443, 8000, 9001}

// serveOutside serves on all addresses of its network namespace until it is killed.
func serveOutside() error {
	for port, serve := range map[int]func(net.Conn){
		portWeb: func(c net.Conn) {
			_, _ = c.Read(make([]byte, 4096))
			_, _ = io.WriteString(c, "HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\nserved\n")
			_ = c.Close()
		},
		portHose: func(c net.Conn) {
			defer c.Close()
			for b := make([]byte, 64<<10); ; {
				_ = c.SetWriteDeadline(time.Now().Add(5 * time.Minute))
				if _, err := c.Write(b); err != nil {
					return
				}
			}
		},
		portSink: func(c net.Conn) { time.Sleep(5 * time.Minute); _ = c.Close() },
		portEcho: func(c net.Conn) { defer c.Close(); _, _ = io.Copy(c, c) },
		portShut: func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0); _ = c.Close() },
	} {
		if err := listen(port, serve); err != nil {
			return err
		}
	}
	ampli, err := net.ListenPacket("udp4", fmt.Sprintf(":%d", portAmpli))
	if err != nil {
		return err
	}
	go func() {
		for b := make([]byte, 2048); ; {
			n, who, err := ampli.ReadFrom(b)
			for i := 0; err == nil && i < 10; i++ {
				_, _ = ampli.WriteTo(b[:max(n, 1200)], who)
			}
		}
	}()
	fmt.Println("ready")
	return serveNames()
}

func listen(port int, serve func(net.Conn)) error {
	l, err := net.Listen("tcp4", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	go func() {
		for {
			if c, err := l.Accept(); err == nil {
				go serve(c)
			} else {
				time.Sleep(10 * time.Millisecond) // out of descriptors
			}
		}
	}()
	return nil
}

// serveNames is a name server that lies where the name says so: "192-0-2-1.lie" has
// that address. Every other name is ours.
func serveNames() error {
	conn, err := net.ListenPacket("udp4", ":53")
	if err != nil {
		return err
	}
	for buf := make([]byte, 2048); ; {
		n, who, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		var m dnsmessage.Message
		if err := m.Unpack(buf[:n]); err != nil || len(m.Questions) != 1 {
			continue
		}
		q, addr := m.Questions[0], [4]byte{192, 0, 2, 2}
		if first, rest, ok := strings.Cut(q.Name.String(), "."); ok && rest == "lie." {
			if ip := net.ParseIP(strings.ReplaceAll(first, "-", ".")).To4(); ip != nil {
				copy(addr[:], ip)
			}
		}
		m = dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
		if q.Type == dnsmessage.TypeA {
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 1},
				Body:   &dnsmessage.AResource{A: addr},
			}}
		}
		if answer, err := m.Pack(); err == nil {
			_, _ = conn.WriteTo(answer, who)
		}
	}
}

// serveBare answers each connection to a Unix socket with a line, and does nothing else:
// what any process of this host takes to answer.
func serveBare(path string) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		_, _ = io.WriteString(c, "here\n")
		_ = c.Close()
	}
}

// serveTraps says a line for whatever gets to it, until it is killed.
func serveTraps() error {
	for _, port := range trapPorts {
		err := listen(port, func(c net.Conn) {
			fmt.Printf("caught: TCP from %s to %s\n", c.RemoteAddr(), c.LocalAddr())
			_ = c.Close()
		})
		if err != nil {
			return err
		}
		conn, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		go func() {
			for b := make([]byte, 2048); ; {
				if _, who, err := conn.ReadFrom(b); err == nil {
					fmt.Printf("caught: UDP from %s to port %d\n", who, port)
				}
			}
		}()
	}
	fmt.Println("ready")
	select {}
}

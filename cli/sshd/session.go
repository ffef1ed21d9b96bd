package sshd

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"banger/guest"
)

// Bounds of what a client may set for a command.
const (
	maxEnv     = 256
	maxEnvText = 64 << 10
)

// session is one command, or what is to become one.
type session struct {
	*client
	ch      ssh.Channel
	spec    guest.ExecSpec
	envText int
	agent   bool // the command may reach the client's agent
	resize  chan guest.WinSize
	signals chan string
	ended   context.Context // the channel's life
}

// session serves a channel from its requests to the command's status.
func (c *client) session(nc ssh.NewChannel) {
	ch, requests, err := nc.Accept()
	if err != nil {
		return // the client has left
	}
	ended, end := context.WithCancel(c.ctx)
	s := &session{client: c, ch: ch, spec: c.spec, resize: make(chan guest.WinSize, 1), signals: make(chan string, 8), ended: ended}
	s.spec.Env = slices.Clone(s.spec.Env)
	var done chan struct{} // nil until there is a command
	for r := range requests {
		starts := r.Type == "shell" || r.Type == "exec" || r.Type == "subsystem"
		ok := starts && done == nil && s.command(r) || !starts && s.setting(r, done != nil)
		if r.WantReply {
			_ = r.Reply(ok, nil) // it fails when the client has left
		}
		if starts && ok {
			done = make(chan struct{})
			go func() {
				defer close(done)
				s.run()
			}()
		}
	}
	end()
	if done != nil {
		<-done
	}
	_ = ch.Close()
}

// setting takes what a client sets before a command, or tells one that runs. X11 is
// refused, as all that isn't known.
func (s *session) setting(r *ssh.Request, running bool) bool {
	switch r.Type {
	case "env":
		var kv struct{ Name, Value string }
		if running || ssh.Unmarshal(r.Payload, &kv) != nil || kv.Name == "" || strings.ContainsAny(kv.Name, "=\x00") || strings.ContainsRune(kv.Value, 0) {
			return false
		}
		if s.envText += len(kv.Name) + len(kv.Value); s.envText > maxEnvText || len(s.spec.Env) >= maxEnv {
			return false
		}
		s.spec.Env = append(s.spec.Env, kv.Name+"="+kv.Value)
	case "pty-req":
		var pty struct {
			Term                      string
			Cols, Rows, Width, Height uint32
			Modes                     string
		}
		if running || ssh.Unmarshal(r.Payload, &pty) != nil {
			return false
		}
		s.spec.TTY, s.spec.Term = &guest.WinSize{Rows: uint16(pty.Rows), Cols: uint16(pty.Cols)}, pty.Term
	case "window-change":
		var size struct{ Cols, Rows, Width, Height uint32 }
		if ssh.Unmarshal(r.Payload, &size) != nil {
			return false
		}
		select {
		case <-s.resize: // the latest counts
		default:
		}
		s.resize <- guest.WinSize{Rows: uint16(size.Rows), Cols: uint16(size.Cols)}
	case "signal":
		var sig struct{ Name string }
		if ssh.Unmarshal(r.Payload, &sig) != nil {
			return false
		}
		select {
		case s.signals <- sig.Name:
		default: // eight wait already
		}
	case "auth-agent-req@openssh.com":
		s.agent = !running
		return s.agent
	default:
		return false
	}
	return true
}

// command makes the command of a request.
func (s *session) command(r *ssh.Request) bool {
	s.spec.ID, s.spec.Stdin = guest.NewID(), true
	var of struct{ Text string }
	if r.Type == "shell" {
		return true // no Argv: the login shell
	}
	if ssh.Unmarshal(r.Payload, &of) != nil {
		return false
	}
	if r.Type == "exec" {
		// An agent of before the flag runs this with sh.
		s.spec.Argv, s.spec.Shell = []string{"/bin/sh", "-c", of.Text}, true
		return true
	}
	s.spec.Argv, s.spec.Tool = []string{"sftp-server"}, "sftp-server"
	s.spec.TTY = nil
	return of.Text == "sftp"
}

// run runs the command and tells the client how it ended.
func (s *session) run() {
	if s.agent {
		if path := s.forwardAgent(); path != "" {
			s.spec.Env = append(s.spec.Env, "SSH_AUTH_SOCK="+path)
		}
	}
	s.spec.Env = append(s.spec.Env, "SSH_CONNECTION=127.0.0.1 0 127.0.0.1 22", "SSH_CLIENT=127.0.0.1 0 22")
	streams := guest.IO{Stdin: s.ch, Stdout: s.ch, Stderr: s.ch.Stderr(), Resize: s.resize, Signals: s.signals}
	if s.spec.TTY != nil { // a person sees it; a program would take what is left for all
		streams.Gap = func(_ string, n int64) {
			_, _ = fmt.Fprintf(s.ch.Stderr(), "banger: %d bytes of output were lost\r\n", n)
		}
	}
	st, err := s.Guest.Exec(s.ended, s.spec, streams)
	switch {
	case s.ended.Err() != nil && err != nil:
		s.hangUp()
		return
	case err != nil && st == guest.ExitStatus{}:
		_, _ = s.ch.Stderr().Write([]byte("banger: " + err.Error() + "\r\n"))
		s.hangUp() // nobody follows it any more
		st.Code = 255
	case st.Error != "":
		_, _ = s.ch.Stderr().Write([]byte("banger: " + st.Error + "\r\n"))
	}
	s.exit(st)
}

// hangUp tells a command whose client has left.
func (s *session) hangUp() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), goodbye)
	defer cancel()
	_ = s.Guest.Signal(ctx, s.spec.ID, "HUP") // it has ended, or the guest has
}

// named are the signals that SSH has names for (RFC 4254, 6.10).
var named = []string{"ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2"}

// exit sends a command's status, and then the channel's end: after that OpenSSH may close
// its side at once, and takes no status any more. What fails has no client any more.
func (s *session) exit(st guest.ExitStatus) {
	if slices.Contains(named, st.Signal) {
		_, _ = s.ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
			Name    string
			Core    bool
			Message string
			Lang    string
		}{Name: st.Signal}))
	} else {
		_, _ = s.ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{uint32(st.Code)}))
	}
	_ = s.ch.CloseWrite()
	_ = s.ch.Close()
}

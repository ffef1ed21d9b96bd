package sshd

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/crypto/ssh"
)

// Keys are the host keys of a user's VMs, in a directory of their own. All are made from
// one secret and the VM's id: so a deleted VM leaves no key behind.
type Keys struct {
	Dir string
}

// The files of Keys.
const (
	secretFile = "secret"
	knownFile  = "known_hosts"
	frontFile  = "known_hosts.serve"
	clientFile = "id_ed25519"
	secretSize = 32
)

// KnownHosts is the path of a file for ssh's UserKnownHostsFile.
func (k Keys) KnownHosts() string { return filepath.Join(k.Dir, knownFile) }

// Host returns the key of a VM and pins it to the host name that clients use, before they
// see it. names are the host names that are still in use; others are forgotten. Nil:
// it isn't known which are, and none is forgotten.
func (k Keys) Host(id, name string, names []string) (ssh.Signer, error) {
	secret, err := k.secret()
	if err != nil {
		return nil, err
	}
	key, err := derived(secret, "ssh host key of vm "+id)
	if err != nil {
		return nil, err
	}
	return key, k.pin(name, key.PublicKey(), names)
}

// Front returns the key of a server for all VMs at an address, and the path of a file for
// ssh's UserKnownHostsFile that has it.
func (k Keys) Front(address string) (key ssh.Signer, known string, err error) {
	secret, err := k.secret()
	if err != nil {
		return nil, "", err
	}
	if key, err = derived(secret, "ssh host key of all vms"); err != nil {
		return nil, "", err
	}
	err = k.locked(func() error {
		return k.replace(frontFile, append([]byte(address+" "), ssh.MarshalAuthorizedKey(key.PublicKey())...))
	})
	return key, filepath.Join(k.Dir, frontFile), err
}

// Client returns a key by which this user is let in, and the path of its file for clients
// of SSH.
func (k Keys) Client() (key ssh.PublicKey, path string, err error) {
	secret, err := k.secret()
	if err != nil {
		return nil, "", err
	}
	private := ed25519.NewKeyFromSeed(seed(secret, "ssh key of the user"))
	if key, err = ssh.NewPublicKey(private.Public()); err != nil {
		return nil, "", err
	}
	block, err := ssh.MarshalPrivateKey(private, "banger")
	if err != nil {
		return nil, "", err
	}
	err = k.locked(func() error { return k.replace(clientFile, pem.EncodeToMemory(block)) })
	return key, filepath.Join(k.Dir, clientFile), err
}

func seed(secret []byte, of string) []byte {
	h := hmac.New(sha256.New, secret)
	_, _ = h.Write([]byte(of)) // never fails (hash.Hash)
	return h.Sum(nil)
}

func derived(secret []byte, of string) (ssh.Signer, error) {
	return ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed(secret, of)))
}

// secret reads the secret; the first one who wants it makes it.
func (k Keys) secret() ([]byte, error) {
	path := filepath.Join(k.Dir, secretFile)
	secret, err := os.ReadFile(path)
	if err == nil && len(secret) == secretSize {
		return secret, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := os.MkdirAll(k.Dir, 0o700); err != nil {
		return nil, err
	}
	var made []byte
	err = k.locked(func() error {
		if made, err = os.ReadFile(path); err == nil && len(made) == secretSize {
			return nil // somebody was quicker
		}
		made = make([]byte, secretSize)
		_, _ = rand.Read(made) // never fails (crypto/rand)
		return k.replace(secretFile, made)
	})
	return made, err
}

// pin writes the line of a host, unless it is there.
func (k Keys) pin(name string, key ssh.PublicKey, names []string) error {
	line := append([]byte(name+" "), ssh.MarshalAuthorizedKey(key)...)
	if has, err := os.ReadFile(k.KnownHosts()); err == nil && bytes.Contains(append([]byte("\n"), has...), append([]byte("\n"), line...)) {
		return nil
	}
	return k.locked(func() error {
		has, err := os.ReadFile(k.KnownHosts())
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		var all []byte
		for old := range bytes.Lines(has) {
			host, _, _ := bytes.Cut(old, []byte(" "))
			if h := string(host); h != name && (names == nil || slices.Contains(names, h)) {
				all = append(all, old...)
			}
		}
		return k.replace(knownFile, append(all, line...))
	})
}

// replace writes a file at once.
func (k Keys) replace(name string, content []byte) error {
	tmp := filepath.Join(k.Dir, name+".new")
	if err := os.WriteFile(tmp, content, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(k.Dir, name))
}

// locked calls f while nobody else changes the files.
func (k Keys) locked(f func() error) error {
	lock, err := os.OpenFile(filepath.Join(k.Dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	for {
		if err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return err
	}
	return f()
}

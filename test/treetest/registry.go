package treetest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// login is what the registry lets in: "secret" by bcrypt.
const login = "me:$2y$05$/l0fRQ9WnRE9hJ/KqZjiZO8zrs5xFrY6mDUDyQQZPn0Pqf76iqQsy\n"

// Registry runs Debian's docker-registry with TLS for the user "me" with the password
// "secret", until the test ends. It returns its host and port, and the file of its
// certificate, which is alone in its directory but for the key.
func Registry(t testing.TB) (host, cert string) {
	t.Helper()
	Needs(t, false, "docker-registry", "skopeo")
	must := func(t testing.TB, errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	private, err := x509.MarshalECPrivateKey(key)
	must(t, err)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	host = free.Addr().String()
	cert = filepath.Join(dir, "ca.crt")
	config := fmt.Sprintf("version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: %[1]s/data\nhttp:\n  addr: %[2]s\n  tls:\n    certificate: %[1]s/ca.crt\n    key: %[1]s/key\nauth:\n  htpasswd:\n    realm: test\n    path: %[1]s/login\n", dir, host)
	must(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(filepath.Join(dir, "key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}), 0o600),
		os.WriteFile(filepath.Join(dir, "login"), []byte(login), 0o600), os.WriteFile(filepath.Join(dir, "config.yml"), []byte(config), 0o600), free.Close())
	cmd := exec.Command("docker-registry", "serve", filepath.Join(dir, "config.yml"))
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(30 * time.Second); ; {
		conn, err := net.Dial("tcp", host)
		if err == nil {
			must(t, conn.Close())
			return host, cert
		}
		if time.Now().After(deadline) {
			t.Fatalf("the registry doesn't listen: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

package vm_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/test/vmtest"
)

// A guest has git's name and mail of the host's user, proxies and certificates; what was
// set in it stays when it is started again.
func TestLikeHost(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	vmtest.Write(t, ca, text)
	home := t.TempDir()
	vmtest.Write(t, home+"/.gitconfig", "[user]\n\tname = Ada Lovelace\n\temail = ada@example.org\n")
	h := vmtest.Configured(t, "guest_ca = '"+ca+"'\nguest_proxy = 'http://proxy.example:3128'\n").With("HOME=" + home)
	name := h.NewVM(t)
	if got := h.OK(t, "exec", name, "--", "sh", "-c", "echo $https_proxy $HTTP_PROXY"); got != "http://proxy.example:3128 http://proxy.example:3128\n" {
		t.Errorf("the proxies are %q", got)
	}
	if got := h.OK(t, "exec", name, "--", "cat", "/etc/ssl/certs/ca-certificates.crt"); strings.Count(got, text) != 1 {
		t.Errorf("the certificate isn't there: %d bytes", len(got))
	}
	if got := h.OK(t, "exec", name, "--", "cat", "/etc/gitconfig"); !strings.Contains(got, `name = "Ada Lovelace"`) || !strings.Contains(got, `email = "ada@example.org"`) {
		t.Errorf("git's settings are %q", got)
	}
	h.OK(t, "exec", name, "--", "sh", "-c", "echo mine > /etc/gitconfig")
	h.OK(t, "vm", "restart", name)
	if got := h.OK(t, "exec", name, "--", "cat", "/etc/gitconfig"); got != "mine\n" {
		t.Errorf("what was set in the VM became %q", got)
	}
	if got := h.OK(t, "exec", name, "--", "cat", "/etc/ssl/certs/ca-certificates.crt"); strings.Count(got, text) != 1 {
		t.Errorf("after a restart the certificate is there %d times", strings.Count(got, text))
	}
}

// A guest's clock has this host's time zone, in winter and in summer.
func TestHostZone(t *testing.T) {
	days := []time.Time{time.Unix(1767225600, 0), time.Unix(1782864000, 0)}
	if _, winter := days[0].Zone(); winter == 0 {
		if _, summer := days[1].Zone(); summer == 0 {
			t.Skip("this host's zone is UTC, as every guest's is that has none")
		}
	}
	h := vmtest.Configured(t, "")
	name := h.NewVM(t)
	for _, day := range days {
		if got, want := h.OK(t, "exec", name, "--", "date", "-d", fmt.Sprintf("@%d", day.Unix()), "+%z"), day.Format("-0700")+"\n"; got != want {
			t.Errorf("on %s the guest's clock is %q, this host's %q", day.UTC(), got, want)
		}
	}
}

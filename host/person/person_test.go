package person_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"banger"
	"banger/host/person"
)

func put(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func reader(t *testing.T, env map[string]string) *person.Reader {
	return &person.Reader{Root: t.TempDir(), Like: true, Now: time.Now, Getenv: func(k string) string { return env[k] }}
}

func TestHome(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv("GIT_CONFIG_GLOBAL", put(t, dir+"/gitconfig", "[user]\n\tname = Ada Lovelace\n\temail = ada@example.org\n\tsigningkey = SECRET\n[credential]\n\thelper = SECRET\n"))
	r := reader(t, map[string]string{"LANG": "de_DE.UTF-8", "https_proxy": "http://proxy:3128"})
	put(t, r.Root+"/usr/share/zoneinfo/Europe/Berlin", "TZif2 rules")
	if err := os.MkdirAll(r.Root+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(r.Root+"/usr/share/zoneinfo/Europe/Berlin", r.Root+"/etc/localtime"); err != nil {
		t.Fatal(err)
	}
	h, err := r.Home(t.Context())
	if err != nil || h.Name != "Ada Lovelace" || h.Mail != "ada@example.org" || h.Zone != "Europe/Berlin" || string(h.ZoneFile) != "TZif2 rules" ||
		h.Lang != "de_DE.UTF-8" || len(h.Proxy) != 0 || h.Certificates != "" {
		t.Errorf("%+v, %v", h, err)
	}
	r = reader(t, map[string]string{"LANG": "C"})
	put(t, r.Root+"/etc/localtime", "no rules")
	put(t, r.Root+"/etc/timezone", "Asia/Tokyo\n")
	if h, err := r.Home(t.Context()); err != nil || h.Zone != "Asia/Tokyo" || h.ZoneFile != nil || h.Lang != "" {
		t.Errorf("%+v, %v", h, err)
	}
	r.Like, r.Now = false, func() time.Time { return time.Now().Add(time.Hour) }
	if h, err := r.Home(t.Context()); err != nil || h.Name+h.Mail+h.Zone+h.Lang != "" {
		t.Errorf("though it isn't wanted: %+v, %v", h, err)
	}
}

func TestProxies(t *testing.T) {
	env := map[string]string{"https_proxy": "http://one:1", "HTTP_PROXY": "http://two:2", "no_proxy": "localhost", "OTHER": "secret"}
	for proxy, want := range map[string][]string{
		"":               nil,
		"host":           {"http_proxy=http://two:2", "HTTP_PROXY=http://two:2", "https_proxy=http://one:1", "HTTPS_PROXY=http://one:1", "no_proxy=localhost", "NO_PROXY=localhost"},
		"http://three:3": {"http_proxy=http://three:3", "HTTP_PROXY=http://three:3", "https_proxy=http://three:3", "HTTPS_PROXY=http://three:3"},
	} {
		r := reader(t, env)
		r.Proxy = proxy
		if h, err := r.Home(t.Context()); err != nil || !slices.Equal(h.Proxy, want) {
			t.Errorf("%q: %q, %v", proxy, h.Proxy, err)
		}
	}
}

// Only certificates leave the host, and what is wrong with their file is said.
func TestAuthorities(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{SerialNumber: big.NewInt(1)}, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	dir := t.TempDir()
	for name, c := range map[string]struct{ text, wrong string }{
		"good":   {"some words\n" + cert + cert, ""},
		"key":    {cert + string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret})), `it has a "EC PRIVATE KEY", and guests get certificates alone`},
		"broken": {string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der[:50]})), "a certificate can't be read"},
		"empty":  {"", "it has no certificate"},
		"large":  {strings.Repeat(cert, 300), "is larger than"},
		"none":   {"", "no such file"},
	} {
		r := reader(t, nil)
		r.CA = filepath.Join(dir, name)
		if name != "none" {
			put(t, r.CA, c.text)
		}
		h, err := r.Home(t.Context())
		switch {
		case c.wrong == "":
			if err != nil || h.Certificates != cert+cert {
				t.Errorf("%s: %q, %v", name, h.Certificates, err)
			}
		case banger.CodeOf(err) != banger.CodeInvalid || !strings.Contains(err.Error(), c.wrong) || h.Certificates != "":
			t.Errorf("%s: %v", name, err)
		}
	}
}

package etcdtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// CA is a certificate authority of a test.
type CA struct {
	File string // its certificate, PEM

	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Leaf describes a certificate, for servers and clients alike.
type Leaf struct {
	Host   string    // an IP address; may be empty for a client
	User   string    // the common name
	Expiry time.Time // zero: in an hour
}

// NewCA returns a new authority.
func NewCA(t testing.TB) *CA {
	t.Helper()
	ca := &CA{t: t}
	ca.cert, ca.key = ca.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "test CA"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	ca.File = ca.write("ca.crt", "CERTIFICATE", ca.cert.Raw)
	return ca
}

// Issue writes a new certificate and its key to files.
func (ca *CA) Issue(l Leaf) (certFile, keyFile string) {
	ca.t.Helper()
	if l.Expiry.IsZero() {
		l.Expiry = time.Now().Add(time.Hour)
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: l.User}, NotAfter: l.Expiry, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if l.Host != "" {
		template.IPAddresses = []net.IP{net.ParseIP(l.Host)}
	}
	cert, key := ca.sign(template)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		ca.t.Fatal(err)
	}
	return ca.write("leaf.crt", "CERTIFICATE", cert.Raw), ca.write("leaf.key", "PRIVATE KEY", der)
}

// Renew puts a new certificate and its key in the place of files, by renaming.
func (ca *CA) Renew(l Leaf, certFile, keyFile string) {
	ca.t.Helper()
	cert, key := ca.Issue(l)
	if err := errors.Join(os.Rename(key, keyFile), os.Rename(cert, certFile)); err != nil {
		ca.t.Fatal(err)
	}
}

// Client returns the settings of a client with a certificate of its own.
func (ca *CA) Client() *tls.Config {
	ca.t.Helper()
	cert, err := tls.LoadX509KeyPair(ca.Issue(Leaf{}))
	if err != nil {
		ca.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}}
}

// sign completes a template with a new key; the authority signs itself first.
func (ca *CA) sign(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	ca.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		ca.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore = time.Now().Add(-24 * time.Hour)
	parent, signer := ca.cert, ca.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		ca.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		ca.t.Fatal(err)
	}
	return cert, key
}

func (ca *CA) write(name, kind string, der []byte) string {
	ca.t.Helper()
	file := filepath.Join(ca.t.TempDir(), name)
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		ca.t.Fatal(err)
	}
	return file
}

// Keys: one CA, the API server's certificate, client certificates with their kubeconfigs (everything inline), the key that signs service account tokens.
// Made once per DIR, so that a restarted server is the same server.
package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

type pki struct {
	dir    string
	server string
	ca     *x509.Certificate
	caKey  crypto.Signer
	caPEM  []byte
}

func (p *pki) file(name string) string       { return filepath.Join(p.dir, name) }
func (p *pki) kubeconfig(user string) string { return p.file(user + ".kubeconfig") }

func openPKI(o *serverOptions) (*pki, error) {
	p := &pki{dir: o.dir, server: "https://" + net.JoinHostPort(o.bind, fmt.Sprint(o.port))}
	if _, err := os.Stat(p.file("sa.key")); err == nil {
		return p, nil
	}
	if err := p.newCA(); err != nil {
		return nil, err
	}
	_, services, err := net.ParseCIDR(o.serviceCIDR)
	if err != nil {
		return nil, err
	}
	first := append(net.IP(nil), services.IP.To4()...)
	first[3]++
	if err := p.issue("apiserver", pkix.Name{CommonName: "kube-apiserver"}, x509.ExtKeyUsageServerAuth,
		[]string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + dnsDomain},
		[]net.IP{net.IPv4(127, 0, 0, 1), net.ParseIP(o.bind), net.ParseIP(o.advertise), first}); err != nil {
		return nil, err
	}
	// The node agent serves `kubectl logs` with it; kube-apiserver does not verify kubelets unless told to.
	if err := p.issue("kubelet", pkix.Name{CommonName: "system:node:agent"}, x509.ExtKeyUsageServerAuth, []string{"localhost"}, nil); err != nil {
		return nil, err
	}
	for name, subject := range map[string]pkix.Name{
		"admin":              {CommonName: "admin", Organization: []string{"system:masters"}},
		"controller-manager": {CommonName: "system:kube-controller-manager"},
		"scheduler":          {CommonName: "system:kube-scheduler"},
	} {
		if err := p.user(name, subject); err != nil {
			return nil, err
		}
	}
	// kube-controller-manager and kube-apiserver share this one. Written last: its presence says that all else is there.
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	return p, p.writeKey("sa", key)
}

func (p *pki) writeKey(name string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(p.file(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func (p *pki) newCA() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "controlplane-ca"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	if p.ca, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	p.caKey, p.caPEM = key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return os.WriteFile(p.file("ca.crt"), p.caPEM, 0o644)
}

func (p *pki) issue(name string, subject pkix.Name, use x509.ExtKeyUsage, hosts []string, addresses []net.IP) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: serial, Subject: subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{use}, DNSNames: hosts, IPAddresses: addresses}
	der, err := x509.CreateCertificate(rand.Reader, template, p.ca, key.Public(), p.caKey)
	if err != nil {
		return err
	}
	if err := os.WriteFile(p.file(name+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return err
	}
	return p.writeKey(name, key)
}

func (p *pki) user(name string, subject pkix.Name) error {
	if err := p.issue(name, subject, x509.ExtKeyUsageClientAuth, nil, nil); err != nil {
		return err
	}
	certificate, err := os.ReadFile(p.file(name + ".crt"))
	if err != nil {
		return err
	}
	key, err := os.ReadFile(p.file(name + ".key"))
	if err != nil {
		return err
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["cluster"] = &clientcmdapi.Cluster{Server: p.server, CertificateAuthorityData: p.caPEM}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: certificate, ClientKeyData: key}
	config.Contexts["cluster"] = &clientcmdapi.Context{Cluster: "cluster", AuthInfo: name}
	config.CurrentContext = "cluster"
	return clientcmd.WriteToFile(*config, p.kubeconfig(name))
}

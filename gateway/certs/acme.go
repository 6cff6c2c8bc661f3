package certs

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// authorityTimeout bounds one request to the authority.
const authorityTimeout = 30 * time.Second

// Authority is an ACME authority (RFC 8555) and what it is asked for.
type Authority struct {
	Domains   []string // that certificates are for, and no others
	Directory string   // of the authority; "" = Let's Encrypt
	CAFile    string   // PEM file of CAs that vouch for the authority itself; "" = the machine's
	Email     string   // that the authority may write to; may be empty
	Cache     string   // folder for keys and certificates; made with mode 0700
}

// Config returns the settings of a TLS server that gets its certificates from
// the authority with the first connection for each domain, and renews them a
// month before they end. The authority proves the domain by connecting to port
// 443 of it (TLS-ALPN-01, RFC 8737), which this server has to answer. Using it
// accepts the authority's terms of service.
func (a Authority) Config() (*tls.Config, error) {
	client := &acme.Client{DirectoryURL: a.Directory, UserAgent: "kiln", HTTPClient: &http.Client{Timeout: authorityTimeout}}
	if client.DirectoryURL == "" {
		client.DirectoryURL = autocert.DefaultACMEDirectory
	}
	if a.CAFile != "" {
		pem, err := os.ReadFile(a.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the CAs of the ACME authority: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read the CAs of the ACME authority: there is no certificate in %s", a.CAFile)
		}
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
		client.HTTPClient.Transport = transport
	}
	manager := &autocert.Manager{
		Prompt: autocert.AcceptTOS, Cache: autocert.DirCache(a.Cache), HostPolicy: autocert.HostWhitelist(a.Domains...),
		Email: a.Email, Client: client,
	}
	config := server(manager.GetCertificate)
	config.NextProtos = append(config.NextProtos, acme.ALPNProto)
	return config, nil
}

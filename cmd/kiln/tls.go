package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"path/filepath"
	"strings"

	"golang.org/x/net/netutil"

	"github.com/kilnfaas/kiln/gateway/certs"
	"github.com/kilnfaas/kiln/gateway/proxy"
)

// acmeFolder is where, in the data folder, ACME's keys and certificates are.
const acmeFolder = "acme"

// tlsConfig returns the settings of TLS servers; nil where none is wanted.
func (d *daemon) tlsConfig() (*tls.Config, error) {
	cfg := d.cfg
	files, authority := cfg.TLSCert != "" || cfg.TLSKey != "", cfg.ACMEDomains != ""
	switch {
	case cfg.TLSListen == "" && !files && !authority:
		return nil, nil
	case cfg.TLSListen == "" && cfg.NATSListen == "":
		return nil, errors.New("there is a certificate and no address for it: set tls_listen")
	case files == authority:
		return nil, errors.New("tls_listen wants either tls_cert and tls_key, or acme_domains")
	case authority && cfg.TLSListen == "":
		return nil, errors.New("acme_domains need tls_listen, where the authority comes to see that the domains are yours")
	case authority:
		var domains []string
		for domain := range strings.SplitSeq(cfg.ACMEDomains, ",") {
			domains = append(domains, strings.TrimSpace(domain))
		}
		return certs.Authority{
			Domains: domains, Email: cfg.ACMEEmail, Directory: cfg.ACMEDirectory, CAFile: cfg.ACMECAFile,
			Cache: filepath.Join(cfg.Data, acmeFolder),
		}.Config()
	case cfg.TLSCert == "" || cfg.TLSKey == "":
		return nil, errors.New("tls_cert and tls_key belong together")
	}
	pair, err := certs.Open(cfg.TLSCert, cfg.TLSKey, d.logger)
	if err != nil {
		return nil, err
	}
	return pair.Config(), nil
}

// openTLS serves HTTPS beside HTTP. Its connections take the complete path: the
// event loops read plain TCP.
func (d *daemon) openTLS(ctx context.Context) error {
	if d.tls == nil || d.cfg.TLSListen == "" {
		return nil
	}
	var config net.ListenConfig
	tcp, err := config.Listen(ctx, "tcp", d.cfg.TLSListen)
	if err != nil {
		return opening("the TLS listener", err)
	}
	d.tlsAddress = tcp.Addr().String()
	served := make(chan error, 1)
	go func() {
		served <- d.server.Serve(tls.NewListener(netutil.LimitListener(tcp, proxy.DefaultMaxClients), d.tls))
	}()
	d.closers.add(func() error { return errors.Join(d.server.Close(), <-served) })
	return nil
}

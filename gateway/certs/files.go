// Package certs is where the gateway's TLS certificates come from: files that
// are read again when they change, or an ACME authority.
package certs

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// checkInterval is how soon a changed file is noticed: renewals come once in
// weeks, and a look is two system calls.
const checkInterval = time.Second

// Files is a certificate in two PEM files. It is safe for concurrent use.
type Files struct {
	cert, key string
	logger    *slog.Logger

	mu      sync.Mutex
	current *tls.Certificate // guarded by mu
	stamp   [2]stamp         // guarded by mu; of the files that were read last
	checked time.Time        // guarded by mu
}

// stamp tells one state of a file from another.
type stamp struct {
	changed time.Time
	size    int64
}

// Open reads a certificate chain and its key. They have to fit.
func Open(cert, key string, logger *slog.Logger) (*Files, error) {
	f := &Files{cert: cert, key: key, logger: logger, checked: time.Now()}
	var err error
	if f.stamp, err = f.look(); err != nil {
		return nil, err
	}
	if f.current, err = f.load(); err != nil {
		return nil, err
	}
	return f, nil
}

// Config returns the settings of a TLS server with the certificate.
func (f *Files) Config() *tls.Config {
	return server(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.certificate(), nil })
}

// server returns the settings that all TLS servers of the gateway share.
func server(get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{GetCertificate: get, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
}

// certificate returns the newest certificate that can be used. Files that do
// not fit, as between the two writes of a renewal, leave the one before in use.
func (f *Files) certificate() *tls.Certificate {
	f.mu.Lock()
	current, due := f.current, time.Since(f.checked) >= checkInterval
	if due {
		f.checked = time.Now() // others go on with what there is
	}
	seen := f.stamp
	f.mu.Unlock()
	if !due {
		return current
	}
	now, err := f.look()
	if err == nil && now == seen {
		return current
	}
	var fresh *tls.Certificate
	if err == nil {
		fresh, err = f.load()
	}
	if err != nil {
		f.logger.Warn("the TLS certificate is not read again; the one before is in use", "error", err)
		return current
	}
	f.logger.Info("the TLS certificate was read again", "file", f.cert)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.current, f.stamp = fresh, now
	return fresh
}

func (f *Files) load() (*tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, fmt.Errorf("read the TLS certificate: %w", err)
	}
	return &c, nil
}

func (f *Files) look() (all [2]stamp, err error) {
	for i, name := range []string{f.cert, f.key} {
		info, err := os.Stat(name)
		if err != nil {
			return all, fmt.Errorf("look at the TLS certificate: %w", err)
		}
		all[i] = stamp{info.ModTime(), info.Size()}
	}
	return all, nil
}

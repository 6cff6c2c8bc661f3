package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kilnfaas/kiln/orchestrator/jetstream"
)

const (
	// natsCredentialsFile is where, in the data folder, the credentials of NATS clients
	// are, as USER:PASSWORD.
	natsCredentialsFile = "nats-credentials"
	// natsUser is who clients are when the credentials are made at the first start.
	natsUser = "kiln"
	// minNATSPassword is the shortest password, in bytes: shorter ones can be guessed.
	minNATSPassword = 16
	// othersMay are the rights of other users to a file.
	othersMay fs.FileMode = 0o077
)

// natsClients returns how others reach the embedded NATS server; nil when they do
// not.
func (d *daemon) natsClients() (*jetstream.Clients, error) {
	if d.cfg.NATSListen == "" {
		return nil, nil
	}
	if d.tls == nil && !onLoopback(d.cfg.NATSListen) {
		return nil, fmt.Errorf("nats_listen is %s, where the password and all messages could be read on the way: set tls_cert and tls_key, or acme_domains, or listen on loopback", d.cfg.NATSListen)
	}
	user, password, err := natsCredentials(d.natsCredentialsPath(), d.cfg.NATSCredentialsFile == "")
	if err != nil {
		return nil, err
	}
	return &jetstream.Clients{Address: d.cfg.NATSListen, User: user, Password: password, TLS: d.tls}, nil
}

func (d *daemon) natsCredentialsPath() string {
	return firstOf(d.cfg.NATSCredentialsFile, filepath.Join(d.cfg.Data, natsCredentialsFile))
}

// natsCredentials reads the credentials; with create, the first start writes them.
func natsCredentials(path string, create bool) (user, password string, err error) {
	data, err := os.ReadFile(path)
	if create && errors.Is(err, fs.ErrNotExist) {
		data = []byte(natsUser + ":" + rand.Text())
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			err = writePrivate(path, data)
		}
	}
	if err != nil {
		return "", "", fmt.Errorf("the credentials of NATS clients: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", "", fmt.Errorf("the credentials of NATS clients: %w", err)
	}
	if mode := info.Mode(); mode.IsRegular() && mode.Perm()&othersMay != 0 {
		return "", "", fmt.Errorf("the credentials of NATS clients, %s, are open to other users (mode %03o): chmod 600 it, and give it another password if somebody may have read it", path, mode.Perm())
	}
	user, password, ok := strings.Cut(strings.TrimSpace(string(data)), ":")
	if !ok || user == "" || len(password) < minNATSPassword || strings.ContainsAny(user+password, "\r\n") {
		return "", "", fmt.Errorf("the credentials of NATS clients, %s: it has to be one line, USER:PASSWORD, with a password of %d characters at least", path, minNATSPassword)
	}
	return user, password, nil
}

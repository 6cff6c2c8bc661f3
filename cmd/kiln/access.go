package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/kilnfaas/kiln/gateway/auth"
	"github.com/kilnfaas/kiln/orchestrator/jetstream"
)

// openAccess opens the tokens. The first start makes an administrator's.
func (d *daemon) openAccess(ctx context.Context) error {
	if d.cfg.InsecureNoAuth {
		for _, listen := range []string{d.cfg.Listen, d.cfg.TLSListen} {
			if listen != "" && !onLoopback(listen) {
				return fmt.Errorf("insecure_no_auth is for a gateway on loopback, and this one is to listen on %s", listen)
			}
		}
		d.logger.Warn("INSECURE: everybody on this machine may do everything, as insecure_no_auth is set")
	}
	tokens, err := jetstream.NewTokens(ctx, d.store.Server())
	if err != nil {
		return opening("the tokens", err)
	}
	d.guard, err = auth.Open(ctx, auth.Config{Store: tokens, Logger: d.logger, Insecure: d.cfg.InsecureNoAuth})
	if err != nil {
		return opening("the tokens", err)
	}
	d.closers.add(d.guard.Close)
	if d.cfg.InsecureNoAuth {
		return nil
	}
	d.firstToken, err = d.guard.EnsureAdmin(ctx, d.cfg.Data)
	return opening("the tokens", err)
}

// tokenRemoved takes the first token's file away with the token.
func (d *daemon) tokenRemoved(id string) {
	if err := auth.ForgetAdmin(d.cfg.Data, id); err != nil {
		d.logger.Warn("the file of a removed token stays", "error", err)
	}
}

// onLoopback says whether only this machine reaches an address to listen on.
func onLoopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// addressFile is where, in the data folder, the gateway says where it listens.
const addressFile = "address"

func writeAddress(dir, address string) error {
	return os.WriteFile(filepath.Join(dir, addressFile), []byte(address+"\n"), 0o644)
}

// localToken returns the first token of the gateway on this machine at an
// address; "" when another one is meant, or when it is not for this user to
// read. A token goes only to where its own gateway said that it listens.
func localToken(gateway string) string {
	dir := firstOf(os.Getenv("KILN_DATA"), defaultData())
	u, err := url.Parse(gateway)
	if err != nil || !onLoopback(u.Host) {
		return ""
	}
	listens, err := os.ReadFile(filepath.Join(dir, addressFile))
	if err != nil {
		return ""
	}
	host, port, err := net.SplitHostPort(strings.TrimSpace(string(listens)))
	if err != nil || port != u.Port() {
		return ""
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || !ip.IsLoopback() && !ip.IsUnspecified() {
		return ""
	}
	return auth.ReadAdmin(dir)
}

// Command probe is the probe as a program of its own, for real containers.
package main

import (
	"context"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/enginetest/probe"
	"github.com/kilnfaas/kiln/orchestrator/entry"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == entry.Verb {
		os.Exit(entry.Main(orchestrator.SecretsPath, os.Args[2:], os.Stdin, os.Stderr))
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	term := make(chan struct{})
	go func() {
		<-signals
		close(term)
	}()
	var held [][]byte
	os.Exit(probe.Main(context.Background(), probe.Machine{
		Env:      os.Getenv,
		Stdout:   os.Stdout,
		Stderr:   os.Stderr,
		Term:     term,
		ReadFile: os.ReadFile,
		Listen:   func() (net.Listener, error) { return net.Listen("tcp", ":"+os.Getenv("PORT")) },
		Allocate: func(n int64) {
			block := make([]byte, n)
			for i := 0; i < len(block); i += 4096 {
				block[i] = 1
			}
			held = append(held, block)
		},
		Syscall: call,
	}, os.Args[1:]))
}

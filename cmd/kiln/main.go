// Command kiln is Kiln: the gateway (`kiln serve`) and the tool that talks to it.
//
// Every verb is a file of its own. All but serve and doctor use package
// gateway/api and nothing else of Kiln's inside, so whatever they do, another
// program can do as well. Serve is the one place where adapters are wired.
//
// Exit codes: 0 for success, 1 when the function or the gateway said no, 2 for
// a command that makes no sense.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/entry"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == entry.Verb { // inside a container
		os.Exit(entry.Main(orchestrator.SecretsPath, os.Args[2:], os.Stdin, os.Stderr))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}))
}

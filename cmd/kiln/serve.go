package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/kilnfaas/kiln/gateway/auth"
)

func (t *tool) serveCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the gateway",
		Long: `Run the gateway: the control API, the data plane, and what keeps instances warm.

Each setting can be given as a flag, in the environment (KILN_LISTEN for --listen
and so on), or in a YAML file; the flag wins over the environment, and that over
the file. SIGTERM lets requests in flight finish and leaves instances running for
the next gateway to adopt.`,
		Example: `  kiln serve
  kiln serve --listen 127.0.0.1:9000 --data /srv/kiln
  kiln serve --config /etc/kiln.yaml`,
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.StringVar(&file, "config", os.Getenv("KILN_CONFIG"), "YAML file of settings (env KILN_CONFIG)")
	defaults := defaultConfig()
	for _, s := range settings() {
		flags.String(s.flag(), s.show(defaults), s.usage+" (env "+s.variable()+")")
		flags.Lookup(s.flag()).NoOptDefVal = s.bare
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		given := map[string]string{}
		for _, s := range settings() {
			if f := flags.Lookup(s.flag()); f.Changed {
				given[s.key] = f.Value.String()
			}
		}
		cfg, err := loadConfig(file, os.Getenv, given)
		if err != nil {
			return usageError{cmd.CommandPath(), err}
		}
		return serve(cmd.Context(), cfg, newLogger(cfg, t.streams), t.out)
	}
	return cmd
}

func newLogger(cfg config, s streams) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.LogLevel}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(s.err, options))
	}
	return slog.New(slog.NewTextHandler(s.err, options))
}

// firstTokenNote is printed once in the life of an installation.
const firstTokenNote = `
The administrator's token, which is shown only now:

  %s

It is kept in %s, readable by you alone, and kiln finds it there
on this machine. Elsewhere: kiln login http://GATEWAY --token TOKEN

`

// serve runs a gateway until ctx ends.
func serve(ctx context.Context, cfg config, logger *slog.Logger, out io.Writer) error {
	d, err := open(ctx, cfg, logger)
	if err != nil {
		return err
	}
	if d.firstToken != "" {
		fmt.Fprintf(out, firstTokenNote, d.firstToken, filepath.Join(cfg.Data, auth.AdminFile))
	}
	logger.Info("ready", "address", "http://"+d.address, "data", cfg.Data, "owner", d.owner, "version", version)
	if d.tlsAddress != "" {
		logger.Info("ready", "address", "https://"+d.tlsAddress)
	}
	if address := d.store.Server().ClientsAddress(); address != "" {
		logger.Info("NATS clients are let in", "address", "nats://"+address, "credentials", d.natsCredentialsPath(), "encrypted", d.tls != nil)
	}
	var lost error
	select {
	case <-ctx.Done():
	case <-d.store.Lost():
		lost = errors.New("another gateway has taken over the store on the NATS server; this one ends, so that there are no two")
		logger.Error("the store is lost", "error", lost)
	}
	logger.Info("stopping: requests in flight may finish, instances stay")
	err = d.close()
	logger.Info("stopped")
	return errors.Join(lost, err)
}

// closers ends what was opened, last first.
type closers []func() error

func (c *closers) add(f func() error) { *c = append(*c, f) }

func (c *closers) close() error {
	var errs []error
	for i := len(*c) - 1; i >= 0; i-- {
		if err := (*c)[i](); err != nil {
			errs = append(errs, err)
		}
	}
	*c = nil
	return errors.Join(errs...)
}

// opening says what could not be opened.
func opening(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("open %s: %w", what, err)
}

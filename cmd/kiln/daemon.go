package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing/fstest"
	"time"

	"github.com/kilnfaas/kiln/gateway"
	"github.com/kilnfaas/kiln/gateway/audit"
	"github.com/kilnfaas/kiln/gateway/auth"
	"github.com/kilnfaas/kiln/gateway/metrics"
	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/gateway/proxy"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/archive"
	"github.com/kilnfaas/kiln/orchestrator/build"
	"github.com/kilnfaas/kiln/orchestrator/capacity"
	"github.com/kilnfaas/kiln/orchestrator/cell"
	"github.com/kilnfaas/kiln/orchestrator/docker"
	"github.com/kilnfaas/kiln/orchestrator/events"
	"github.com/kilnfaas/kiln/orchestrator/fence"
	"github.com/kilnfaas/kiln/orchestrator/freezer"
	"github.com/kilnfaas/kiln/orchestrator/intake"
	"github.com/kilnfaas/kiln/orchestrator/jetstream"
	"github.com/kilnfaas/kiln/orchestrator/launch"
	"github.com/kilnfaas/kiln/orchestrator/nft"
	"github.com/kilnfaas/kiln/orchestrator/pool"
	"github.com/kilnfaas/kiln/orchestrator/reconcile"
	"github.com/kilnfaas/kiln/orchestrator/route"
	"github.com/kilnfaas/kiln/orchestrator/trigger"
	"github.com/kilnfaas/kiln/orchestrator/vault"
	"github.com/kilnfaas/kiln/templates"
)

// daemon is a gateway: every part wired to the others.
type daemon struct {
	cfg        config
	logger     *slog.Logger
	owner      string
	address    string      // served
	tlsAddress string      // served with TLS; "" = none
	tls        *tls.Config // nil = there is no certificate

	store     *jetstream.Store
	engine    *docker.Client
	running   orchestrator.Engine // engine, with the chosen way to freeze, and the fence
	info      orchestrator.EngineInfo
	images    orchestrator.Builder // engine, with limits for what BuildKit does not limit
	fence     *fence.Fence
	catalogue *templates.Catalogue
	metrics   *metrics.Metrics
	builder   orchestrator.RevisionBuilder
	table     *route.Table
	service   *orchestrator.Service
	queue     *events.Queue
	triggers  *trigger.Engine
	buckets   *jetstream.Buckets
	inner     *proxy.Handler // calls from within, whose callers were asked elsewhere
	server    *gateway.Server
	guard     *auth.Guard
	vault     *vault.Vault

	firstToken string // made at this start; "" = there was one

	closers  closers
	stopping context.Context // set by close: ends when requests in flight are cut
}

// openTimeout bounds the start: loading records and adopting containers.
const openTimeout = 60 * time.Second

// open starts a gateway that serves until close. What was opened is closed
// again when a later part fails.
func open(ctx context.Context, cfg config, logger *slog.Logger) (_ *daemon, err error) {
	d := &daemon{cfg: cfg, logger: logger}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	for _, step := range []func(context.Context) error{
		d.openState, d.openAccess, d.openVault, d.openEngine, d.openFleet, d.openTriggers, d.openService, d.openQueue, d.runTriggers, d.openServer, d.openTLS,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// close ends everything, in the reverse order. Requests in flight get
// gateway.DefaultShutdown once, not once for each part that waits for them: what
// is left then, tunnels for example, is cut.
func (d *daemon) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), gateway.DefaultShutdown)
	defer cancel()
	d.stopping = ctx
	return d.closers.close()
}

// background runs f until close.
func (d *daemon) background(what string, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := f(ctx); err != nil && ctx.Err() == nil {
			d.logger.Warn("background work ended", "work", what, "error", err)
		}
	}()
	d.closers.add(func() error {
		cancel()
		<-done
		return nil
	})
}

// temp is the folder for uploads and unpacked archives. It is emptied at each
// start, so that a crash leaves nothing for long.
func (d *daemon) temp() string { return filepath.Join(d.cfg.Data, "tmp") }

func (d *daemon) openState(ctx context.Context) (err error) {
	if d.tls, err = d.tlsConfig(); err != nil {
		return opening("TLS", err)
	}
	clients, err := d.natsClients()
	if err != nil {
		return opening("the listener for NATS clients", err)
	}
	d.store, err = jetstream.Open(ctx, jetstream.Options{
		Dir: d.cfg.Data, URL: d.cfg.NATS, Clients: clients, EventsStore: int64(d.cfg.NATSStore), Logger: d.logger,
	})
	if err != nil {
		return opening("the store", err)
	}
	d.closers.add(d.store.Close)
	if d.owner, err = d.store.Owner(ctx); err != nil {
		return opening("the store", err)
	}
	if err := os.RemoveAll(d.temp()); err != nil {
		return fmt.Errorf("empty the folder for uploads: %w", err)
	}
	d.catalogue, err = templates.Embedded()
	if err != nil {
		return opening("the templates", err)
	}
	return os.MkdirAll(d.temp(), 0o700)
}

// openVault opens the secrets. The first start makes their key.
func (d *daemon) openVault(ctx context.Context) error {
	secrets, err := jetstream.NewSecrets(ctx, d.store.Server())
	if err != nil {
		return opening("the secrets", err)
	}
	key := firstOf(d.cfg.SecretsKeyFile, filepath.Join(d.cfg.Data, vault.KeyFile))
	d.vault, err = vault.Open(ctx, vault.Config{Store: secrets, KeyFile: key, Logger: d.logger})
	return opening("the secrets", err)
}

func (d *daemon) openEngine(ctx context.Context) (err error) {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	d.engine, err = docker.Open(ctx, docker.Options{
		Program: program,
		Host:    d.cfg.DockerHost,
		Builder: docker.BuilderMode(d.cfg.Builder),
		Labels:  map[string]string{orchestrator.LabelOwner: d.owner},
	})
	if err != nil {
		return opening("the engine", err)
	}
	d.closers.add(d.engine.Close)
	if d.running, err = d.freezing(); err != nil {
		return err
	}
	d.fence = fence.New(fence.Config{
		Engine: d.running, Owner: d.owner, Network: d.cfg.Network, Port: d.openPort(), Ways: d.firewalls(),
		Strict: d.cfg.Isolation == isolationStrict, Logger: d.logger,
	})
	if err := d.fence.Open(ctx); err != nil {
		return opening("the network", err)
	}
	d.running = d.fence
	d.background("walls", d.fence.Keep)
	return nil
}

// firewalls are the ways to wall instances off, the cheapest first.
func (d *daemon) firewalls() []fence.Way {
	if d.cfg.Isolation == isolationOff {
		return nil
	}
	return []fence.Way{
		{Name: "this process", Firewall: nft.Firewall{}, Every: directEvery},
		{Name: "a helper's container", Firewall: &helperFirewall{engine: d.engine, owner: d.owner}, Every: helperEvery},
	}
}

// openPort is the gateway's port if instances could reach it: they may call
// functions there. 0 when it is on the machine's loopback only.
func (d *daemon) openPort() uint16 {
	host, port, err := net.SplitHostPort(d.cfg.Listen)
	if ip := net.ParseIP(host); err != nil || host == "localhost" || ip != nil && ip.IsLoopback() {
		return 0
	}
	number, _ := strconv.ParseUint(port, 10, 16) // the listener complains of a wrong one
	return uint16(number)
}

// freezing returns the engine with the configured way to freeze.
func (d *daemon) freezing() (orchestrator.Engine, error) {
	cgroups := freezer.New(d.engine, d.cfg.CgroupRoot)
	switch {
	case d.cfg.Freezer == "engine", d.cfg.Freezer == "auto" && !cgroups.Usable():
		return d.engine, nil
	case !cgroups.Usable():
		return nil, errors.New("freezer: cgroup was asked for, and the cgroup file system cannot be written to; mount it, set cgroup_root, or set freezer to auto")
	}
	return cgroups, nil
}

// confined says whether the engine holds containers as was asked for.
func (d *daemon) confined() error {
	if d.info.Seccomp != "" {
		return nil
	}
	if d.cfg.Isolation == isolationStrict {
		return errors.New("isolation: strict was asked for, and the engine runs containers without a seccomp profile; kiln doctor tells more")
	}
	d.logger.Warn("the engine runs containers without a seccomp profile: functions may make every system call; kiln doctor tells more")
	return nil
}

func (d *daemon) openFleet(ctx context.Context) error {
	info, err := d.engine.Info(ctx)
	if err != nil {
		return opening("the engine", err)
	}
	d.info = info
	if err := d.openBuilder(ctx); err != nil {
		return err
	}
	if err := info.CheckRuntime(d.cfg.Runtime); err != nil {
		return opening("the engine", err)
	}
	if err := d.confined(); err != nil {
		return err
	}
	cpu := &capacity.CPU{}
	d.background("CPU sampling", cpu.Run)
	budget := capacity.New(capacity.Config{Memory: d.cfg.Memory, EngineMemory: info.Memory, Saturated: cpu.Saturated})
	d.metrics = metrics.New(version)
	d.builder = d.metrics.Builds(build.New(d.buildConfig()))
	key := orchestrator.InstanceKey(d.vault.Derive("instance tokens"))
	var launcher route.Launcher
	var table atomic.Pointer[route.Table] // nil while the first cells start
	images := launch.New(launch.Config{
		Engine: d.running, Capacity: budget, Owner: d.owner, Network: d.cfg.Network, Runtime: d.cfg.Runtime, Logger: d.logger,
		Placed: func(id, addr string) {
			if t := table.Load(); t != nil {
				t.Placed(id, addr)
			}
		},
		Restore: d.restore,
		Secrets: d.vault.Values,
		Key:     key,
	})
	launcher = images
	if d.cfg.Cells > 0 {
		code, err := cell.NewCache(orchestrator.CellCode{Store: d.store}, filepath.Join(d.cfg.Data, "code"), 0)
		if err != nil {
			return opening("the cells", err)
		}
		cells := cell.New(cell.Config{
			Next: images, Engine: d.running, Images: build.NewCells(d.buildConfig()), Code: code,
			Head: templates.LoadHead, Secrets: d.vault.Values, Key: key, Capacity: budget, Owner: d.owner, Network: d.cfg.Network,
			Min: d.cfg.Cells, Max: max(d.cfg.Cells, d.cfg.CellsMax),
			Notes: filepath.Join(d.cfg.Data, "cells"), Logger: d.logger,
		})
		if err := cells.Open(ctx); err != nil {
			return opening("the cells", err)
		}
		d.closers.add(cells.Close)
		d.metrics.WatchCells(cells.Waiting)
		launcher = cells
	}
	d.table = route.New(route.Config{
		Launcher: launcher,
		Capacity: budget,
		NewConns: proxy.NewConns,
		Key:      key,
		Observer: coldStarts{Invocations: d.metrics.Invocations},
		Logger:   d.logger,
	})
	table.Store(d.table)
	d.closers.add(func() error { return d.table.Close(d.stopping) })
	return nil
}

// restore builds the image of a revision again that somebody deleted.
func (d *daemon) restore(ctx context.Context, r orchestrator.Release) error {
	_, err := d.builder.BuildRevision(ctx, r.Revision, r.Template, func(orchestrator.BuildEvent) {})
	return err
}

func (d *daemon) buildConfig() build.Config {
	return build.Config{
		Archives:  d.store,
		Templates: d.catalogue,
		Builder:   d.images,
		Step:      d.stepLimits(),
		Disk:      d.diskWatch(),
		Images:    d.engine,
		Owner:     d.owner,
		Limit:     d.cfg.Builds,
		Timeout:   d.cfg.BuildTimeout,
		ExtraCA:   d.cfg.ExtraCAFile,
		Classic: func(ctx context.Context) (bool, error) {
			kind, err := d.engine.BuilderKind(ctx)
			return kind == docker.BuilderClassic, err
		},
		Logger: d.logger,
	}
}

// code is where the code for cells comes from; nil when there are no cells.
func (d *daemon) code() orchestrator.CodeSource {
	if d.cfg.Cells == 0 {
		return nil
	}
	return d.engine
}

// coldStarts counts instances as they start.
type coldStarts struct {
	pool.NoObserver
	*metrics.Invocations
}

// Started counts a start that succeeded.
func (c coldStarts) Started(function, origin string, _ time.Duration, err error) {
	if err == nil {
		c.Function(function).ColdStart(origin)
	}
}

func (d *daemon) openService(ctx context.Context) (err error) {
	d.service = &orchestrator.Service{
		Store: d.store, Images: d.engine, Engine: d.running, Builder: d.builder,
		Fleet: d.table, Templates: d.catalogue, Vault: d.vault, Code: d.code(), Triggers: d.triggers, BuildDigest: build.Digest, Logger: d.logger,
	}
	if err := d.service.Open(ctx); err != nil {
		return opening("the functions", err)
	}
	d.closers.add(d.service.Close)
	loop := &reconcile.Loop{
		Engine: d.running, Images: d.engine, Store: d.store, Fleet: d.table,
		Functions: d.service, Owner: d.owner, Logger: d.logger,
	}
	if err := loop.Open(ctx); err != nil {
		return opening("the reconciler", err)
	}
	d.closers.add(loop.Close)
	d.table.Open()
	return nil
}

// openServer puts the data plane's listener in front of the control API: common
// invocations never reach net/http.
func (d *daemon) openServer(ctx context.Context) error {
	handler := &proxy.Handler{Routes: d.table, Gate: d.guard, Fail: problem.Write, Observe: d.metrics.Invocations.Observe}
	uploads := intake.New(d.store, d.catalogue, archive.DefaultLimits(), d.temp())
	uploads.CheckTrigger = d.triggers.Check
	d.server = gateway.New(d.service, uploads, languages{d.catalogue})
	d.server.Invoke = handler
	d.server.Guard = d.guard
	log, err := audit.Open(d.cfg.Data, d.logger)
	if err != nil {
		return err
	}
	d.closers.add(log.Close)
	d.server.Audit = log.Write
	d.server.TokenRemoved = d.tokenRemoved
	d.server.Async = d.queue
	d.server.Triggers = d.triggers
	d.server.Buckets = d.buckets
	d.server.Call = d.inner.Do
	d.metrics.WatchTriggers(d.triggers.List)
	d.metrics.WatchQueue(d.queue.Stats)
	d.server.Metrics = d.metrics
	d.server.Version = thisBuild()
	d.server.Log = d.logger
	d.server.Inside = d.fence.Inside
	d.server.SpoolDir = d.temp()
	d.server.Checks = []gateway.Check{
		{Name: "engine", Ready: func(ctx context.Context) error { _, err := d.engine.Info(ctx); return err }},
		{Name: "store", Ready: func(ctx context.Context) error { _, err := d.store.Owner(ctx); return err }},
	}
	var config net.ListenConfig
	tcp, err := config.Listen(ctx, "tcp", d.cfg.Listen)
	if err != nil {
		return opening("the listener", err)
	}
	d.address = tcp.Addr().String()
	if err := writeAddress(d.cfg.Data, d.address); err != nil {
		tcp.Close()
		return opening("the listener", err)
	}
	listener, err := proxy.Listen(tcp.(*net.TCPListener), proxy.Config{Handler: handler, Logger: d.logger})
	if err != nil {
		tcp.Close()
		return opening("the data plane", err)
	}
	served := make(chan error, 1)
	go func() { served <- d.server.Serve(listener) }()
	d.closers.add(func() error {
		fast := make(chan error, 1)
		go func() { fast <- listener.Shutdown(d.stopping) }()
		return errors.Join(d.server.Close(), <-fast, <-served)
	})
	return nil
}

// languages is the catalogue as the gateway sees it.
type languages struct{ *templates.Catalogue }

// Scaffold returns the first files of a function.
func (l languages) Scaffold(template, function string) (fs.FS, error) {
	files, err := l.Catalogue.Scaffold(template, function)
	if err != nil {
		return nil, err
	}
	tree := fstest.MapFS{}
	for name, file := range files {
		tree[name] = &fstest.MapFile{Data: file.Data, Mode: file.Mode}
	}
	return tree, nil
}

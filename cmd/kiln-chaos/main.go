// Command kiln-chaos breaks the machine under a running gateway, again and
// again, and checks that Kiln keeps its promises: what was acknowledged is
// there, what is not wanted is gone, and calls fail only where nothing else is
// possible.
//
// It needs root. The engine, the network and the data folder are its own, in
// namespaces that end with it, and nothing of the machine is touched. The short
// form does without an engine of its own, which takes a while to fill, and
// touches only what its own gateway made. It prints a table of the faults and
// ends with 1 when a promise was broken.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are what a run can be told.
type options struct {
	short   bool
	own     bool     // an engine of its own
	only    []string // names of faults; empty = all
	seed    uint64
	kiln    string // the binary under test
	keep    bool   // leave the folder with the logs
	soak    time.Duration
	flood   time.Duration
	say     func(format string, args ...any)
	started time.Time
}

func main() {
	o := options{started: time.Now()}
	only := flag.String("only", "", "faults to inject, separated by commas: "+strings.Join(names(), ", "))
	flag.BoolVar(&o.short, "short", false, "the short form, one to three minutes on the machine's engine")
	flag.BoolVar(&o.own, "own-engine", false, "use an engine of its own in the short form, too")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "of all that is random")
	flag.StringVar(&o.kiln, "kiln", beside("kiln"), "the binary under test")
	flag.BoolVar(&o.keep, "keep", false, "leave the folder with the logs")
	flag.DurationVar(&o.soak, "soak", 0, "instead of faults: load at 30 % of the capacity for this long, and what it leaves")
	flag.DurationVar(&o.flood, "overload", 0, "instead of faults: load at three times the capacity for this long")
	flag.Parse()
	o.own = o.own || !o.short
	if *only != "" {
		o.only = strings.Split(*only, ",")
	}
	o.say = func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", time.Since(o.started).Seconds(), fmt.Sprintf(format, args...))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "kiln-chaos:", err)
		os.Exit(1)
	}
}

// beside returns the path of a program in the folder of this one.
func beside(name string) string {
	self, err := os.Executable()
	if err != nil {
		return name
	}
	return filepath.Join(filepath.Dir(self), name)
}

// run is main without the exit code.
func run(ctx context.Context, o options) error {
	for _, name := range o.only {
		if !slices.Contains(names(), name) {
			return fmt.Errorf("there is no fault %q; there are %s", name, strings.Join(names(), ", "))
		}
	}
	if inside, err := enter(ctx, o.own); !inside {
		return err
	}
	dir, err := os.MkdirTemp("", "kiln-chaos-")
	if err != nil {
		return err
	}
	o.say("seed %d, logs in %s", o.seed, dir)
	err = o.act(ctx, dir)
	if o.keep || err != nil && ctx.Err() == nil {
		return errors.Join(err, keepLogs(dir))
	}
	return errors.Join(err, os.RemoveAll(dir))
}

func (o options) act(ctx context.Context, dir string) (err error) {
	w, err := newWorld(ctx, o, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	switch {
	case o.soak > 0:
		return soak(ctx, w, o.soak)
	case o.flood > 0:
		return overload(ctx, w, o.flood)
	}
	return storm(ctx, w)
}

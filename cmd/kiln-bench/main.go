// Command kiln-bench measures Kiln: load on warm functions against nginx and
// against the container itself, starts from zero against `docker run`, and what
// idle things cost; and simulates keep-alive policies. Everything runs in one session and in turns, so that the
// machine's mood hits all alike; ratios count, not absolute figures.
//
// It writes JSON and one self-contained HTML page, and prints the ratios. With
// -markdown it only prints the tables of an earlier run's JSON.
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

	"github.com/kilnfaas/kiln/orchestrator/docker"
)

// plan is how much is measured.
type plan struct {
	stretch   time.Duration // of load on one target, one turn
	warmUp    time.Duration
	rounds    int
	callers   []int
	bodies    []int
	functions int // called at random
	colds     int // samples of each kind of start
	bursts    []int
	deploys   int   // of an edit, of each template
	memory    []int // functions deployed
	templates []string
	simulated int // functions

	eventCalls int           // asynchronous ones
	fires      int           // of a schedule
	schedules  int           // that do nothing
	idle       time.Duration // for which they do
	crashCalls int           // queued while the gateway is killed
	kills      int

	soak     time.Duration // of load with scaling underneath
	soakTurn time.Duration // after which more or fewer instances are asked for
	say      func(string)
}

func fullPlan() plan {
	return plan{
		stretch: 5 * time.Second, warmUp: time.Second, rounds: 4,
		callers: []int{1, 16, 64}, bodies: []int{0, 1 << 10, 1 << 20}, functions: 100,
		colds: 25, bursts: []int{2, 8, 32}, deploys: 10, memory: []int{0, 100, 200, 1000},
		templates: []string{"python", "node", "go"}, simulated: 2000,
		soak: 10 * time.Minute, soakTurn: 15 * time.Second,
		eventCalls: 20_000, fires: 20, schedules: 1000, idle: 20 * time.Second, crashCalls: 100_000, kills: 20,
	}
}

// quickPlan takes under three minutes once base images are there.
func quickPlan() plan {
	p := fullPlan()
	p.stretch, p.warmUp, p.rounds = time.Second, 300*time.Millisecond, 2
	p.bodies, p.functions = []int{0, 1 << 10}, 10
	p.colds, p.bursts, p.deploys, p.memory = 5, []int{2, 8}, 2, []int{0, 20}
	p.simulated = 500
	p.soak, p.soakTurn = 10*time.Second, 3*time.Second
	p.eventCalls, p.fires, p.schedules, p.idle, p.crashCalls, p.kills = 2000, 5, 64, 5*time.Second, 10_000, 3
	return p
}

// sections of a run, in order. Events are not part of it unless asked for, nor is
// what crashes do to them, which make chaos asks for.
var (
	sections = []string{"warm", "cold", "deploy", "memory", "soak", "sim"}
	extra    = []string{"events", "crashes"}
)

func main() {
	quick := flag.Bool("quick", false, "a short run")
	only := flag.String("only", strings.Join(sections, ","), "sections to run")
	out := flag.String("out", filepath.Join(".kiln", "bench"), "folder for bench.json and bench.html")
	keep := flag.Bool("keep", false, "keep what the last run left in -out of the sections that this one does not measure")
	tables := flag.String("markdown", "", "print the tables of this bench.json, for docs/performance.md, and measure nothing")
	flag.Parse()
	if *tables != "" {
		if err := printMarkdown(os.Stdout, *tables); err != nil {
			fmt.Fprintln(os.Stderr, "kiln-bench:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p := fullPlan()
	if *quick {
		p = quickPlan()
	}
	start := time.Now()
	p.say = func(text string) { fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", time.Since(start).Seconds(), text) }
	if err := run(ctx, p, strings.Split(*only, ","), *out, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "kiln-bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, p plan, only []string, out string, keep bool) error {
	for _, section := range only {
		if all := slices.Concat(sections, extra); !slices.Contains(all, section) {
			return fmt.Errorf("-only: there is no section %q; there are %s", section, strings.Join(all, ", "))
		}
	}
	var engine *docker.Client
	if !slices.Equal(only, []string{"sim"}) { // the simulator needs none
		var err error
		if engine, err = docker.Open(ctx, docker.Options{}); err != nil {
			return err
		}
		defer engine.Close()
	}
	dir, err := workDir()
	if err != nil {
		return err
	}
	var report Report
	if keep {
		if report, err = earlierReport(out); err != nil {
			return err
		}
	}
	report.Machine, report.Started = describeMachine(ctx, engine), now()
	if report.Measured == nil {
		report.Measured = map[string]time.Time{}
	}
	// What was measured before a failure or an interrupt is kept.
	failure := measure(ctx, p, only, engine, dir, &report)
	report.Ratios = ratios(report)
	if err := report.write(out); err != nil {
		return err
	}
	report.print(os.Stdout)
	fmt.Printf("\nwritten: %s and %s\n", filepath.Join(out, reportFile), filepath.Join(out, "bench.html"))
	if failure != nil {
		return fmt.Errorf("%w; logs in %s", failure, dir)
	}
	return os.RemoveAll(dir)
}

func now() time.Time { return time.Now().UTC().Truncate(time.Second) }

// measure fills in the sections of a report, and what was measured of one that
// fails.
func measure(ctx context.Context, p plan, only []string, engine *docker.Client, dir string, report *Report) error {
	run := map[string]func() error{
		"warm":   func() (err error) { report.Warm, err = part(runWarm(ctx, p, engine, dir)); return },
		"cold":   func() (err error) { report.Cold, err = part(runCold(ctx, p, engine, dir)); return },
		"deploy": func() (err error) { report.Deploys, err = runDeploys(ctx, p, dir); return },
		"memory": func() (err error) { report.Memory, err = part(runMemory(ctx, p, engine, dir)); return },
		"soak":   func() (err error) { report.Soak, err = entire(runSoak(ctx, p, dir)); return },
		"events": func() (err error) { report.Events, err = part(runEvents(ctx, p, dir)); return },
		"crashes": func() error {
			e, err := runCrashes(ctx, p, dir)
			if report.Events == nil {
				report.Events = &Events{}
			}
			report.Events.Crashes = e.Crashes
			return err
		},
		"sim": func() (err error) { report.Sim, err = entire(runSim(ctx, p)); return },
	}
	for _, section := range slices.Concat(sections, extra) {
		if !slices.Contains(only, section) {
			continue
		}
		report.Measured[section] = now()
		if err := run[section](); err != nil {
			return fmt.Errorf("%s: %w", section, err)
		}
	}
	return nil
}

// part is a section that says something also when it was not measured to its end.
func part[T any](v T, err error) (*T, error) { return &v, err }

// entire is one that does not.
func entire[T any](v T, err error) (*T, error) {
	if err != nil {
		return nil, err
	}
	return &v, nil
}

func joinErr(err, other error) error {
	if other == nil {
		return err
	}
	return errors.Join(err, other)
}

package main_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kilnfaas/kiln/orchestrator/natstest"
)

// pollInterval is how often a script looks again at something that is to come.
const pollInterval = 100 * time.Millisecond

// rest is the time until a script looks again by starting a program, which takes
// processor time from what it waits for: a quarter of the time at most is spent on
// looking.
func rest(began time.Time) time.Duration { return max(pollInterval, 3*time.Since(began)) }

// commands are what scripts can do besides testscript's own:
//
//	kiln ARG...             run the binary under test
//	exits CODE PROGRAM...   run a program that must end with the code
//	eventually D RE PROGRAM...
//	                        run a program until its stdout matches, at most for D
//	never D RE PROGRAM...   run a program for D; its stdout must not match
//	serve [KEY=VALUE...]    start the script's own gateway (again)
//	signal TERM|KILL        end it
//	load NAME [CALLERS]     begin calling a function
//	calm [ANSWER...]        stop once each answer has come; every call must have
//	                        succeeded, and no other answer come
//	flood NAME CALLS CALLERS
//	                        begin to queue numbered calls, each until it is acknowledged
//	flooded                 wait until all of them are
//	events NAME             read a stream of events of a function, one by one
//	websocket NAME TEXT     have a text come back over a WebSocket
//	http2 NAME TEXT         have a text come back over HTTP/2 without TLS
//	clean                   what make clean does, for the script's own gateway;
//	                        nothing may be left
//	wheel FILE              write a Python wheel with the module kilnwheel
//	guide PAGE FILE         write all commands of a page of docs/ as one script
//	readme LANGUAGE FILE    write the README's first example in a language
//	postgres NAME           start a PostgreSQL with a database, which PG* variables name
//	nats-server [KILL]      start a NATS server (again), which $NATS_URL and $NATS_LOGIN
//	                        lead to; or kill it
//	nats-own                have these lead to the gateway's own
//	nats-stream NAME        make a stream of NAME.> there
//	nats-publish SUBJECT FIRST LAST
//	                        publish numbers there; what a stream keeps is there then
//	nats-consumers NAME N   the stream must come to have N consumers
//	owned N [LABEL=VALUE]   the gateway must come to have N containers
//	leftovers               nothing that the gateway made may be left
var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"kiln":           func(ts *testscript.TestScript, neg bool, args []string) { runProgram(ts, neg, "kiln", args...) },
	"exits":          exits,
	"eventually":     eventually,
	"never":          never,
	"serve":          serve,
	"signal":         sendSignal,
	"load":           beginLoad,
	"calm":           endLoad,
	"flood":          beginFlood,
	"flooded":        endFlood,
	"events":         readEvents,
	"websocket":      echoSocket,
	"http2":          overHTTP2,
	"clean":          clean,
	"wheel":          func(ts *testscript.TestScript, _ bool, args []string) { ts.Check(writeWheel(ts.MkAbs(args[0]))) },
	"readme":         readmeExample,
	"guide":          guideScript,
	"postgres":       startPostgres,
	"nats-server":    natsServer,
	"nats-own":       natsOwn,
	"nats-stream":    natsStream,
	"nats-publish":   natsPublish,
	"nats-consumers": natsConsumers,
	"owned":          owned,
	"leftovers":      noLeftovers,
}

// world is what one script's commands share.
type world struct {
	bin     string
	gateway *gateway // the script's own, or the shared one
	own     bool
	flood   *flood
	nats    *natstest.Server

	mu   sync.Mutex
	load *load // guarded by mu
}

type worldKey struct{}

func worldOf(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

func runProgram(ts *testscript.TestScript, neg bool, program string, args ...string) {
	err := ts.Exec(program, args...)
	if neg && err == nil {
		ts.Fatalf("%s succeeded", program)
	}
	if !neg && err != nil {
		ts.Fatalf("%s %s: %v", program, strings.Join(args, " "), err)
	}
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got, failure := 0, (*exec.ExitError)(nil)
	if errors.As(err, &failure) {
		got = failure.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("%s ended with %d, want %d", args[1], got, want)
	}
}

// matches runs a program and says whether it succeeds and its output matches.
func matches(ts *testscript.TestScript, pattern *regexp.Regexp, args []string) (bool, string) {
	err := ts.Exec(args[0], args[1:]...)
	out := ts.ReadFile("stdout")
	return err == nil && pattern.MatchString(out), out + ts.ReadFile("stderr")
}

func parsePoll(ts *testscript.TestScript, args []string) (time.Duration, *regexp.Regexp, []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: eventually|never DURATION PATTERN PROGRAM ARG...")
	}
	d, err := time.ParseDuration(args[0])
	ts.Check(err)
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	return d, pattern, args[2:]
}

func eventually(ts *testscript.TestScript, _ bool, args []string) {
	limit, pattern, program := parsePoll(ts, args)
	deadline := time.Now().Add(limit)
	for {
		began := time.Now()
		ok, out := matches(ts, pattern, program)
		if ok {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("no match of %q after %s; the last was:\n%s", pattern, limit, out)
		}
		time.Sleep(rest(began)) // the process under test has no clock of ours
	}
}

func never(ts *testscript.TestScript, _ bool, args []string) {
	limit, pattern, program := parsePoll(ts, args)
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); {
		began := time.Now()
		if ok, out := matches(ts, pattern, program); ok {
			ts.Fatalf("%q matches:\n%s", pattern, out)
		}
		time.Sleep(rest(began))
	}
}

func serve(ts *testscript.TestScript, neg bool, args []string) {
	w := worldOf(ts)
	if !w.own {
		ts.Fatalf("the gateway is shared by these scripts")
	}
	if w.gateway == nil {
		work := ts.MkAbs("gateway")
		ts.Check(os.MkdirAll(work, 0o755))
		g, err := newGateway(w.bin, work)
		ts.Check(err)
		w.gateway = g
		ts.Setenv("KILN_GATEWAY", g.url())
		ts.Setenv("KILN_DATA", g.data())
		ts.Setenv("NETWORK", g.network)
		ts.Defer(func() { ts.Check(g.destroy()) })
	}
	w.gateway.extra = args
	err := w.gateway.start()
	if neg && err == nil {
		ts.Fatalf("the gateway started")
	}
	if !neg {
		ts.Check(err)
	}
}

func sendSignal(ts *testscript.TestScript, _ bool, args []string) {
	signals := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}
	s, ok := signals[strings.Join(args, " ")]
	if !ok {
		ts.Fatalf("usage: signal TERM|KILL")
	}
	ts.Check(worldOf(ts).gateway.signal(s))
}

// defaultCallers keep two cores busy without starving the rest of the tests.
const defaultCallers = 4

// answerTimeout is how long the callers may take to meet a new revision.
const answerTimeout = 15 * time.Second

func beginLoad(ts *testscript.TestScript, _ bool, args []string) {
	w, callers := worldOf(ts), defaultCallers
	if len(args) > 1 {
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		callers = n
	}
	l := startLoad(w.gateway.url()+"/invoke/"+args[0], callers)
	w.mu.Lock()
	w.load = l
	w.mu.Unlock()
	ts.Defer(func() { _, _, _ = l.stop() }) // a failing script has told already
}

func endLoad(ts *testscript.TestScript, _ bool, args []string) {
	w := worldOf(ts)
	w.mu.Lock()
	l := w.load
	w.mu.Unlock()
	for deadline := time.Now().Add(answerTimeout); !l.saw(args) && time.Now().Before(deadline); {
		time.Sleep(pollInterval) // the callers have no clock of ours
	}
	calls, answers, err := l.stop()
	ts.Check(err)
	ts.Logf("%d calls: %v", calls, answers)
	for _, want := range args {
		if answers[want] == 0 {
			ts.Fatalf("no call was answered %q: %v", want, answers)
		}
	}
	if len(args) > 0 && len(answers) != len(args) {
		ts.Fatalf("answers %v, want only %q", answers, args)
	}
}

// guideScript writes the commands that a page of the documentation shows.
func guideScript(ts *testscript.TestScript, _ bool, args []string) {
	page, err := os.ReadFile(filepath.Join(filepath.Dir(readmePath), "docs", args[0]))
	ts.Check(err)
	script := "set -ex\n"
	for rest, found := string(page), true; ; {
		var block string
		if _, rest, found = strings.Cut(rest, "\n```sh\n"); !found {
			break
		}
		block, rest, _ = strings.Cut(rest, "\n```")
		script += block + "\n"
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(script), 0o644))
}

func readmeExample(ts *testscript.TestScript, _ bool, args []string) {
	page, err := os.ReadFile(readmePath)
	ts.Check(err)
	_, example, ok := strings.Cut(string(page), "\n```"+args[0]+"\n")
	if !ok {
		ts.Fatalf("the README has no example in %s", args[0])
	}
	example, _, _ = strings.Cut(example, "\n```")
	path := ts.MkAbs(args[1])
	ts.Check(os.MkdirAll(filepath.Dir(path), 0o755))
	ts.Check(os.WriteFile(path, []byte(example+"\n"), 0o644))
}

// readmePath is the README as seen from this package.
const readmePath = "../../README.md"

func owned(ts *testscript.TestScript, _ bool, args []string) {
	owner, err := worldOf(ts).gateway.owner()
	ts.Check(err)
	list := []string{"ps", "-aq", "--filter", "label=dev.kiln.owner=" + owner}
	for _, label := range args[1:] {
		list = append(list, "--filter", "label="+label)
	}
	for deadline := time.Now().Add(reapTimeout); ; time.Sleep(pollInterval) { // the engine has no clock of ours
		out, err := dockerOutput(list...)
		ts.Check(err)
		got := strconv.Itoa(len(lines(out)))
		if got == args[0] {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s containers with %v, want %s", got, args[1:], args[0])
		}
	}
}

// reapTimeout is how long draining instances and their images may take.
const reapTimeout = 40 * time.Second

func noLeftovers(ts *testscript.TestScript, _ bool, _ []string) {
	w := worldOf(ts)
	for deadline := time.Now().Add(reapTimeout); ; time.Sleep(pollInterval) { // the engine has no clock of ours
		left, err := w.gateway.leftovers()
		ts.Check(err)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("left behind:\n%s\nthe gateway's log:\n%s", strings.Join(left, "\n"), w.gateway.logTail())
		}
	}
}

// clean runs deploy/clean for what the script's gateway owns: other gateways may
// run on this engine.
func clean(ts *testscript.TestScript, _ bool, _ []string) {
	owner, err := worldOf(ts).gateway.owner()
	ts.Check(err)
	script := exec.Command("../../deploy/clean")
	script.Env = append(os.Environ(), "KILN_CLEAN_OWNER="+owner)
	if out, err := script.CombinedOutput(); err != nil {
		ts.Fatalf("deploy/clean: %v\n%s", err, out)
	}
	for _, list := range [][]string{
		{"ps", "-aq", "--filter", "label=dev.kiln.kind=instance"}, {"ps", "-aq", "--filter", "label=dev.kiln.kind=cell"},
		{"network", "ls", "-q"}, {"volume", "ls", "-q"},
		{"images", "--filter", "reference=kiln*/*", "--format", "{{.Repository}}"},
	} {
		left, err := dockerOutput(append(list, "--filter", "label=dev.kiln.owner="+owner)...)
		ts.Check(err)
		if left != "" {
			ts.Fatalf("docker %s still lists %s", strings.Join(list, " "), left)
		}
	}
}

// setup prepares a script's environment. Shared is the gateway of all scripts,
// nil when each has its own or needs none.
func setup(bin string, shared *gateway, own bool) func(*testscript.Env) error {
	return func(env *testscript.Env) error {
		env.Values[worldKey{}] = &world{bin: bin, gateway: shared, own: own}
		env.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
		env.Setenv("XDG_CONFIG_HOME", filepath.Join(env.WorkDir, ".config"))
		for _, key := range []string{"DOCKER_HOST", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY", "SSL_CERT_FILE"} {
			env.Setenv(key, os.Getenv(key))
		}
		if shared != nil {
			env.Setenv("KILN_GATEWAY", shared.url())
			env.Setenv("KILN_DATA", shared.data()) // where the tool finds the token
		}
		return nil
	}
}

// condition knows [has:PROGRAM]: the program is installed. Under CI a missing
// one is a failure, not a reason to skip.
func condition(cond string) (bool, error) {
	program, ok := strings.CutPrefix(cond, "has:")
	if !ok {
		return false, fmt.Errorf("unknown condition %q", cond)
	}
	find := func() (string, error) { return exec.LookPath(program) }
	if program == "nats-server" {
		find = natstest.Find
	}
	if _, err := find(); err != nil {
		if os.Getenv("CI") == "true" {
			return false, err
		}
		return false, nil
	}
	return true, nil
}

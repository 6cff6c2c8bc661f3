package launch_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/capacity"
	"github.com/kilnfaas/kiln/orchestrator/enginetest"
	"github.com/kilnfaas/kiln/orchestrator/launch"
	"github.com/kilnfaas/kiln/orchestrator/pool"
	"github.com/kilnfaas/kiln/orchestrator/porttest"
)

const (
	owner   = "launch-test"
	network = "kiln-launch-test"
	image   = "kiln/f:r1-abc"
)

// rig is a launcher on a fake engine whose image runs one program.
type rig struct {
	*launch.Launcher
	engine *enginetest.Fake
}

func newRig(t *testing.T, program enginetest.Program, change ...func(*launch.Config)) *rig {
	t.Helper()
	engine := enginetest.NewFake()
	if _, err := engine.EnsureNetwork(t.Context(), orchestrator.NetworkConfig{Name: network}); err != nil {
		t.Fatal(err)
	}
	engine.AddImage(image, program, nil)
	config := launch.Config{Engine: engine, Owner: owner, Network: network, StartTimeout: 10 * time.Second}
	for _, f := range change {
		f(&config)
	}
	l := launch.New(config)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		engine.Events(ctx, map[string]string{orchestrator.LabelOwner: owner}, func(e orchestrator.Event) {
			switch e.Kind {
			case orchestrator.EventDied:
				l.Died(e.ID, e.ExitCode, false)
			case orchestrator.EventOOM:
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		if left, err := engine.List(context.Background(), nil); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		engine.Close()
	})
	return &rig{Launcher: l, engine: engine}
}

func order(asks bool) pool.Order {
	spec := orchestrator.DefaultSpec()
	spec.Name, spec.Template = "f", "python"
	return pool.Order{Release: orchestrator.Release{
		Spec:     spec,
		Revision: orchestrator.Revision{ID: "r1-abc", Function: "f", Image: image},
		Template: orchestrator.Template{Name: "python", HTTPReady: asks},
	}}
}

func (r *rig) stop(t *testing.T, id string) {
	t.Helper()
	if err := r.Stop(t.Context(), id, time.Second); err != nil {
		t.Error(err)
	}
}

func TestLaunchWaitsForTheReadyAnswer(t *testing.T) {
	var asked atomic.Int32
	r := newRig(t, enginetest.Serve(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path != "/_kiln/ready" {
			t.Errorf("asked for %s", q.URL.Path)
		}
		if asked.Add(1) < 4 {
			http.Error(w, "loading", http.StatusServiceUnavailable)
		}
	})))
	got, err := r.Launch(t.Context(), order(true))
	if err != nil {
		t.Fatal(err)
	}
	defer r.stop(t, got.ID)
	if asked.Load() != 4 || got.Origin != pool.OriginImage {
		t.Errorf("asked %d times, origin %q", asked.Load(), got.Origin)
	}
	conn, err := net.Dial("tcp", got.Addr)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if r.Owns(got.ID) {
		t.Error("the launcher still owns what it has handed over")
	}
}

func TestLaunchTellsTheAddressBeforeItIsReady(t *testing.T) {
	var placed atomic.Pointer[string]
	r := newRig(t, enginetest.Serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if placed.Load() == nil {
			http.Error(w, "nobody knows", http.StatusServiceUnavailable)
		}
	})), func(c *launch.Config) {
		c.Placed = func(id, addr string) {
			at := id + " " + addr
			placed.Store(&at)
		}
	})
	got, err := r.Launch(t.Context(), order(true))
	if err != nil {
		t.Fatal(err)
	}
	r.stop(t, got.ID)
	if want := got.ID + " " + got.Addr; *placed.Load() != want {
		t.Errorf("placed %q, want %q", *placed.Load(), want)
	}
}

func TestLaunchOfOwnDockerfileNeedsOnlyThePort(t *testing.T) {
	r := newRig(t, enginetest.Serve(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		t.Errorf("asked for %s", q.URL)
	})))
	got, err := r.Launch(t.Context(), order(false))
	if err != nil {
		t.Fatal(err)
	}
	r.stop(t, got.ID)
}

// TestLaunchWithSecretsAndAToken: the container's program has them, and what the
// engine tells of it has not.
func TestLaunchWithSecretsAndAToken(t *testing.T) {
	key := orchestrator.InstanceKey("k")
	seen := make(chan orchestrator.ContainerConfig, 3)
	r := newRig(t, func(ctx context.Context, p *enginetest.Process) int {
		seen <- p.Config
		return enginetest.Serve(http.NotFoundHandler())(ctx, p)
	}, func(c *launch.Config) {
		c.Key = key
		c.Secrets = func(function string, names []string) (map[string][]byte, error) {
			if names[0] != "API_KEY" {
				return nil, orchestrator.Errorf(orchestrator.ErrFunction, "secret-unknown", "there is none")
			}
			return map[string][]byte{"API_KEY": []byte("v4lue of " + function)}, nil
		}
	})
	own := order(false) // a Dockerfile of somebody's, whose server knows nothing of tokens
	own.Release.Spec.Secrets = []string{"API_KEY"}
	launched, err := r.Launch(t.Context(), own)
	if err != nil {
		t.Fatal(err)
	}
	config := <-seen
	if got := string(config.Secrets["API_KEY"]); got != "v4lue of f" || launched.Token != "" || config.Labels[orchestrator.LabelToken] != "" {
		t.Errorf("the secret is %q, the token %q", got, launched.Token)
	}
	c, err := r.engine.Inspect(t.Context(), launched.ID)
	if err != nil || strings.Contains(fmt.Sprint(c, config.Env), "v4lue") {
		t.Errorf("the engine tells %v, %v; the environment is %v", c, err, config.Env)
	}
	r.stop(t, launched.ID)

	own.Release.Spec.Secrets = []string{"ABSENT"}
	if _, err := r.Launch(t.Context(), own); !errors.Is(err, orchestrator.ErrFunction) {
		t.Errorf("got %v", err)
	}
}

// TestLaunchGivesEachInstanceAToken of its own, which the next gateway knows, too.
func TestLaunchGivesEachInstanceAToken(t *testing.T) {
	key := orchestrator.InstanceKey("k")
	seen := make(chan orchestrator.ContainerConfig, 2)
	r := newRig(t, func(ctx context.Context, p *enginetest.Process) int {
		seen <- p.Config
		return enginetest.Serve(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))(ctx, p)
	}, func(c *launch.Config) { c.Key = key })
	tokens := map[string]bool{}
	for range 2 {
		launched, err := r.Launch(t.Context(), order(true))
		if err != nil {
			t.Fatal(err)
		}
		config := <-seen
		if launched.Token == "" || tokens[launched.Token] || config.Env[orchestrator.EnvInstanceToken] != launched.Token {
			t.Errorf("token %q, in the environment %q", launched.Token, config.Env[orchestrator.EnvInstanceToken])
		}
		tokens[launched.Token] = true
		c, err := r.engine.Inspect(t.Context(), launched.ID)
		if token, ok := key.Recall(c); err != nil || !ok || token != launched.Token {
			t.Errorf("recalled %q, %t, %v", token, ok, err)
		}
		if _, ok := orchestrator.InstanceKey("other").Recall(c); ok {
			t.Error("a gateway with another key takes it for its own")
		}
		if strings.Contains(fmt.Sprint(c), launched.Token) {
			t.Errorf("the token is in what is listed: %v", c)
		}
		r.stop(t, launched.ID)
	}
}

func TestLaunchFailures(t *testing.T) {
	tests := []struct {
		name    string
		program enginetest.Program
		asks    bool
		change  func(*launch.Config)
		detail  string
		hint    string
		output  string
		within  time.Duration
	}{
		{
			name: "exits", program: enginetest.ExitAtOnce(3, "Traceback", "ImportError: no module"),
			detail: "ended with exit code 3 before it was ready", output: "Traceback|ImportError: no module", within: 2 * time.Second,
		},
		{
			name: "exits late",
			program: func(ctx context.Context, p *enginetest.Process) int {
				select {
				case <-time.After(100 * time.Millisecond):
				case <-ctx.Done():
				}
				fmt.Fprintln(p.Stdout, "giving up")
				return 1
			},
			detail: "ended with exit code 1", output: "giving up", within: 2 * time.Second,
		},
		{
			name: "out of memory",
			program: func(ctx context.Context, p *enginetest.Process) int {
				go p.Allocate(1 << 40) // returns only once the program has ended
				<-ctx.Done()
				return 137
			},
			detail: "needed more than its 128MiB of memory", hint: "raise resources.memory", within: 2 * time.Second,
		},
		{
			name: "never listens", program: enginetest.NeverReady(),
			change: func(c *launch.Config) { c.StartTimeout = time.Second },
			detail: "was not ready within 1s", hint: "$PORT", within: 5 * time.Second,
		},
		{
			name: "never says yes", asks: true,
			program: enginetest.Serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, "waiting for the database", http.StatusServiceUnavailable)
			})),
			change: func(c *launch.Config) { c.StartTimeout = time.Second },
			detail: "answered 503: waiting for the database", within: 5 * time.Second,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var change []func(*launch.Config)
			if test.change != nil {
				change = append(change, test.change)
			}
			r := newRig(t, test.program, change...)
			begin := time.Now()
			_, err := r.Launch(t.Context(), order(test.asks))
			var e *orchestrator.Error
			if !errors.As(err, &e) || !errors.Is(err, orchestrator.ErrFunction) || e.Code != "instance-start-failed" {
				t.Fatalf("got %#v", err)
			}
			if !strings.Contains(e.Detail, test.detail) || !strings.Contains(e.Hint, test.hint) {
				t.Errorf("got %q (%q), want %q (%q)", e.Detail, e.Hint, test.detail, test.hint)
			}
			if got := strings.Join(e.Output, "|"); got != test.output {
				t.Errorf("output %q, want %q", got, test.output)
			}
			if took := time.Since(begin); took > test.within {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestLaunchNoticesAnEndWithoutEvents(t *testing.T) {
	engine := enginetest.NewFake()
	defer engine.Close()
	if _, err := engine.EnsureNetwork(t.Context(), orchestrator.NetworkConfig{Name: network}); err != nil {
		t.Fatal(err)
	}
	engine.AddImage(image, func(ctx context.Context, _ *enginetest.Process) int {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
		return 9
	}, nil)
	l := launch.New(launch.Config{Engine: engine, Owner: owner, Network: network})
	_, err := l.Launch(t.Context(), order(false))
	if err == nil || !strings.Contains(err.Error(), "exit code 9") {
		t.Errorf("got %v", err)
	}
}

func TestLaunchCalledOffLeavesNothing(t *testing.T) {
	r := newRig(t, enginetest.NeverReady())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.Launch(ctx, order(false)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestLaunchWithoutImageOrNetwork(t *testing.T) {
	r := newRig(t, enginetest.Serve(http.NotFoundHandler()))
	gone := order(false)
	gone.Release.Revision.Image = "kiln/f:r0-gone"
	_, err := r.Launch(t.Context(), gone)
	var e *orchestrator.Error
	if !errors.As(err, &e) || e.Code != "image-missing" || !errors.Is(err, orchestrator.ErrUnavailable) || errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("got %#v", err)
	}

	again := launch.New(launch.Config{Engine: r.engine, Owner: owner, Network: "kiln-removed-by-somebody"})
	got, err := again.Launch(t.Context(), order(false))
	if err != nil {
		t.Fatalf("the network was not made again: %v", err)
	}
	r.stop(t, got.ID)
}

func TestLaunchMakesAMissingImageAgain(t *testing.T) {
	var r *rig
	restored := 0
	r = newRig(t, enginetest.Serve(http.NotFoundHandler()), func(c *launch.Config) {
		c.Restore = func(_ context.Context, release orchestrator.Release) error {
			if restored++; restored == 1 {
				return errors.New("no builder")
			}
			r.engine.AddImage(release.Revision.Image, enginetest.Serve(http.NotFoundHandler()), nil)
			return nil
		}
	})
	if err := r.engine.RemoveImage(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Launch(t.Context(), order(false)); err == nil || !strings.Contains(err.Error(), "no builder") {
		t.Errorf("got %v, want why it could not be made", err)
	}
	for range 2 {
		launched, err := r.Launch(t.Context(), order(false))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Stop(t.Context(), launched.ID, 0); err != nil {
			t.Error(err)
		}
	}
	if restored != 2 {
		t.Errorf("made %d times, want 2: once in vain, and once", restored)
	}
}

func TestLaunchTakesTurns(t *testing.T) {
	budget := capacity.New(capacity.Config{Starts: 2})
	r := newRig(t, enginetest.Serve(http.NotFoundHandler()), func(c *launch.Config) { c.Capacity = budget })
	r.engine.Delay(enginetest.OpRun, 20*time.Millisecond)
	ids := make(chan string, 8)
	for range cap(ids) {
		go func() {
			got, err := r.Launch(context.Background(), order(false))
			if err != nil {
				t.Error(err)
			}
			ids <- got.ID
		}()
	}
	for range cap(ids) {
		r.stop(t, <-ids)
	}
	if n := r.engine.MostRunsAtOnce(); n != 2 {
		t.Errorf("%d at one time, want 2", n)
	}
}

// TestVerify: an instance that accepts no connection, or ends it, is gone; one
// that is busy is not.
func TestVerify(t *testing.T) {
	type program = func(net.Conn)
	answer := func(status string) program {
		return func(c net.Conn) {
			c.Read(make([]byte, 1024))
			io.WriteString(c, "HTTP/1.1 "+status+"\r\nContent-Length: 0\r\n\r\n")
		}
	}
	hang := func(c net.Conn) { io.Copy(io.Discard, c) }
	tests := map[string]struct {
		program  program // nil = nothing listens
		asks     bool
		patience time.Duration
		well     bool
	}{
		"answers":                     {answer("200 OK"), true, time.Minute, true},
		"is not ready":                {answer("503 Service Unavailable"), true, time.Minute, false},
		"closes":                      {func(net.Conn) {}, true, time.Minute, false},
		"is busy":                     {hang, true, 100 * time.Millisecond, true},
		"refuses":                     {nil, true, time.Minute, false},
		"accepts, nothing to ask":     {func(net.Conn) {}, false, time.Minute, true},
		"refuses, and nothing to ask": {nil, false, time.Minute, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			addr := porttest.Address(t)
			if tt.program != nil {
				listener, err := net.Listen("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				served := make(chan struct{})
				go func() {
					defer close(served)
					conn, err := listener.Accept()
					if err == nil {
						tt.program(conn)
						conn.Close()
					}
				}()
				defer func() {
					listener.Close()
					<-served
				}()
			}
			ctx, cancel := context.WithTimeout(t.Context(), tt.patience)
			defer cancel()
			err := launch.New(launch.Config{}).Verify(ctx, order(tt.asks).Release, pool.Launched{Addr: addr})
			if well := err == nil; well != tt.well {
				t.Errorf("got %v, want well %v", err, tt.well)
			}
		})
	}
}

// TestLaunchMakesTheNetworkOfItsMode: it is not there before a function needs it.
func TestLaunchMakesTheNetworkOfItsMode(t *testing.T) {
	r := newRig(t, enginetest.Serve(http.NotFoundHandler()))
	o := order(false)
	o.Release.Spec.Network = orchestrator.NetworkNone
	launched, err := r.Launch(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer r.stop(t, launched.ID)
	made, err := r.engine.Networks(t.Context(), map[string]string{orchestrator.LabelOwner: owner})
	if err != nil || len(made) != 1 || made[0].Name != network+"-none" || !made[0].Internal || made[0].Shared {
		t.Errorf("networks: got %+v, %v; want that of none, closed both ways", made, err)
	}
}

// TestLaunchWithTheRuntimeOfTheInstallation: what names none gets the default.
func TestLaunchWithTheRuntimeOfTheInstallation(t *testing.T) {
	ran := make(chan string, 1)
	program := func(ctx context.Context, p *enginetest.Process) int {
		ran <- p.Config.Runtime
		return enginetest.Serve(http.NotFoundHandler())(ctx, p)
	}
	r := newRig(t, program, func(c *launch.Config) { c.Runtime = "runsc" })
	for named, want := range map[string]string{"": "runsc", "kata": "kata"} {
		o := order(false)
		o.Release.Spec.Runtime = named
		launched, err := r.Launch(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if got := <-ran; got != want {
			t.Errorf("runtime %q: the container has %q, want %q", named, got, want)
		}
		r.stop(t, launched.ID)
	}
}

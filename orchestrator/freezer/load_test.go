package freezer_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/freezer"
	"github.com/kilnfaas/kiln/orchestrator/pool"
)

// server answers each connection's request after some milliseconds. Perl is in
// every Debian image.
const server = `use IO::Socket::INET;
my $listener = IO::Socket::INET->new(LocalPort => 8080, Listen => 64, ReuseAddr => 1) or die $!;
while (my $c = $listener->accept) {
	while (<$c>) { last if /^\r?$/ }
	select undef, undef, undef, 0.003;
	print $c "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
	close $c;
}`

// single is a pool.Launcher of one container that runs, which checks what the
// pool asks of it against what is in flight.
type single struct {
	*freezer.Engine
	t        *testing.T
	launched pool.Launched
	inflight atomic.Int64
	frozen   atomic.Bool
	freezes  atomic.Int64
}

func (s *single) Launch(context.Context, pool.Order) (pool.Launched, error) { return s.launched, nil }

func (s *single) Freeze(ctx context.Context, id string) error {
	s.frozen.Store(true)
	err := s.Engine.Freeze(ctx, id)
	s.freezes.Add(1)
	if n := s.inflight.Load(); n != 0 {
		s.t.Errorf("it was frozen with %d calls in flight", n)
	}
	return err
}

func (s *single) Thaw(ctx context.Context, id string) error {
	err := s.Engine.Thaw(ctx, id)
	s.frozen.Store(false)
	return err
}

func (s *single) Verify(context.Context, orchestrator.Release, pool.Launched) error { return nil }

func (s *single) Stop(context.Context, string, time.Duration) error { return nil }

// TestFreezingUnderLoad freezes a real container as often as it is idle for an
// instant while callers come and go: none is ever sent to a frozen one, and none
// is frozen with its instance.
func TestFreezingUnderLoad(t *testing.T) {
	engine, client := realEngine(t)
	c, err := engine.Run(t.Context(), orchestrator.ContainerConfig{
		Name: "kiln-freezer-load-test", Image: "debian:trixie-slim", Network: "bridge",
		Labels:  map[string]string{orchestrator.LabelOwner: "freezer-test"},
		Command: []string{"perl", "-e", server},
		Limits:  orchestrator.Limits{Memory: 64 * orchestrator.MiB, CPU: 1, Pids: 64},
	})
	if err != nil {
		skip(t, "no container", err)
	}
	t.Cleanup(func() { client.Stop(context.Background(), c.ID, 0) })
	addr := net.JoinHostPort(c.Addr, strconv.Itoa(orchestrator.InstancePort))
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if call(t.Context(), addr) == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the server does not answer")
		}
	}

	s := &single{Engine: engine, t: t, launched: pool.Launched{ID: c.ID, Addr: addr, Origin: pool.OriginImage}}
	spec := orchestrator.DefaultSpec()
	spec.Name, spec.Concurrency = "frosty", 4
	spec.Scale = orchestrator.Scale{Max: 1, FreezeAfter: 1, KeepAlive: orchestrator.Duration(time.Hour)}
	p := pool.New(&pool.Config{Launcher: s}, orchestrator.Release{Spec: spec, Revision: orchestrator.Revision{ID: "r1-abc", Function: spec.Name}})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	const enough = 50
	var calls atomic.Int64
	var work sync.WaitGroup
	for i := range 3 {
		random := rand.New(rand.NewPCG(7, uint64(i)))
		work.Go(func() {
			for ctx.Err() == nil {
				if err := s.one(t.Context(), p); err != nil {
					t.Error(err)
				}
				calls.Add(1)
				time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond)
			}
		})
	}
	for ctx.Err() == nil && (calls.Load() < enough || s.freezes.Load() < enough) {
		p.Tick()
		time.Sleep(100 * time.Microsecond)
	}
	cancel()
	work.Wait()
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	t.Logf("%d calls, %d freezes", calls.Load(), s.freezes.Load())
	if calls.Load() < enough || s.freezes.Load() < enough {
		t.Errorf("%d calls and %d freezes prove little", calls.Load(), s.freezes.Load())
	}
}

// one makes a call through the pool.
func (s *single) one(ctx context.Context, p *pool.Pool) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	lease, err := p.Acquire(ctx)
	if err != nil {
		return err
	}
	s.inflight.Add(1)
	if s.frozen.Load() {
		s.t.Error("a slot of a frozen instance was given")
	}
	err = call(ctx, lease.Addr())
	s.inflight.Add(-1)
	lease.Release(pool.Done)
	return err
}

func call(ctx context.Context, addr string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/", nil)
	if err != nil {
		return err
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || string(body) != "ok" {
		return fmt.Errorf("answer %q, %w", body, err)
	}
	return nil
}

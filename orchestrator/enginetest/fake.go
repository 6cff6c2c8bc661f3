package enginetest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Op names a method of the fake, for scripted failures and for counting.
type Op string

// The operations.
const (
	OpRun         Op = "run"
	OpStop        Op = "stop"
	OpFreeze      Op = "freeze"
	OpThaw        Op = "thaw"
	OpLimit       Op = "limit"
	OpInspect     Op = "inspect"
	OpList        Op = "list"
	OpLogs        Op = "logs"
	OpNetwork     Op = "network"
	OpInfo        Op = "info"
	OpImage       Op = "image"
	OpImages      Op = "images"
	OpPull        Op = "pull"
	OpTag         Op = "tag"
	OpRemoveImage Op = "remove-image"
	OpBuild       Op = "build"
)

// Fake is an engine in memory: Engine, Images and Builder. Its containers run
// Programs on loopback addresses of their own, so that what talks to instances
// can be tested without Docker; with programs that do not listen it works on
// the fake clock of testing/synctest too.
//
// An image is what AddImage or Build made. A build reads the Dockerfile: FROM
// must name an image, RUN ["/probe", "script", …] is carried out (package
// probe), all else succeeds at once; the result runs what its base runs.
//
// The zero value is not usable; NewFake makes one, Close ends it.
type Fake struct {
	mu             sync.Mutex // guards all below; never held while anything waits
	images         map[string]*fakeImage
	refs           map[string]string // reference -> image id
	pullable       map[string]Program
	containers     map[string]*fakeContainer
	networks       map[string]orchestrator.Network
	watchers       map[*watcher]struct{}
	up             chan struct{} // closed while the engine answers
	failures       map[Op][]error
	latency        map[Op]time.Duration
	held           map[Op]chan struct{} // closed when it goes on
	calls          map[Op]int
	built          map[string]bool // digests of steps that a build would find cached
	serial         int
	frozenRequests int
	runningNow     int
	runningMost    int

	subnet [2]byte // of 127.x.y.0
	run    string  // makes ids of two fakes differ
	work   sync.WaitGroup
}

var (
	_ orchestrator.Engine  = (*Fake)(nil)
	_ orchestrator.Images  = (*Fake)(nil)
	_ orchestrator.Builder = (*Fake)(nil)
)

// NewFake returns an engine without images and containers.
func NewFake() *Fake {
	f := &Fake{
		images: map[string]*fakeImage{}, refs: map[string]string{}, pullable: map[string]Program{},
		containers: map[string]*fakeContainer{}, networks: map[string]orchestrator.Network{"bridge": {
			Name: "bridge", Bridge: "docker0", Shared: true, Subnets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		}},
		watchers: map[*watcher]struct{}{}, up: make(chan struct{}),
		failures: map[Op][]error{}, latency: map[Op]time.Duration{}, held: map[Op]chan struct{}{}, calls: map[Op]int{}, built: map[string]bool{},
		run: rand.Text(),
	}
	close(f.up)
	// Fakes of several test processes listen on one machine: each takes a subnet
	// of its own, apart from 127.0.0.0 where everybody else is.
	sum := sha256.Sum256([]byte(f.run))
	f.subnet = [2]byte{1 + sum[0]%250, sum[1]}
	return f
}

// Close kills all containers and waits for their programs.
func (f *Fake) Close() error {
	f.mu.Lock()
	for _, c := range f.containers {
		c.kill()
	}
	f.mu.Unlock()
	f.work.Wait()
	return nil
}

// AddImage makes an image that runs program.
func (f *Fake) AddImage(ref string, program Program, labels map[string]string) orchestrator.Image {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.addImage(orchestrator.Image{Labels: maps.Clone(labels), Size: orchestrator.MiB}, program, ref).Image
}

// AddPullable makes Pull find an image.
func (f *Fake) AddPullable(ref string, program Program) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pullable[reference(ref)] = program
}

// Down makes every call fail with ErrUnavailable and breaks the event streams,
// until Up. Containers go on running, as they do without their engine.
func (f *Fake) Down() {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.up:
		f.up = make(chan struct{})
		for w := range f.watchers {
			close(w.broken)
		}
		clear(f.watchers)
	default:
	}
}

// Up ends Down.
func (f *Fake) Up() {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.up:
	default:
		close(f.up)
	}
}

// Fail makes the next calls of an operation fail, one for each error.
func (f *Fake) Fail(op Op, errs ...error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failures[op] = append(f.failures[op], errs...)
}

// Delay makes an operation take that long from now on.
func (f *Fake) Delay(op Op, d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.latency[op] = d
}

// Hold makes an operation wait from now on until release is called, once.
func (f *Fake) Hold(op Op) (release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	held := make(chan struct{})
	f.held[op] = held
	return func() { close(held) }
}

// Calls returns how often an operation was asked for.
func (f *Fake) Calls(op Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

// MostRunsAtOnce returns how many Runs were in progress at the same time, at
// most.
func (f *Fake) MostRunsAtOnce() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.runningMost
}

// FrozenRequests returns how many requests reached a frozen container that runs
// Serve. It should be 0.
func (f *Fake) FrozenRequests() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.frozenRequests
}

// Kill ends a container from outside, with SIGKILL. Unknown ids are ignored.
func (f *Fake) Kill(id string) { f.killAs(id, false) }

// OOM ends a container as the kernel does when it is over its memory.
func (f *Fake) OOM(id string) { f.killAs(id, true) }

func (f *Fake) killAs(id string, oom bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.containers[id]
	if c == nil || c.state == orchestrator.ContainerExited {
		return
	}
	if oom {
		c.oom = true
		f.publish(orchestrator.Event{Kind: orchestrator.EventOOM, ID: id, Labels: maps.Clone(c.config.Labels), Time: time.Now()})
	}
	c.kill()
}

// begin is the start of every operation: it counts, fails as scripted, and
// takes the scripted time.
func (f *Fake) begin(ctx context.Context, op Op) error {
	f.mu.Lock()
	f.calls[op]++
	var scripted error
	if list := f.failures[op]; len(list) > 0 {
		scripted, f.failures[op] = list[0], list[1:]
	}
	latency, held, up := f.latency[op], f.held[op], f.up
	f.mu.Unlock()
	if err := ctxError(ctx, op); err != nil {
		return err
	}
	select {
	case <-up:
	default:
		return orchestrator.Errorf(orchestrator.ErrUnavailable, "engine-unreachable", "the fake engine is down")
	}
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
		}
	}
	if latency > 0 {
		timer := time.NewTimer(latency)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	if err := ctxError(ctx, op); err != nil {
		return err
	}
	return scripted
}

// ctxError is what an ended context makes of an operation.
func ctxError(ctx context.Context, op Op) error {
	switch err := ctx.Err(); err {
	case nil:
		return nil
	case context.DeadlineExceeded:
		return orchestrator.Errorf(orchestrator.ErrDeadline, "engine-deadline", "no time left to %s: %w", op, err)
	default:
		return fmt.Errorf("%s: %w", op, err)
	}
}

// id returns a fresh id in the engine's form. Call with mu held.
func (f *Fake) id() string {
	f.serial++
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", f.run, f.serial))
	return hex.EncodeToString(sum[:])
}

// reference completes a reference without a tag.
func reference(ref string) string {
	if last := ref[strings.LastIndexByte(ref, '/')+1:]; strings.Contains(last, ":") {
		return ref
	}
	return ref + ":latest"
}

// hasAll says whether labels has all of want.
func hasAll(labels, want map[string]string) bool {
	for name, value := range want {
		if got, ok := labels[name]; !ok || got != value {
			return false
		}
	}
	return true
}

package fence_test

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/enginetest"
	"github.com/kilnfaas/kiln/orchestrator/fence"
)

// firewall is a Firewall in memory.
type firewall struct {
	mu     sync.Mutex
	err    error
	up     map[string]orchestrator.Walls
	raised int
}

func (f *firewall) Raise(_ context.Context, walls orchestrator.Walls) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	f.up = map[string]orchestrator.Walls{walls.Owner: walls}
	f.raised++
	return nil
}

func (f *firewall) Standing(_ context.Context, walls orchestrator.Walls) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return reflect.DeepEqual(f.up[walls.Owner], walls), f.err
}

func (f *firewall) Raze(context.Context, string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.up = nil
	return nil
}

const every = 30 * time.Second

func newFence(engine orchestrator.Engine, strict bool, firewalls ...*firewall) *fence.Fence {
	config := fence.Config{Engine: engine, Owner: "me", Network: "kiln", Port: 8080, Strict: strict}
	for _, f := range firewalls {
		config.Ways = append(config.Ways, fence.Way{Name: "test", Firewall: f, Every: every})
	}
	return fence.New(config)
}

func TestWallsNameTheBridges(t *testing.T) {
	engine := enginetest.NewFake()
	defer engine.Close()
	if _, err := engine.EnsureNetwork(t.Context(), orchestrator.NetworkConfig{Name: orchestrator.EngineNetwork, Bridge: "docker0"}); err != nil {
		t.Fatal(err)
	}
	walls := &firewall{}
	f := newFence(engine, false, walls)
	if err := f.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	made, err := engine.Networks(t.Context(), map[string]string{orchestrator.LabelOwner: "me"})
	if err != nil || len(made) != 1 || made[0].Name != "kiln" {
		t.Fatalf("networks: got %+v, %v; want that of the default mode only, for most need no other", made, err)
	}
	networks := orchestrator.InstanceNetworks("me", "kiln")
	want := orchestrator.Walls{
		Alone: made[0].Subnets,
		Owner: "me", Port: 8080, Internet: networks[orchestrator.NetworkInternet].Bridge,
		Services: networks[orchestrator.NetworkServices].Bridge, None: networks[orchestrator.NetworkNone].Bridge,
		Builds: "docker0",
	}
	if diff := cmp.Diff(want, walls.up["me"], cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("walls (-want +got):\n%s", diff)
	}
	// Where another network is, is known only once it is made.
	none, err := f.EnsureNetwork(t.Context(), networks[orchestrator.NetworkNone])
	if err != nil {
		t.Fatal(err)
	}
	if got := walls.up["me"].Alone; !slices.Equal(got, append(want.Alone, none.Subnets...)) {
		t.Errorf("the walls know the subnets %v, want that of %s, too", got, none.Name)
	}
}

// TestNetworksOfOthers have bridges that nobody could know before.
func TestNetworksOfOthers(t *testing.T) {
	engine := enginetest.NewFake()
	defer engine.Close()
	for _, name := range []string{"kiln", "kiln-none"} {
		if _, err := engine.EnsureNetwork(t.Context(), orchestrator.NetworkConfig{Name: name, Bridge: "theirs-" + name}); err != nil {
			t.Fatal(err)
		}
	}
	walls := &firewall{}
	f := newFence(engine, false, walls)
	if err := f.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := walls.up["me"].Internet; got != "theirs-kiln" {
		t.Errorf("the walls know the bridge %q, want theirs-kiln", got)
	}
	if _, err := f.EnsureNetwork(t.Context(), orchestrator.InstanceNetworks("me", "kiln")[orchestrator.NetworkNone]); err != nil {
		t.Fatal(err)
	}
	if got := walls.up["me"].None; got != "theirs-kiln-none" {
		t.Errorf("once it is used the walls know the bridge %q, want theirs-kiln-none", got)
	}
}

func TestTheFirstWayThatWorks(t *testing.T) {
	refused := errors.New("not root")
	for name, tt := range map[string]struct {
		errs   []error
		strict bool
		fails  bool
	}{
		"the first":          {[]error{nil, nil}, true, false},
		"the second":         {[]error{refused, nil}, true, false},
		"none":               {[]error{refused, refused}, false, false},
		"none, and a must":   {[]error{refused, refused}, true, true},
		"switched off by no": {nil, false, false},
	} {
		engine := enginetest.NewFake()
		var walls []*firewall
		for _, err := range tt.errs {
			walls = append(walls, &firewall{err: err})
		}
		if err := newFence(engine, tt.strict, walls...).Open(t.Context()); (err != nil) != tt.fails {
			t.Errorf("%s: got %v, want an error: %t", name, err, tt.fails)
		}
		used := false
		for i, w := range walls {
			if want := !used && tt.errs[i] == nil; (w.raised == 1) != want {
				t.Errorf("%s: way %d raised walls %d times, want it used: %t", name, i, w.raised, want)
			}
			used = used || tt.errs[i] == nil
		}
		engine.Close()
	}
}

// TestWallsComeBack when somebody flushes the machine's rules.
func TestWallsComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := enginetest.NewFake()
		defer engine.Close()
		walls := &firewall{}
		f := newFence(engine, false, walls)
		if err := f.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.Keep(ctx) }()
		time.Sleep(3 * every)
		synctest.Wait()
		if walls.raised != 1 {
			t.Errorf("walls that stood were raised %d times, want once", walls.raised)
		}
		if err := walls.Raze(ctx, "me"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(every)
		synctest.Wait()
		if walls.raised != 2 || len(walls.up) != 1 {
			t.Errorf("after they were taken down: raised %d times, want twice", walls.raised)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Keep: %v", err)
		}
	})
}

func TestInside(t *testing.T) {
	engine := enginetest.NewFake() // its networks are 127.0.0.0/8
	defer engine.Close()
	f := newFence(engine, false)
	inside := netip.MustParseAddr("::ffff:127.0.0.9")
	if f.Inside(inside) {
		t.Error("an address is inside before there is a network")
	}
	if err := f.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !f.Inside(inside) {
		t.Error("an address of the network is not inside")
	}
	if f.Inside(netip.MustParseAddr("10.0.0.1")) || f.Inside(netip.MustParseAddr("::1")) {
		t.Error("an address of no network is inside")
	}
}

// seer notes what it is asked to run.
type seer struct {
	orchestrator.Engine
	ran orchestrator.ContainerConfig
}

func (s *seer) Run(_ context.Context, config orchestrator.ContainerConfig) (orchestrator.Container, error) {
	s.ran = config
	return orchestrator.Container{}, nil
}

// TestMarksNeedWalls: instances with services are marked for the walls, and only
// where there are some.
func TestMarksNeedWalls(t *testing.T) {
	for name, firewalls := range map[string][]*firewall{"walls": {{}}, "none": nil, "none that works": {{err: errors.New("not root")}}} {
		for _, mode := range orchestrator.NetworkModes {
			engine := enginetest.NewFake()
			defer engine.Close()
			s := &seer{Engine: engine}
			f := newFence(s, false, firewalls...)
			if err := f.Open(t.Context()); err != nil {
				t.Fatal(err)
			}
			release := orchestrator.Release{Spec: orchestrator.Spec{Name: "x", Network: mode}}
			if _, err := f.Run(t.Context(), release.Container("me", "kiln")); err != nil {
				t.Fatal(err)
			}
			if want := name == "walls" && mode == orchestrator.NetworkServices; s.ran.Marked != want {
				t.Errorf("%s, network %s: marked %v, want %v", name, mode, s.ran.Marked, want)
			}
		}
	}
}

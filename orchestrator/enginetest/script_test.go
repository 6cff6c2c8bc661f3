package enginetest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/enginetest"
)

func start(t *testing.T, fake *enginetest.Fake, image string) orchestrator.Container {
	t.Helper()
	c, err := fake.Run(t.Context(), orchestrator.ContainerConfig{Name: fmt.Sprint(image, time.Now()), Image: image, Labels: map[string]string{"image": image}})
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	return c
}

// TestPrograms runs the scripted programs on a fake clock.
func TestPrograms(t *testing.T) {
	for _, test := range []struct {
		name    string
		program enginetest.Program
		stop    time.Duration // how long Stop with a grace of 10 s takes
		exit    int           // code at its death
	}{
		{"idle", enginetest.Idle(), 0, 0},
		{"never ready", enginetest.NeverReady(), 10 * time.Second, 137},
		{"exits at once", enginetest.ExitAtOnce(3, "cannot import handler"), 0, 3},
		{"starting", enginetest.After(time.Minute, enginetest.Idle()), 0, 143},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fake := enginetest.NewFake()
				defer fake.Close()
				fake.AddImage("i:1", test.program, nil)
				ctx, cancel := context.WithCancel(t.Context())
				var died []int
				var events sync.WaitGroup
				events.Go(func() {
					_ = fake.Events(ctx, nil, func(e orchestrator.Event) {
						if e.Kind == orchestrator.EventDied {
							died = append(died, e.ExitCode)
						}
					})
				})
				synctest.Wait()
				c := start(t, fake, "i:1")
				synctest.Wait()
				began := time.Now()
				if err := fake.Stop(t.Context(), c.ID, 10*time.Second); err != nil {
					t.Errorf("Stop: %v", err)
				}
				if took := time.Since(began); took != test.stop {
					t.Errorf("Stop took %s, want %s", took, test.stop)
				}
				synctest.Wait()
				cancel()
				events.Wait()
				if diff := cmp.Diff([]int{test.exit}, died); diff != "" {
					t.Errorf("deaths (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestScriptedFailuresAndDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := enginetest.NewFake()
		defer fake.Close()
		fake.AddImage("i:1", enginetest.Idle(), nil)
		full := errors.New("no more veth")
		fake.Fail(enginetest.OpRun, full)
		if _, err := fake.Run(t.Context(), orchestrator.ContainerConfig{Name: "a", Image: "i:1"}); !errors.Is(err, full) {
			t.Errorf("first Run: got %v, want the scripted failure", err)
		}
		fake.Delay(enginetest.OpRun, 200*time.Millisecond)
		began := time.Now()
		var runs sync.WaitGroup
		for i := range 3 {
			runs.Go(func() {
				if _, err := fake.Run(t.Context(), orchestrator.ContainerConfig{Name: fmt.Sprint("b", i), Image: "i:1"}); err != nil {
					t.Errorf("Run: %v", err)
				}
			})
		}
		runs.Wait()
		if took := time.Since(began); took != 200*time.Millisecond {
			t.Errorf("three Runs took %s, want 200ms", took)
		}
		if calls, most := fake.Calls(enginetest.OpRun), fake.MostRunsAtOnce(); calls != 4 || most != 3 {
			t.Errorf("got %d calls, %d at once; want 4 and 3", calls, most)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := fake.Run(ctx, orchestrator.ContainerConfig{Name: "c", Image: "i:1"}); !errors.Is(err, orchestrator.ErrDeadline) {
			t.Errorf("Run without time: got %v, want ErrDeadline", err)
		}
	})
}

func TestEngineDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := enginetest.NewFake()
		defer fake.Close()
		fake.AddImage("i:1", enginetest.Idle(), nil)
		c := start(t, fake, "i:1")
		ctx, cancel := context.WithCancel(t.Context())
		var got []orchestrator.EventKind
		var events sync.WaitGroup
		events.Go(func() {
			_ = fake.Events(ctx, nil, func(e orchestrator.Event) { got = append(got, e.Kind) })
		})
		synctest.Wait()
		fake.Down()
		fake.Kill(c.ID) // containers can die without their engine
		synctest.Wait()
		if _, err := fake.Inspect(t.Context(), c.ID); !errors.Is(err, orchestrator.ErrUnavailable) {
			t.Errorf("Inspect: got %v, want ErrUnavailable", err)
		}
		fake.Up()
		synctest.Wait()
		if now, err := fake.Inspect(t.Context(), c.ID); err != nil || now.State != orchestrator.ContainerExited || now.ExitCode != 137 {
			t.Errorf("Inspect: got %+v, %v; want it exited with 137", now, err)
		}
		cancel()
		events.Wait()
		if diff := cmp.Diff([]orchestrator.EventKind{orchestrator.EventResync, orchestrator.EventResync}, got); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}

// TestServe: a container really listens, and what reaches it frozen is counted.
func TestServe(t *testing.T) {
	fake := newFake(t)
	fake.AddImage("i:1", enginetest.Serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "hello")
	})), nil)
	c := start(t, fake, "i:1")
	ask := func() (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.Addr+":8080/", nil)
			if err != nil {
				return "", err
			}
			response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
			if err != nil {
				if ctx.Err() != nil {
					return "", err
				}
				continue // not listening yet
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			return string(body), err
		}
	}
	if got, err := ask(); got != "hello" {
		t.Fatalf("got %q, %v", got, err)
	}
	if err := fake.Freeze(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	answered := make(chan string, 1)
	go func() {
		got, _ := ask()
		answered <- got
	}()
	for fake.FrozenRequests() == 0 {
		select {
		case got := <-answered:
			t.Fatalf("a frozen container answered %q", got)
		case <-time.After(time.Millisecond):
		}
	}
	if err := fake.Thaw(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if got := <-answered; got != "hello" {
		t.Errorf("after Thaw: got %q", got)
	}
}

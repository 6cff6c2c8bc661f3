package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/docker"
)

// wantFinding compares a finding. An empty remedy wants none, else the remedy
// has to contain it.
func wantFinding(t *testing.T, name string, got finding, check string, want verdict, remedy string) {
	t.Helper()
	if got.Check != check || got.Verdict != want || (got.Remedy == "") != (remedy == "") || !strings.Contains(got.Remedy, remedy) {
		t.Errorf("%s: got %+v, want %s of %s with the remedy %q", name, got, want, check, remedy)
	}
}

// broken is an engine's refusal with its own remedy.
var broken = orchestrator.Errorf(orchestrator.ErrUnavailable, "engine-unavailable", "no answer").WithHint("start it")

func TestDoctorChecksAPI(t *testing.T) {
	for version, want := range map[string]verdict{"1.41": verdictGood, "1.52": verdictGood, "1.40": verdictBad, "2.0": verdictBad, "": verdictBad} {
		remedy := ""
		if want == verdictBad {
			remedy = "install Docker 20.10 or newer"
		}
		wantFinding(t, version, checkAPI(version), "api", want, remedy)
	}
}

func TestDoctorChecksBuilder(t *testing.T) {
	for name, tt := range map[string]struct {
		kind   docker.BuilderMode
		err    error
		want   verdict
		remedy string
	}{
		"buildkit": {docker.BuilderBuildKit, nil, verdictGood, ""},
		"classic":  {docker.BuilderClassic, nil, verdictDoubt, "install Docker 20.10 or newer"},
		"broken":   {"", broken, verdictBad, "start it"},
	} {
		got := checkBuilder(t.Context(), func(context.Context) (docker.BuilderMode, error) { return tt.kind, tt.err })
		wantFinding(t, name, got, "builder", tt.want, tt.remedy)
	}
}

func TestDoctorChecksConfinement(t *testing.T) {
	good := orchestrator.EngineInfo{Seccomp: "default", SwapCounted: true, Runtimes: []string{"runc", "runsc"}, Runtime: "runc"}
	unconfined, swap, remapped := good, good, good
	unconfined.Seccomp, swap.SwapCounted, remapped.Remapped = "", false, true
	wantFinding(t, "as it comes", checkConfinement(good), "containers", verdictGood, "")
	wantFinding(t, "no seccomp", checkConfinement(unconfined), "containers", verdictBad, "seccomp-profile")
	wantFinding(t, "uncounted swap", checkConfinement(swap), "containers", verdictDoubt, "swapaccount=1")
	wantFinding(t, "userns-remap", checkConfinement(remapped), "containers", verdictGood, "")
	if got := checkConfinement(remapped).Detail; !strings.Contains(got, "other users") || !strings.Contains(got, "runc, runsc") {
		t.Errorf("it does not tell of users and runtimes: %q", got)
	}
}

// TestEngineThatConfinesNothing is refused where that was asked for, and told of
// elsewhere.
func TestEngineThatConfinesNothing(t *testing.T) {
	for _, tt := range []struct {
		isolation, seccomp string
		refused, warned    bool
	}{
		{isolationStrict, "default", false, false}, {isolationAuto, "default", false, false},
		{isolationStrict, "", true, false}, {isolationAuto, "", false, true}, {isolationOff, "", false, true},
	} {
		var log strings.Builder
		d := &daemon{
			cfg: config{Isolation: tt.isolation}, info: orchestrator.EngineInfo{Seccomp: tt.seccomp},
			logger: slog.New(slog.NewTextHandler(&log, nil)),
		}
		err := d.confined()
		if (err != nil) != tt.refused || strings.Contains(log.String(), "every system call") != tt.warned {
			t.Errorf("%s and the profile %q: got %v and %q in the log", tt.isolation, tt.seccomp, err, &log)
		}
	}
}

func TestDoctorChecksDisk(t *testing.T) {
	const remedy = "docker image prune"
	wantFinding(t, "enough", checkFree("/", diskWarning), "disk", verdictGood, "")
	wantFinding(t, "little", checkFree("/", diskWarning-1), "disk", verdictDoubt, remedy)
	wantFinding(t, "just not full", checkFree("/", diskFailure), "disk", verdictDoubt, remedy)
	wantFinding(t, "full", checkFree("/", diskFailure-1), "disk", verdictBad, remedy)
	wantFinding(t, "elsewhere", checkDisk(filepath.Join(t.TempDir(), "absent")), "disk", verdictSkipped, "")
	if got := checkDisk(t.TempDir()); got.Verdict == verdictSkipped {
		t.Errorf("a folder that is here: got %+v", got)
	}
}

// houses is an engine with instances.
type houses struct {
	instances []orchestrator.Container
	err       error
}

func (h houses) List(_ context.Context, labels map[string]string) ([]orchestrator.Container, error) {
	if labels[orchestrator.LabelKind] != orchestrator.KindInstance {
		return nil, nil
	}
	return h.instances, h.err
}

func (h houses) Networks(context.Context, map[string]string) ([]orchestrator.Network, error) {
	return nil, nil
}

func TestDoctorChecksNetwork(t *testing.T) {
	const open, closed = "127.41.8.1", "127.41.8.2"
	listener, err := net.Listen("tcp", net.JoinHostPort(open, strconv.Itoa(orchestrator.InstancePort)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	running := func(addr string) orchestrator.Container {
		return orchestrator.Container{Name: "one", State: orchestrator.ContainerRunning, Addr: addr}
	}
	gone := orchestrator.Container{State: orchestrator.ContainerExited, Addr: closed}
	for name, tt := range map[string]struct {
		forward string
		engine  houses
		want    verdict
		remedy  string
	}{
		"nothing runs":      {"1\n", houses{}, verdictGood, ""},
		"one answers":       {"1\n", houses{instances: []orchestrator.Container{gone, running(""), running(open)}}, verdictGood, ""},
		"one is not there":  {"1\n", houses{instances: []orchestrator.Container{running(closed)}}, verdictBad, "DOCKER-USER"},
		"no IP forwarding":  {"0\n", houses{}, verdictBad, "net.ipv4.ip_forward=1"},
		"the engine is not": {"1\n", houses{err: broken}, verdictBad, "start it"},
	} {
		forwarding := filepath.Join(t.TempDir(), "ip_forward")
		if err := os.WriteFile(forwarding, []byte(tt.forward), 0o600); err != nil {
			t.Fatal(err)
		}
		wantFinding(t, name, checkNetwork(t.Context(), tt.engine, forwarding), "network", tt.want, tt.remedy)
	}
}

type images = orchestrator.Images

// shelf has the images of these references. What is not asked panics.
type shelf struct {
	images
	refs []string
	err  error // instead of ErrNotFound
}

func (s shelf) Image(_ context.Context, ref string) (orchestrator.Image, error) {
	switch {
	case slices.Contains(s.refs, ref):
		return orchestrator.Image{}, nil
	case s.err != nil:
		return orchestrator.Image{}, s.err
	}
	return orchestrator.Image{}, orchestrator.Errorf(orchestrator.ErrNotFound, "image-not-found", "no image %s", ref)
}

func TestDoctorChecksBases(t *testing.T) {
	catalogue := []orchestrator.Template{
		{Name: "one", Bases: []orchestrator.Base{{Image: "first"}}},
		{Name: "two", Bases: []orchestrator.Base{{Image: "second", Fallback: "third"}}},
	}
	for name, tt := range map[string]struct {
		shelf     shelf
		want      verdict
		remedy    string
		languages []string
	}{
		"all here":      {shelf{refs: []string{baseOfAll, "first", "second"}}, verdictGood, "", []string{"ready to build: one, two"}},
		"by a fallback": {shelf{refs: []string{baseOfAll, "third"}}, verdictGood, "", []string{"ready to build: two", "the first deploy: one"}},
		"none here":     {shelf{}, verdictDoubt, "sudo deploy/bootstrap", []string{"the first deploy: one, two"}},
		"broken":        {shelf{err: broken}, verdictBad, "start it", []string{"the first deploy: one, two"}},
	} {
		got := checkBases(t.Context(), tt.shelf, catalogue)
		wantFinding(t, name, got[0], "base", tt.want, tt.remedy)
		if len(got) != 1+len(tt.languages) {
			t.Errorf("%s: got %+v, want %d findings", name, got, 1+len(tt.languages))
			continue
		}
		for i, detail := range tt.languages {
			wantFinding(t, name, got[1+i], "languages", verdictGood, "")
			if !strings.HasSuffix(got[1+i].Detail, detail) {
				t.Errorf("%s: got %q, want %q", name, got[1+i].Detail, detail)
			}
		}
	}
}

func TestDoctorChecksClock(t *testing.T) {
	const lag = 3 * time.Second // what a slow machine may take between both looks at the clock
	for name, tt := range map[string]struct {
		ahead  time.Duration
		silent bool
		want   verdict
		remedy string
	}{
		"agrees": {0, false, verdictGood, ""},
		"ahead":  {maxSkew + lag, false, verdictDoubt, "systemd-timesyncd"},
		"behind": {-maxSkew - lag, false, verdictDoubt, "systemd-timesyncd"},
		"silent": {0, true, verdictSkipped, ""},
	} {
		gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", time.Now().Add(tt.ahead).UTC().Format(http.TimeFormat))
			if tt.silent {
				w.Header()["Date"] = nil
			}
			_, _ = w.Write([]byte("{}")) // the client sees what is missing
		}))
		got := checkGateway(t.Context(), &api.Client{BaseURL: gateway.URL})
		gateway.Close()
		if len(got) != 2 {
			t.Errorf("%s: got %+v, want two findings", name, got)
			continue
		}
		wantFinding(t, name, got[0], "gateway", verdictGood, "")
		wantFinding(t, name, got[1], "clock", tt.want, tt.remedy)
	}
}

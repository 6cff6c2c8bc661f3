package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// The jumps of the clock, in seconds after the gateway's start: an hour ahead,
// and then to an hour behind.
const (
	clockJumps = "6:3600,14:-7200"
	clockEnd   = 22 * time.Second
	clockShift = -time.Hour // at the end
	// clockBuild bounds building a kiln with such a clock: all its packages are
	// compiled anew.
	clockBuild = 10 * time.Minute
)

// jumpClock runs the gateway for a while with a clock that jumps, under load and
// deploys. It is a build with a clock of its own: a static binary asks the
// kernel's page for the time, where nothing can be slid in between.
var jumpClock = fault{name: "clock jumps", full: 1, prepare: buildClock, inject: func(ctx context.Context, w *world) error {
	if err := w.replaceGateway(ctx, w.clockKiln(), "KILN_CHAOS_CLOCK="+clockJumps); err != nil {
		return err
	}
	if err := w.pause(ctx, clockEnd); err != nil {
		return err
	}
	if err := w.settle(ctx); err != nil {
		return err
	}
	shift, err := w.gateway.clock(ctx)
	if err != nil {
		return err
	}
	if off := (shift - clockShift).Abs(); off > 5*time.Second {
		w.broken("the gateway's clock is %s off, not %s: nothing was tested", shift, clockShift)
	}
	return w.replaceGateway(ctx, w.o.kiln)
}}

// replaceGateway stops the gateway in an orderly way and starts another one.
func (w *world) replaceGateway(ctx context.Context, kiln string, settings ...string) error {
	end := w.excuse(noGateway)
	defer end()
	if err := w.gateway.stop(); err != nil {
		return err
	}
	_, err := w.gateway.startAs(ctx, kiln, settings...)
	return err
}

// clock returns how far the gateway's clock is from this machine's.
func (g *gateway) clock(ctx context.Context) (time.Duration, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.address+"/healthz", nil)
	if err != nil {
		return 0, err
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	response.Body.Close()
	date, err := http.ParseTime(response.Header.Get("Date"))
	return time.Until(date).Round(time.Second), err
}

// nowCall is the one place of package time that reads the wall clock.
const nowCall = "sec, nsec, mono := runtimeNow()\n"

// clockSource is added to package time.
const clockSource = `package time

import "syscall"

// jumps holds pairs of nanoseconds since the start, and seconds.
var jumps = readJumps()

// readJumps reads "6:3600,14:-7200".
func readJumps() (all [][2]int64) {
	text, _ := syscall.Getenv("KILN_CHAOS_CLOCK")
	var pair [2]int64
	part, sign := 0, int64(1)
	for i := 0; i <= len(text) && text != ""; i++ {
		switch {
		case i == len(text) || text[i] == ',':
			all = append(all, [2]int64{pair[0] * 1e9, pair[1] * sign})
			pair, part, sign = [2]int64{}, 0, 1
		case text[i] == ':':
			part = 1
		case text[i] == '-':
			sign = -1
		default:
			pair[part] = pair[part]*10 + int64(text[i]-'0')
		}
	}
	return all
}

func jumped(mono int64) (seconds int64) {
	for _, j := range jumps {
		if mono-startNano >= j[0] {
			seconds += j[1]
		}
	}
	return seconds
}
`

// clockKiln is where the kiln is whose clock jumps.
func (w *world) clockKiln() string { return filepath.Join(w.dir, "clock", "kiln") }

// buildClock builds a kiln whose clock jumps, from the sources in the working
// folder, by laying changed files over the standard library's.
func buildClock(ctx context.Context, w *world) error {
	w.o.say("building a kiln whose clock jumps")
	ctx, cancel := context.WithTimeout(ctx, clockBuild)
	defer cancel()
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("find Go: %w", err)
	}
	library := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	source, err := os.ReadFile(filepath.Join(library, "time.go"))
	if err != nil {
		return err
	}
	if strings.Count(string(source), nowCall) != 1 {
		return errors.New("package time of this Go reads the clock elsewhere; adapt nowCall")
	}
	changed := strings.Replace(string(source), nowCall, nowCall+"\tsec += jumped(mono)\n", 1)
	folder := filepath.Dir(w.clockKiln())
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(library, "time.go"): filepath.Join(folder, "time.go"),
		filepath.Join(library, "jump.go"): filepath.Join(folder, "jump.go"),
	}})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for name, data := range map[string]string{"time.go": changed, "jump.go": clockSource, "overlay.json": string(overlay)} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(data), 0o644); err != nil {
			return err
		}
	}
	build := exec.CommandContext(ctx, "go", "build", "-overlay", filepath.Join(folder, "overlay.json"), "-o", w.clockKiln(), "./cmd/kiln")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build a kiln whose clock jumps: %w: %s", err, out)
	}
	return nil
}

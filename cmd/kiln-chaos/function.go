package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing/fstest"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator/archive"
)

// source is the functions' code. It writes down each call that must not come
// twice before it answers, and then takes its time, so that deaths find some
// under way.
const source = `import pathlib
import time

DATA = (pathlib.Path(__file__).parent / "data.txt").read_text().strip()


def handle(request):
    if request.method == "POST":
        print("call=" + request.headers["x-call"] + ";", flush=True)
        time.sleep(0.1)
    time.sleep(%g)
    return "code=%d data=" + DATA + "\n"
`

// spec is the settings of the functions here.
type spec struct {
	min, max    int
	concurrency int
	seconds     float64 // of work for each call
	timeout     string
	more        string // of the scale
}

// steady is a function with more instances than one, so that one can die.
var steady = spec{min: 2, max: 3, concurrency: 8, seconds: 0.003, timeout: "5s"}

// sleepy is a function that goes to sleep between its calls. A start may take long
// on a machine that is busy otherwise.
var sleepy = spec{min: 0, max: 2, concurrency: 8, seconds: 0.003, timeout: "1m", more: ", freeze_after: 500ms, keep_alive: 2s"}

// changing is a function that is deployed all the time.
var changing = spec{min: 0, max: 2, concurrency: 8, seconds: 0.003, timeout: "1m", more: ", keep_alive: 2s"}

func (s spec) yaml() []byte {
	return fmt.Appendf(nil, "template: python\nresources: {memory: 64MiB}\nconcurrency: %d\ntimeout: %s\nscale: {min: %d, max: %d%s}\n",
		s.concurrency, s.timeout, s.min, s.max, s.more)
}

// deploy deploys a version and tells what is known of the outcome.
func deploy(ctx context.Context, client *api.Client, name string, version int, s spec) (outcome, error) {
	var packed bytes.Buffer
	_, err := archive.Pack(ctx, &packed, fstest.MapFS{
		"handler.py": {Data: fmt.Appendf(nil, source, s.seconds, version), Mode: 0o644},
		"data.txt":   {Data: fmt.Appendln(nil, version), Mode: 0o644},
	}, archive.DefaultLimits())
	if err != nil {
		return refused, err
	}
	_, err = client.Deploy(ctx, api.Deploy{Name: name, Archive: &packed, Spec: s.yaml()}, nil)
	return outcomeOf(err), err
}

// outcomeOf tells what an error leaves open. An error of the server's own may
// have come between the change and its answer.
func outcomeOf(err error) outcome {
	if err == nil {
		return acknowledged
	}
	if said, ok := errors.AsType[*api.Error](err); ok && said.Status >= 400 && said.Status < 500 {
		return refused
	}
	return unknown
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/pgtest"
)

// Events is what asynchronous calls and triggers cost.
type Events struct {
	Enqueue    Stats        `json:"enqueue"`     // acknowledged = on disk
	Throughput float64      `json:"calls_per_s"` // queued and made
	Start      ColdRow      `json:"start"`       // from the client's call to the handler's begin, idle and warm
	Postgres   ColdRow      `json:"postgres"`    // from a commit, by PostgreSQL's clock, to the handler's begin
	Schedules  []ColdRow    `json:"schedules"`   // how late the handler began
	Idle       IdleTriggers `json:"idle"`
	Crashes    CrashedQueue `json:"crashes"`
}

// IdleTriggers is what triggers cost that have nothing to do.
type IdleTriggers struct {
	Schedules int     `json:"schedules"`
	Others    int     `json:"others"`
	Core      float64 `json:"core_percent"` // more than without them
	MiB       float64 `json:"rss_mib"`      // more than without them
}

// CrashedQueue is what became of calls while the gateway was killed again and
// again.
type CrashedQueue struct {
	Calls    int `json:"calls"` // acknowledged
	Kills    int `json:"kills"`
	Lost     int `json:"lost"`
	Repeated int `json:"repeated"` // delivered more than once
}

const (
	eventCallers = 64
	eventBody    = 1 << 10
	// laterFunction only queues, noopFunction is called.
	laterFunction, noopFunction = "later", "noop"
	// callPatience bounds one call from its acknowledgement to its result.
	callPatience = 30 * time.Second
	// drainPatience bounds the end of a backlog.
	drainPatience = 10 * time.Minute
	// drainPause is between two looks at a backlog, which cost the gateway a walk
	// over all invocations that it knows.
	drainPause = 250 * time.Millisecond
)

// warmStamp keeps one instance that takes all that there is.
const warmStamp = "concurrency: 64\nresources: {cpu: 2, memory: 256MiB}\nscale: {min: 1, max: 1, freeze_after: 0s, keep_alive: 1h}\n"

// runCrashes is the part of the events that breaks something. It is an error when
// a call is lost that was acknowledged.
func runCrashes(ctx context.Context, p plan, dir string) (e Events, err error) {
	g, err := startGateway(ctx, dir, "crashes", "KILN_ASYNC_DEPTH=1000000")
	if err != nil {
		return e, err
	}
	defer func() { err = joinErr(err, g.stop(ctx)) }()
	if err := g.deployFrom(ctx, noopFunction, "stamp", "go", warmStamp); err != nil {
		return e, err
	}
	p.say(fmt.Sprintf("%d calls, %d kills", p.crashCalls, p.kills))
	if err := eventCrashes(ctx, p, g, &e); err != nil {
		return e, err
	}
	if e.Crashes.Lost > 0 {
		return e, fmt.Errorf("%d calls were lost", e.Crashes.Lost)
	}
	return e, nil
}

func runEvents(ctx context.Context, p plan, dir string) (e Events, err error) {
	g, err := startGateway(ctx, dir, "events", "KILN_ASYNC_DEPTH=1000000")
	if err != nil {
		return e, err
	}
	defer func() { err = joinErr(err, g.stop(ctx)) }()
	for _, name := range []string{laterFunction, noopFunction} {
		if err := g.deployFrom(ctx, name, "stamp", "go", warmStamp); err != nil {
			return e, err
		}
	}
	p.say(fmt.Sprintf("queueing calls, %d callers", eventCallers))
	later := target{name: "queue", addr: g.addr, requests: [][]byte{asyncRequest(g.addr, laterFunction, "Kiln-Delay: 6h", eventBody)}, proxy: g.processes()}
	closedLoop(ctx, later, eventCallers, p.warmUp)
	s := closedLoop(ctx, later, eventCallers, 2*p.stretch)
	if e.Enqueue = stats(s); s.firstErr != nil {
		p.say(fmt.Sprintf("%d failures, the first: %v", s.failures, s.firstErr))
	}
	if err := g.client.Remove(ctx, laterFunction); err != nil {
		return e, err
	}
	for _, part := range []struct {
		what string
		run  func(context.Context, plan, *gateway, *Events) error
	}{
		{"the time from a call to its handler", eventStart}, {"commits in PostgreSQL", eventCommits}, {"queued and made", eventThroughput},
		{"schedules", eventSchedules}, {"idle triggers", eventIdle}, {"kills", eventCrashes},
	} {
		p.say(part.what)
		if err := part.run(ctx, p, g, &e); err != nil {
			return e, fmt.Errorf("%s: %w", part.what, err)
		}
	}
	return e, nil
}

// asyncRequest queues a call.
func asyncRequest(host, function, header string, body int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "POST /async/%s HTTP/1.1\r\nHost: %s\r\n%s\r\nContent-Length: %d\r\n\r\n", function, host, header, body)
	b.Write(make([]byte, body))
	return b.Bytes()
}

// eventStart makes one call at a time.
func eventStart(ctx context.Context, p plan, g *gateway, e *Events) error {
	var took []time.Duration
	for range p.eventCalls / 100 {
		begin := time.Now()
		i, err := g.client.InvokeAsync(ctx, api.Invocation{Function: noopFunction})
		if err != nil {
			return err
		}
		began, _, err := g.began(ctx, i.ID)
		if err != nil {
			return err
		}
		took = append(took, began.Sub(begin))
	}
	e.Start = coldRow("go", "async", took)
	return nil
}

// began waits for a call's end and returns when its handler began, and what
// instant its event is for.
func (g *gateway) began(ctx context.Context, id string) (began, due time.Time, err error) {
	i, err := g.client.Invocation(ctx, id, callPatience)
	if err != nil {
		return began, due, err
	}
	if i.Status != orchestrator.InvocationSucceeded {
		return began, due, fmt.Errorf("invocation %s is %s: %s", id, i.Status, i.Error)
	}
	nanos, at, _ := strings.Cut(i.Body, " ")
	n, err := strconv.ParseInt(nanos, 10, 64)
	if err == nil && at != "" {
		due, err = time.Parse(time.RFC3339Nano, at)
	}
	return time.Unix(0, n), due, err
}

// eventCommits inserts rows into a table of a PostgreSQL of its own, one at a time.
func eventCommits(ctx context.Context, p plan, g *gateway, e *Events) (err error) {
	dir, err := os.MkdirTemp("", "kiln-bench-postgres-")
	if err != nil {
		return err
	}
	defer func() { err = joinErr(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil { // for who runs the server
		return err
	}
	database, err := pgtest.New(dir, "wal_level=logical")
	if err != nil {
		return err
	}
	defer func() { err = joinErr(err, database.Close()) }()
	if _, err := database.SQL("postgres", "CREATE TABLE orders (id int PRIMARY KEY)"); err != nil {
		return err
	}
	const name, secret = "commits", "bench-password"
	if _, err := g.client.SetSecret(ctx, secret, nil, strings.NewReader(pgtest.Password)); err != nil {
		return err
	}
	spec := fmt.Sprintf("scale: {min: 1, max: 1, freeze_after: 0s}\ntriggers:\n  - {name: rows, type: postgres, host: 127.0.0.1, port: %d, database: postgres, user: %s, secret: %s, tables: [orders]}\n",
		database.Port, pgtest.Superuser, secret)
	if err := g.deployFrom(ctx, name, "stamp", "go", spec); err != nil {
		return err
	}
	if err := waitFor("the trigger to run", callPatience, func() error {
		status, err := g.client.Trigger(ctx, name, "rows")
		if err == nil && status.Phase != orchestrator.TriggerRunning {
			err = fmt.Errorf("it is %s: %s", status.Phase, status.LastError)
		}
		return err
	}); err != nil {
		return err
	}
	rows := p.eventCalls / 200
	for n := range rows {
		if _, err := database.SQL("postgres", fmt.Sprintf("INSERT INTO orders VALUES (%d)", n)); err != nil {
			return err
		}
	}
	var made []api.AsyncInvocation
	if err := waitFor("the events", callPatience, func() (err error) {
		made, err = g.client.Invocations(ctx, api.InvocationFilter{Function: name, Status: orchestrator.InvocationSucceeded, Limit: rows + 1})
		if err == nil && len(made) < rows {
			err = fmt.Errorf("%d of %d", len(made), rows)
		}
		return err
	}); err != nil {
		return err
	}
	var took []time.Duration
	for _, i := range made {
		began, commit, err := g.began(ctx, i.ID)
		if err != nil {
			return err
		}
		took = append(took, began.Sub(commit))
	}
	e.Postgres = coldRow("go", "postgres", took)
	return g.client.Remove(ctx, name)
}

// eventThroughput queues calls as fast as it can, and waits until all are made.
func eventThroughput(ctx context.Context, p plan, g *gateway, e *Events) error {
	request := asyncRequest(g.addr, noopFunction, "X-Bench: 1", 0)
	var left atomic.Int64
	left.Store(int64(p.eventCalls))
	errs := make([]error, eventCallers)
	begin := time.Now()
	var wait sync.WaitGroup
	for n := range eventCallers {
		wait.Go(func() {
			c := caller{target: target{addr: g.addr}}
			defer c.hangUp()
			for left.Add(-1) >= 0 && errs[n] == nil {
				status, err := c.exchange(request)
				if err == nil && status != http.StatusAccepted {
					err = fmt.Errorf("answer %d", status)
				}
				errs[n] = err
			}
		})
	}
	wait.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	if err := g.drained(ctx, noopFunction); err != nil {
		return err
	}
	e.Throughput = float64(p.eventCalls) / time.Since(begin).Seconds()
	return nil
}

// drained waits until no call of a function waits or runs.
func (g *gateway) drained(ctx context.Context, function string) error {
	for end := time.Now().Add(drainPatience); ; time.Sleep(drainPause) {
		left := ""
		for _, status := range []orchestrator.InvocationStatus{orchestrator.InvocationWaiting, orchestrator.InvocationRunning} {
			list, err := g.client.Invocations(ctx, api.InvocationFilter{Function: function, Status: status, Limit: 1})
			if err != nil {
				return err
			}
			if len(list) > 0 {
				left = fmt.Sprintf("%s is %s", list[0].ID, status)
				break
			}
		}
		if left == "" {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("waited %s for the queue to drain: %s", drainPatience, left)
		}
	}
}

// eventSchedules lets schedules fire, on a warm function and on one that is at
// zero each time.
func eventSchedules(ctx context.Context, p plan, g *gateway, e *Events) error {
	for _, way := range []struct{ name, cron, scale string }{
		{"warm", "* * * * * *", "{min: 1, max: 1, freeze_after: 0s}"},
		{"cell", "*/5 * * * * *", "{max: 1, freeze_after: 0s, keep_alive: 1s}"},
	} {
		name := "tick-" + way.name
		spec := fmt.Sprintf("scale: %s\ntriggers:\n  - {name: tick, type: schedule, cron: %q}\n", way.scale, way.cron)
		if err := g.deployFrom(ctx, name, "stamp", "go", spec); err != nil {
			return err
		}
		var fired []api.AsyncInvocation
		err := waitFor("the schedule to fire", drainPatience, func() (err error) {
			fired, err = g.client.Invocations(ctx, api.InvocationFilter{Function: name, Status: orchestrator.InvocationSucceeded, Limit: p.fires + 1})
			if err == nil && len(fired) <= p.fires {
				err = fmt.Errorf("%d of %d times", len(fired), p.fires)
			}
			return err
		})
		if err != nil {
			return err
		}
		var late []time.Duration
		for _, i := range fired[:p.fires] { // newest first; the first of all came with the deploy's instance
			began, due, err := g.began(ctx, i.ID)
			if err != nil {
				return err
			}
			late = append(late, began.Sub(due))
		}
		e.Schedules = append(e.Schedules, coldRow("go", way.name, late))
		if err := g.client.Remove(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// eventIdle compares the gateway with and without triggers that do nothing.
func eventIdle(ctx context.Context, p plan, g *gateway, e *Events) error {
	const many = orchestrator.MaxTriggers
	measure := func() (core, mib float64, err error) {
		time.Sleep(settle)
		before, begin := cpuTime(g.processes()), time.Now()
		time.Sleep(p.idle)
		core = 100 * float64(cpuTime(g.processes())-before) / float64(time.Since(begin))
		rss, err := g.rss()
		return core, float64(rss) / float64(orchestrator.MiB), err
	}
	deploy := func(prefix, trigger string, n int) (names []string, err error) {
		for made := 0; made < n; {
			name := fmt.Sprintf("%s-%d", prefix, len(names))
			spec := "scale: {max: 1, freeze_after: 0s, keep_alive: 1s}\n"
			if trigger != "" {
				spec += "triggers:\n"
			}
			for range min(many, n-made) {
				if trigger != "" {
					spec += fmt.Sprintf("  - {name: t%d, %s}\n", made, trigger)
				}
				made++
			}
			if err := g.deployFrom(ctx, name, "stamp", "go", spec); err != nil {
				return names, err
			}
			names = append(names, name)
		}
		return names, nil
	}
	// As many functions without a trigger, so that triggers are all of the difference.
	_, err := deploy("idle", "", p.schedules)
	if err != nil {
		return err
	}
	core, mib, err := measure()
	if err != nil {
		return err
	}
	names, err := deploy("idle", `type: schedule, cron: "0 0 1 1 *"`, p.schedules)
	if err != nil {
		return err
	}
	const others = 100
	hooks, err := deploy("hook", `type: webhook`, others)
	if err != nil {
		return err
	}
	coreThen, mibThen, err := measure()
	if err != nil {
		return err
	}
	e.Idle = IdleTriggers{Schedules: p.schedules, Others: others, Core: max(0, coreThen-core), MiB: max(0, mibThen-mib)}
	for _, name := range append(names, hooks...) {
		if err := g.client.Remove(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// eventCrashes queues numbered calls while the gateway is killed and started
// again. What was not acknowledged is queued again under its idempotency key.
func eventCrashes(ctx context.Context, p plan, g *gateway, e *Events) error {
	var next, acknowledged atomic.Int64
	ctx, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	defer func() {
		cancel()
		wait.Wait()
	}()
	for range eventCallers {
		wait.Go(func() {
			c := caller{target: target{addr: g.addr}}
			defer c.hangUp()
			for n := next.Add(1); n <= int64(p.crashCalls) && ctx.Err() == nil; n = next.Add(1) {
				request := asyncRequest(g.addr, noopFunction, fmt.Sprintf("X-Id: %d\r\nIdempotency-Key: crash-%d", n, n), 0)
				for ctx.Err() == nil {
					status, err := c.exchange(request)
					if err == nil && status == http.StatusAccepted {
						acknowledged.Add(1)
						break
					}
					c.hangUp()
					time.Sleep(20 * time.Millisecond)
				}
			}
		})
	}
	for kill := range p.kills {
		// At random instants, but so that all kills come while there are calls.
		due := int64(p.crashCalls) * int64(kill+1) / int64(p.kills+1)
		err := waitFor("calls", drainPatience, func() error {
			if acknowledged.Load() < due {
				return fmt.Errorf("%d of %d acknowledged", acknowledged.Load(), due)
			}
			return nil
		})
		if err != nil {
			return err
		}
		time.Sleep(time.Duration(rand.Int64N(int64(100 * time.Millisecond))))
		if err := g.crash(ctx); err != nil {
			return err
		}
	}
	wait.Wait()
	if err := g.drained(ctx, noopFunction); err != nil {
		return err
	}
	answer, err := g.client.Invoke(ctx, api.Invocation{Function: noopFunction, Method: http.MethodGet, Path: "/seen"})
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	seen := map[string]int{}
	if err := json.NewDecoder(answer.Body).Decode(&seen); err != nil {
		return err
	}
	e.Crashes = CrashedQueue{Calls: int(acknowledged.Load()), Kills: p.kills, Lost: int(acknowledged.Load()) - len(seen)}
	for _, times := range slices.Collect(maps.Values(seen)) {
		if times > 1 {
			e.Crashes.Repeated++
		}
	}
	return nil
}

// eventRatios are the figures with targets.
func eventRatios(e Events) []Ratio {
	var all []Ratio
	if e.Enqueue.Requests > 0 {
		all = append(all,
			Ratio{Name: "calls queued on disk, 64 callers, 1 KiB", Value: e.Enqueue.Rate, Target: 5000, Unit: "/s"},
			Ratio{Name: "the same, p99", Value: e.Enqueue.P99 / 1000, Target: 50, AtMost: true, Unit: " ms"})
	}
	if e.Throughput > 0 {
		all = append(all, Ratio{Name: "calls queued and made, Go no-op", Value: e.Throughput, Target: 3000, Unit: "/s"})
	}
	if e.Postgres.Samples > 0 {
		all = append(all, Ratio{Name: "a commit in PostgreSQL to its handler's begin, p50, warm", Value: e.Postgres.P50, Target: 20, AtMost: true, Unit: " ms"})
	}
	if e.Start.Samples > 0 {
		all = append(all, Ratio{Name: "a call to its handler's begin, p50, idle and warm", Value: e.Start.P50, Target: 5, AtMost: true, Unit: " ms"})
	}
	if e.Crashes.Calls > 0 {
		all = append(all,
			Ratio{Name: fmt.Sprintf("%d calls with %d kills: lost", e.Crashes.Calls, e.Crashes.Kills), Value: float64(e.Crashes.Lost), AtMost: true},
			Ratio{Name: "the same, delivered more than once", Value: 100 * float64(e.Crashes.Repeated) / float64(e.Crashes.Calls), Target: 0.5, AtMost: true, Unit: " %"})
	}
	for _, s := range e.Schedules {
		bound := 50.0
		if s.Way == "cell" {
			bound = 100
		}
		all = append(all, Ratio{Name: "a schedule's lateness, " + s.Way + ", most", Value: s.Max, Target: bound, AtMost: true, Unit: " ms"})
	}
	if e.Idle.Others > 0 {
		idle := fmt.Sprintf("%d schedules and %d other triggers, idle", e.Idle.Schedules, e.Idle.Others)
		all = append(all,
			Ratio{Name: idle + ": of a core", Value: e.Idle.Core, Target: 1, AtMost: true, Unit: " %"},
			Ratio{Name: idle + ": memory", Value: e.Idle.MiB, Target: 30, AtMost: true, Unit: " MiB"})
	}
	return all
}

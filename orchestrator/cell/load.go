package cell

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/capacity"
	"github.com/kilnfaas/kiln/orchestrator/launch"
	"github.com/kilnfaas/kiln/orchestrator/pool"
)

const (
	// maxCells is how many cells one start tries before it takes the image: one
	// that died unnoticed is an accident, two are a pattern.
	maxCells = 2
	// loadDialTimeout bounds connecting to a cell, which has been listening.
	loadDialTimeout = 2 * time.Second
	// maxAnswer bounds what is read of a refusal: a traceback.
	maxAnswer = 64 << 10
	// outputLines is how much of it an error carries.
	outputLines = 50
)

// newClient returns a client for one cell.
func newClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext:        (&net.Dialer{Timeout: loadDialTimeout}).DialContext,
			DisableCompression: true, MaxResponseHeaderBytes: maxAnswer,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// greet opens the connection that the load will take: to connect, and to be
// accepted by a process that was asleep, takes as long as half a load. Without
// it the load opens one.
func (c *cell) greet(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.addr+readyPath, nil)
	if err != nil {
		return err
	}
	response, err := c.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(response.Body, maxAnswer))
	return err
}

// Launch returns an instance of a release: a cell that was loaded, when a caller
// waits and there is one, else a container of the image. The error is
// ErrFunction, code "instance-start-failed", when the code cannot be loaded;
// else as the next launcher's.
func (l *Launcher) Launch(ctx context.Context, order pool.Order) (pool.Launched, error) {
	if order.Proof || order.Priority != capacity.Caller || l.unfit(order.Release) != "" {
		return l.config.Next.Launch(ctx, order)
	}
	secrets, err := l.config.Secrets.Of(order.Release)
	if err != nil { // before a cell is spent on it
		return pool.Launched{}, fmt.Errorf("start an instance of %s: %w", order.Release.Spec.Name, err)
	}
	l.countCold(order.Release.Template)
	for range maxCells {
		c, loadCtx := l.claim(ctx, order.Release.Template)
		if c == nil {
			break
		}
		err := l.load(loadCtx, c, order.Release, secrets)
		l.settle(c, err == nil)
		switch {
		case err == nil:
			return pool.Launched{ID: c.id, Addr: c.addr, Origin: pool.OriginCell, Token: c.calls}, nil
		case ctx.Err() != nil:
			return pool.Launched{}, ctx.Err()
		case errors.Is(err, orchestrator.ErrFunction):
			return pool.Launched{}, err
		}
		l.config.Logger.Warn("load a cell", "function", order.Release.Spec.Name, "template", order.Release.Template.Name, "container_id", c.id, "error", err)
	}
	if ctx.Err() != nil { // while it waited for a cell
		return pool.Launched{}, ctx.Err()
	}
	return l.config.Next.Launch(ctx, order)
}

// countCold lets the stock grow with the demand.
func (l *Launcher) countCold(template orchestrator.Template) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stock(template).cold(time.Now(), 2*l.config.Max)
	poke(l.kick)
}

// load makes a cell an instance. The limits change beside the load, not before
// it: that call takes longer than most loads.
func (l *Launcher) load(ctx context.Context, c *cell, release orchestrator.Release, secrets map[string][]byte) error {
	ctx, cancel := context.WithTimeout(ctx, launch.DefaultStartTimeout)
	defer cancel()
	limited := make(chan error, 1)
	go func() {
		if want := release.Limits(); want != limits(release.Template) {
			limited <- l.config.Engine.Limit(ctx, c.id, want)
			return
		}
		limited <- nil
	}()
	err := l.send(ctx, c, release, secrets)
	if err != nil {
		cancel()
	}
	limitErr := <-limited
	switch {
	case err != nil && errors.Is(err, orchestrator.ErrFunction):
		return err
	case err != nil:
		return errors.Join(err, context.Cause(ctx))
	case limitErr != nil:
		return fmt.Errorf("limit a loaded cell: %w", limitErr)
	}
	if err := l.notes.write(c.id, release); err != nil {
		// It serves all the same; only the next gateway will not know it.
		l.config.Logger.Warn("note a loaded cell", "function", release.Spec.Name, "container_id", c.id, "error", err)
	}
	return nil
}

// send puts the environment, the secrets and the code into a cell and reads its
// verdict.
func (l *Launcher) send(ctx context.Context, c *cell, release orchestrator.Release, secrets map[string][]byte) error {
	env := release.Env()
	if c.calls != "" {
		env[orchestrator.EnvInstanceToken] = c.calls
	}
	head, err := l.config.Head(env, secrets)
	if err != nil {
		return fmt.Errorf("begin a load: %w", err)
	}
	code, err := l.config.Code.Open(ctx, release.Revision)
	if err != nil {
		return fmt.Errorf("open the code of %s: %w", release.Revision.ID, err)
	}
	defer code.Close()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.addr+LoadPath, io.MultiReader(bytes.NewReader(head), code))
	if err != nil {
		return fmt.Errorf("begin a load: %w", err)
	}
	if file, ok := code.(interface{ Stat() (fs.FileInfo, error) }); ok {
		// A known length goes out in large pieces instead of chunks.
		if info, err := file.Stat(); err == nil {
			request.ContentLength = int64(len(head)) + info.Size()
		}
	}
	request.Header.Set("Authorization", "Bearer "+c.token)
	request.Header.Set("Content-Type", "application/x-tar")
	request.Close = true // a cell is loaded once
	response, err := c.client.Do(request)
	if err != nil {
		return fmt.Errorf("load %s into a cell: %w", release.Revision.ID, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("load %s into a cell: %w", release.Revision.ID, err)
	}
	switch response.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusUnprocessableEntity:
		return refused(release, string(text))
	}
	return fmt.Errorf("load %s into a cell: it answered %s", release.Revision.ID, response.Status)
}

// refused is the error of code that cannot be loaded.
func refused(release orchestrator.Release, text string) error {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return &orchestrator.Error{
		Class: orchestrator.ErrFunction, Code: "instance-start-failed",
		Detail: fmt.Sprintf("the code of %s could not be loaded", release.Spec.Name),
		Hint:   "its last lines are in the output; run the function's code locally to see it fail",
		Output: lines[max(0, len(lines)-outputLines):],
	}
}

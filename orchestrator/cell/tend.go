package cell

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/capacity"
	"github.com/kilnfaas/kiln/orchestrator/launch"
)

const (
	// tendInterval is how often stocks are looked at when nothing happens, for
	// what time brings: cells that have waited long enough, attempts put off.
	tendInterval = 5 * time.Second
	// makeTimeout bounds making one cell, its place in line included.
	makeTimeout = 2 * time.Minute
	// imageTimeout bounds making the image of a template's cells.
	imageTimeout = 20 * time.Minute
	// idleMemory is what a waiting cell counts in the memory budget: a Python or
	// Node runtime without code has 10 to 30 MiB. Its limit is a function's, but
	// to set that aside for every cell would keep functions from starting.
	idleMemory = 32 * orchestrator.MiB
	// codeRoom is the size of the tmpfs that takes the code.
	codeRoom = 64 * orchestrator.MiB
	// cellPids is an instance's: enough for thread pools and subprocesses.
	cellPids = 256
)

// tend keeps the stocks as they should be until the Launcher is closed.
func (l *Launcher) tend() {
	defer l.work.Done()
	ticker := time.NewTicker(tendInterval)
	defer ticker.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-l.kick:
		case <-ticker.C:
		}
		l.mu.Lock()
		if !l.closed {
			l.tendAll(time.Now())
		}
		l.mu.Unlock()
	}
}

// prepare has the code of what is served made ready to load, one after another:
// nobody waits for it.
func (l *Launcher) prepare(code Preparer) {
	defer l.work.Done()
	for {
		l.mu.Lock()
		list := l.ahead
		l.ahead = nil
		l.mu.Unlock()
		for _, revision := range list {
			if err := code.Prepare(l.ctx, revision); err != nil && l.ctx.Err() == nil {
				l.config.Logger.Warn("prepare code for cells", "function", revision.Function, "revision", revision.ID, "error", err)
			}
			if l.ctx.Err() != nil {
				return
			}
		}
		select {
		case <-l.ctx.Done():
			return
		case <-l.more:
		}
	}
}

// tendAll begins what the stocks lack and ends what they have too much; mu is
// held.
func (l *Launcher) tendAll(now time.Time) {
	inUse := map[string]bool{}
	for _, template := range l.uses {
		inUse[template] = true
	}
	for name, s := range l.stocks {
		target := 0
		if inUse[name] {
			target = Target(l.config.Min, l.config.Max, s.recent(now))
		}
		for _, c := range s.expired(now, target) {
			l.end(c)
		}
		if now.Before(s.retryAt) {
			continue
		}
		if s.image == "" {
			if target > 0 && !s.making {
				l.makeImage(s)
			}
			continue
		}
		for range target - len(s.waiting) - s.starting {
			l.makeCell(s)
		}
	}
}

// makeImage begins to make a stock's image; mu is held.
func (l *Launcher) makeImage(s *stock) {
	s.making = true
	l.work.Add(1)
	go func() {
		defer l.work.Done()
		ctx, cancel := context.WithTimeout(l.ctx, imageTimeout)
		defer cancel()
		image, err := l.config.Images.CellImage(ctx, s.template)
		l.mu.Lock()
		defer l.mu.Unlock()
		s.making = false
		if err != nil {
			if l.ctx.Err() == nil {
				l.config.Logger.Warn("make the image of cells", "template", s.template.Name, "error", err)
			}
			s.failed(time.Now())
			return
		}
		s.image = image
		poke(l.kick)
	}()
}

// makeCell begins to make a cell; mu is held.
func (l *Launcher) makeCell(s *stock) {
	s.starting++
	image := s.image
	l.work.Add(1)
	go func() {
		defer l.work.Done()
		began := false
		c, err := l.start(s.template, image, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			s.begun++
			began = true
		})
		l.mu.Lock()
		defer l.mu.Unlock()
		defer s.release()
		s.starting--
		if began {
			s.begun--
		}
		switch {
		case err != nil:
			if l.ctx.Err() != nil {
				return
			}
			l.config.Logger.Warn("make a cell", "template", s.template.Name, "error", err)
			s.failed(time.Now())
			s.image = "" // it may have been removed; it is looked for again
		default:
			c.stock = s
			l.cells[c.id] = c
			if l.closed {
				l.end(c)
				return
			}
			s.failures = 0
			s.put(c)
		}
	}()
}

// start brings a cell up; began is called once the engine is at it. Nothing is
// left behind when it fails.
func (l *Launcher) start(template orchestrator.Template, image string, began func()) (*cell, error) {
	ctx, cancel := context.WithTimeout(l.ctx, makeTimeout)
	defer cancel()
	turn := "cell of " + template.Name
	reservation, err := l.config.Capacity.Reserve(ctx, turn, idleMemory, capacity.Background)
	if err != nil {
		return nil, fmt.Errorf("get memory for a cell: %w", err)
	}
	token := rand.Text()
	config := l.container(template, image, token)
	calls := l.config.Key.Mark(&config)
	id, addr, err := l.config.Next.Bring(ctx, launch.Request{
		Config: config, For: turn, Priority: capacity.Background, Asks: true, Began: began,
	})
	if err != nil {
		reservation.Release()
		return nil, err
	}
	c := &cell{id: id, addr: addr, token: token, calls: calls, client: newClient(), reservation: reservation, readyAt: time.Now()}
	if err := c.greet(ctx); err != nil {
		l.config.Logger.Warn("greet a cell", "template", template.Name, "container_id", id, "error", err)
	}
	return c, nil
}

// container is what to run for one cell.
func (l *Launcher) container(template orchestrator.Template, image, token string) orchestrator.ContainerConfig {
	return orchestrator.ContainerConfig{
		Name:  fmt.Sprintf("kiln-cell-%s-%s", template.Name, uuid.NewString()[:8]),
		Image: image,
		Env:   map[string]string{EnvCell: "1", EnvToken: token, "PORT": strconv.Itoa(orchestrator.InstancePort)},
		Labels: map[string]string{
			orchestrator.LabelOwner:    l.config.Owner,
			orchestrator.LabelKind:     orchestrator.KindCell,
			orchestrator.LabelTemplate: template.Name,
		},
		Limits: limits(template),
		Tmpfs: []orchestrator.Tmpfs{
			{Path: "/tmp", Size: orchestrator.DefaultTmp},
			{Path: CodePath, Size: codeRoom, Exec: true},
			{Path: orchestrator.SecretsPath, Size: orchestrator.SecretsRoom},
		},
		Network: l.config.Network,
	}
}

// limits are a cell's until it is loaded: the defaults of the template's
// functions, so that most need no change.
func limits(template orchestrator.Template) orchestrator.Limits {
	memory := template.Defaults.Memory
	if memory <= 0 {
		memory = orchestrator.DefaultMemory
	}
	return orchestrator.Limits{Memory: memory, CPU: orchestrator.DefaultCPU, Pids: cellPids}
}

// Victim offers the cell that has waited longest. Cells are worth less than any
// instance: they are made again in the background. See capacity.Tenant.
func (l *Launcher) Victim() (capacity.Victim, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.stocks {
		if len(s.waiting) > 0 {
			return capacity.Victim{ID: s.waiting[0].id, Worth: 0}, true
		}
	}
	return capacity.Victim{}, false
}

// Evict ends a waiting cell, and puts off making the next.
func (l *Launcher) Evict(id string) *capacity.Reservation {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.cells[id]
	if c == nil || c.state != waiting {
		return nil
	}
	c.stock.remove(c)
	c.stock.retryAt = time.Now().Add(maxRetry)
	l.end(c)
	return c.reservation
}

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// changeTimeout bounds one deploy or removal on a machine that is broken.
	changeTimeout = 2 * time.Minute
	// afterRefusal is the pause after one that failed.
	afterRefusal = 200 * time.Millisecond
	// removals is how many of the changes are removals: one in so many.
	removals = 5
)

// churn changes functions until it is stopped.
type churn struct {
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// startChurn starts a client for each changing function.
func (w *world) startChurn() *churn {
	ctx, cancel := context.WithCancel(context.Background())
	c := &churn{cancel: cancel}
	for i := range changers {
		random := rand.New(rand.NewPCG(w.random.Uint64(), uint64(i)))
		c.work.Go(func() {
			for ctx.Err() == nil {
				if w.change(fmt.Sprint("changing-", i), random) != acknowledged {
					_ = w.pause(ctx, afterRefusal)
				}
			}
		})
	}
	return c
}

// stop waits for the changes under way.
func (c *churn) stop() {
	c.cancel()
	c.work.Wait()
}

// change makes one change of a function and takes it down in the ledger.
func (w *world) change(name string, random *rand.Rand) outcome {
	ctx, cancel := context.WithTimeout(context.Background(), changeTimeout)
	defer cancel()
	client, err := w.gateway.client()
	if err != nil {
		return unknown
	}
	w.mu.Lock()
	last := w.versions[name]
	version := last + 1
	w.versions[name] = version
	w.mu.Unlock()
	var result outcome
	if last > 0 && random.IntN(removals) == 0 {
		w.ledger.begin(name, gone)
		err := client.Remove(ctx, name)
		result = outcomeOf(err)
	} else {
		w.ledger.begin(name, version)
		result, _ = deploy(ctx, client, name, version, changing)
	}
	w.ledger.end(name, result)
	if result == acknowledged {
		w.deployed.Add(1)
	}
	return result
}

package jetstream

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// leaseKey is where the owner of an external store is written, in metaBucket.
	leaseKey = "lease"
	// leaseLife is how long a lease holds that is not renewed, and so how long a
	// gateway waits before it takes the store of another that vanished.
	leaseLife = 15 * time.Second
	// leaseShare is the part of its life after which a lease is renewed: several
	// attempts may fail before it is over.
	leaseShare = 5
	// leaseMargin is the part of its life by which an owner stops to write before
	// another may take over: the two measure time from different instants.
	leaseMargin = 5
	// identityFile is the file in a data folder that names its gateway.
	identityFile = "gateway.id"
)

// tenure is what the lease's record says.
type tenure struct {
	Holder string `json:"holder"` // of the data folder that is locked
	Host   string `json:"host"`
	PID    int    `json:"pid"`
}

// lease makes one gateway the owner of a store on an external server, which
// nothing else keeps others from. It is a record that the owner writes again and
// again: who finds one that stays as it is for the whole of its life takes it
// over by compare-and-set, so that no clocks are compared. An owner that cannot
// reach the server stops to write when the life is nearly over, and goes on if
// its record is still there when the server is back. One whose record was
// written by another has lost the store for good.
//
// A nil lease is that of a store nobody else can reach.
type lease struct {
	meta *bucket
	life time.Duration
	mine tenure

	cancel context.CancelFunc
	done   chan struct{}
	lost   chan struct{} // closed when another has the store

	mu       sync.Mutex // guards what follows
	sequence uint64
	renewed  time.Time // before the last write that succeeded was sent
}

// takeLease becomes the owner, which takes a whole life when an earlier one left
// without a word. Errors: ErrConflict, code "store-in-use", when another gateway
// is alive.
func takeLease(ctx context.Context, meta *bucket, dir string, life time.Duration) (*lease, error) {
	if life <= 0 {
		life = leaseLife
	}
	id, err := identity(dir)
	if err != nil {
		return nil, err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "an unknown host"
	}
	l := &lease{
		meta: meta, life: life, mine: tenure{Holder: id, Host: host, PID: os.Getpid()},
		done: make(chan struct{}), lost: make(chan struct{}),
	}
	if err := l.take(ctx); err != nil {
		return nil, err
	}
	renew, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l.cancel = cancel
	go l.keep(renew)
	return l, nil
}

// identity returns the name of the gateway that a data folder belongs to. Since
// the folder is locked, a lease of this name is one's own, of an earlier life.
func identity(dir string) (string, error) {
	if dir == "" {
		return uuid.NewString(), nil
	}
	path := filepath.Join(dir, identityFile)
	data, err := os.ReadFile(path)
	if id := strings.TrimSpace(string(data)); err == nil && uuid.Validate(id) == nil {
		return id, nil
	}
	id := uuid.NewString()
	if err := os.WriteFile(path, []byte(id+"\n"), 0o600); err != nil {
		return "", orchestrator.Errorf(orchestrator.ErrUnavailable, "data-folder-unusable", "name the gateway: %w", err)
	}
	return id, nil
}

// take writes the record once nobody else keeps it.
func (l *lease) take(ctx context.Context) error {
	var seen uint64
	var since time.Time
	for {
		found, err := l.meta.get(ctx, leaseKey)
		var other tenure
		switch {
		case absent(err):
			found = entry{}
		case err != nil:
			return err
		default:
			// What cannot be read is nobody's, and is left alone for a life too.
			_ = json.Unmarshal(found.value, &other)
		}
		free := found.sequence == 0 || other.Holder == l.mine.Holder
		if !free && since.IsZero() {
			seen, since = found.sequence, time.Now()
		}
		switch {
		case !free && found.sequence != seen:
			return inUseBy(other)
		case free || time.Since(since) > l.life:
			err := l.write(ctx, found.sequence)
			if !conflicting(err) {
				return err
			}
			continue
		}
		select {
		case <-time.After(l.life / leaseShare):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *lease) write(ctx context.Context, after uint64) error {
	value, err := json.Marshal(l.mine)
	if err != nil {
		return err
	}
	sent := time.Now()
	sequence, err := l.meta.put(ctx, leaseKey, value, after)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sequence, l.renewed = sequence, sent
	return nil
}

// keep renews the lease until ctx ends or it is lost.
func (l *lease) keep(ctx context.Context) {
	defer close(l.done)
	ticker := time.NewTicker(l.life / leaseShare)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		l.mu.Lock()
		sequence := l.sequence
		l.mu.Unlock()
		attempt, cancel := context.WithTimeout(ctx, l.life/leaseShare)
		err := l.write(attempt, sequence)
		cancel()
		if conflicting(err) && !l.unheard(ctx) {
			close(l.lost)
			return
		}
	}
}

// unheard says whether a conflict is with a write of one's own whose answer did
// not arrive, and makes that the one to go on from.
func (l *lease) unheard(ctx context.Context) bool {
	found, err := l.meta.get(ctx, leaseKey)
	if absent(err) {
		return false // somebody removed it, who had it
	}
	if err != nil {
		return true // it is tried again
	}
	var holder tenure
	if json.Unmarshal(found.value, &holder) != nil || holder != l.mine {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sequence = found.sequence
	return true
}

// check returns nil while the store may be written to.
func (l *lease) check() error {
	if l == nil {
		return nil
	}
	select {
	case <-l.lost:
		return orchestrator.Errorf(orchestrator.ErrUnavailable, "store-lost", "another gateway has taken over the store").
			WithHint("talk to that one; give each gateway a store of its own")
	default:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.renewed) > l.life-l.life/leaseMargin {
		return orchestrator.Errorf(orchestrator.ErrUnavailable, "store-lease-expired",
			"the store has not answered for %s; another gateway may take it over", l.life).
			WithHint("try again once the NATS server answers")
	}
	return nil
}

// release ends the renewing and leaves the store to the next gateway at once.
func (l *lease) release() {
	if l == nil {
		return
	}
	l.stop()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	// Another's record is not touched; if it fails, the lease expires by itself.
	_ = l.meta.remove(ctx, leaseKey, l.sequence)
}

// stop ends the renewing.
func (l *lease) stop() {
	l.cancel()
	<-l.done
}

func inUseBy(other tenure) error {
	who := "another gateway"
	if other.Host != "" {
		who = fmt.Sprintf("the gateway on %s, process %d", other.Host, other.PID)
	}
	return orchestrator.Errorf(orchestrator.ErrConflict, "store-in-use", "the store on the NATS server is in use by %s", who).
		WithHint("stop that gateway, or give this one a NATS account or server of its own")
}

// Lost is closed when another gateway has taken the store over: this one must
// end. It is nil for an embedded store, which nobody else can reach.
func (s *Store) Lost() <-chan struct{} {
	if s.lease == nil {
		return nil
	}
	return s.lease.lost
}

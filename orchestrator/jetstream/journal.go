package jetstream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	journalStream  = "KILN_JOURNAL"
	journalSubject = "kiln.journal"
	// maxCommit bounds one message of the journal: the entries of as many
	// Appends as came while the last message was synchronised.
	maxCommit = orchestrator.MaxAppend + 16<<10
	// maxCommitEntries bounds how many entries share a message, so that reading
	// one of them stays cheap.
	maxCommitEntries = 1024
	// entryOverhead is the longest prefix of an entry.
	entryOverhead = binary.MaxVarintLen32
	// journalQueue is how many Appends may wait to be taken up. More wait in
	// their own goroutines.
	journalQueue = 256
	// journalCache is how much of what was last written or read is kept in
	// memory, in bytes: a call that was just queued is about to be made.
	journalCache = 16 << 20
	// replayBatch is how many messages of up to 1 MiB are asked for at once.
	replayBatch = 16
	// replayTimeout bounds reading a whole journal.
	replayTimeout = 10 * time.Minute
	// commitVersion is the first byte of each message.
	commitVersion = 1
)

// Journal is an orchestrator.Journal on one JetStream stream. A message of the
// stream is a commit: the entries of all Appends that waited while the one
// before was written. So one synchronisation of the disk serves them all, where
// a message for each entry, or an acknowledgement for each, would need one each.
type Journal struct {
	server *Server
	stream jetstream.Stream

	requests  chan *appendRequest
	ctx       context.Context // of the writer; ended by Close
	cancel    context.CancelFunc
	done      chan struct{} // closed when the writer has ended
	closeOnce sync.Once

	mu    sync.Mutex
	cache commitCache // guarded by mu
}

var _ orchestrator.Journal = (*Journal)(nil)

// appendRequest is an Append that waits.
type appendRequest struct {
	ctx     context.Context
	entries [][]byte
	size    int // encoded
	commit  uint64
	first   int // index of the first entry
	err     error
	done    chan struct{}
}

func journalConfig(replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              journalStream,
		Description:       "Kiln: asynchronous invocations",
		Subjects:          []string{journalSubject},
		MaxMsgsPerSubject: -1,
		MaxMsgs:           -1,
		MaxBytes:          -1,
		MaxMsgSize:        -1,
		MaxConsumers:      -1,
		Storage:           jetstream.FileStorage,
		Replicas:          replicas,
		Discard:           jetstream.DiscardNew,
		Duplicates:        duplicateWindow,
		AllowDirect:       replicas == 1, // as in kvConfig
		AllowRollup:       true,
		AllowMsgTTL:       true,
	}
}

// NewJournal opens the journal on a server, making it when it is missing. Close
// it before the server. Errors are NewStore's.
func NewJournal(ctx context.Context, server *Server) (*Journal, error) {
	stream, err := server.openStream(ctx, journalConfig(server.replicas))
	if err != nil {
		return nil, classify(ctx, "open the journal", err)
	}
	j := &Journal{
		server: server, stream: stream,
		requests: make(chan *appendRequest, journalQueue), done: make(chan struct{}),
		cache: commitCache{commits: map[uint64][]byte{}},
	}
	j.ctx, j.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go j.write()
	return j, nil
}

// Close ends the writer. What waits is refused, what is being written is
// waited for. It may be called more than once.
func (j *Journal) Close() error {
	j.closeOnce.Do(j.cancel)
	<-j.done
	return nil
}

// Append implements orchestrator.Journal.
func (j *Journal) Append(ctx context.Context, entries ...[]byte) ([]orchestrator.Position, error) {
	r := &appendRequest{ctx: ctx, entries: entries, done: make(chan struct{})}
	for _, e := range entries {
		r.size += len(e) + entryOverhead
	}
	switch {
	case len(entries) == 0:
		return nil, nil
	case r.size > orchestrator.MaxAppend || len(entries) > maxCommitEntries:
		return nil, orchestrator.Errorf(orchestrator.ErrTooLarge, "entries-too-large", "%d entries of %d bytes are over what fits one commit", len(entries), r.size)
	}
	select {
	case j.requests <- r:
	case <-ctx.Done():
		return nil, classify(ctx, "append to the journal", ctx.Err())
	case <-j.ctx.Done():
		return nil, errJournalClosed()
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		// It may be under way; whoever asked knows no more than that.
		return nil, classify(ctx, "append to the journal", ctx.Err())
	case <-j.done:
		// Answered before the writer ended, or never taken up.
		select {
		case <-r.done:
		default:
			return nil, errJournalClosed()
		}
	}
	if r.err != nil {
		return nil, classify(ctx, "append to the journal", r.err)
	}
	positions := make([]orchestrator.Position, len(entries))
	for i := range positions {
		positions[i] = orchestrator.Position{Commit: r.commit, Index: r.first + i}
	}
	return positions, nil
}

func errJournalClosed() error {
	return orchestrator.Errorf(orchestrator.ErrUnavailable, "stopping", "the gateway is stopping").WithHint("try again in a moment")
}

// write is the writer: it puts all that waits into one message, and while that
// is synchronised the next ones gather.
func (j *Journal) write() {
	defer close(j.done)
	var held *appendRequest // did not fit the last message
	for {
		first := held
		held = nil
		if first == nil {
			select {
			case <-j.ctx.Done():
				return
			case first = <-j.requests:
			}
		}
		var batch []*appendRequest
		batch, held = j.gather(first)
		j.commit(batch)
		if held != nil && j.ctx.Err() != nil {
			held.err = errJournalClosed()
			close(held.done)
			return
		}
	}
}

// gather returns the requests that share a message with first, and one that was
// taken up and did not fit.
func (j *Journal) gather(first *appendRequest) (batch []*appendRequest, held *appendRequest) {
	size, entries := 1, 0
	for r := first; ; {
		switch {
		case r.ctx.Err() != nil: // nobody waits for it any more, and nothing of it is written
			r.err = r.ctx.Err()
			close(r.done)
		case size+r.size > maxCommit || entries+len(r.entries) > maxCommitEntries:
			return batch, r
		default:
			r.first = entries
			batch = append(batch, r)
			size, entries = size+r.size, entries+len(r.entries)
		}
		select {
		case r = <-j.requests:
		default:
			return batch, nil
		}
	}
}

// commit writes one message and answers those who wait for it.
func (j *Journal) commit(batch []*appendRequest) {
	if len(batch) == 0 {
		return
	}
	data := []byte{commitVersion}
	for _, r := range batch {
		for _, e := range r.entries {
			data = binary.AppendUvarint(data, uint64(len(e)))
			data = append(data, e...)
		}
	}
	sequence, err := j.publish(data)
	if err == nil {
		j.mu.Lock()
		j.cache.put(sequence, data)
		j.mu.Unlock()
	}
	for _, r := range batch {
		r.commit, r.err = sequence, err
		close(r.done)
	}
}

func (j *Journal) publish(data []byte) (uint64, error) {
	if err := j.server.room(len(data)); err != nil {
		return 0, err
	}
	// Not ended by Close: what is under way is waited for.
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	ack, err := j.server.js.Publish(ctx, journalSubject, data)
	if err != nil {
		return 0, classify(ctx, "write to the journal", err)
	}
	return ack.Sequence, nil
}

// Replay implements orchestrator.Journal.
func (j *Journal) Replay(ctx context.Context, f func(orchestrator.Position, []byte) error) error {
	err := walkBy(ctx, j.stream, journalSubject, replayBatch, replayTimeout, func(message jetstream.Msg, meta *jetstream.MsgMetadata) error {
		at := orchestrator.Position{Commit: meta.Sequence.Stream}
		for e, err := range entriesOf(message.Data()) {
			if err != nil {
				return damagedCommit(at.Commit, err)
			}
			if err := f(at, e); err != nil {
				return err
			}
			at.Index++
		}
		return nil
	})
	return classify(ctx, "read the journal", err)
}

// Read implements orchestrator.Journal.
func (j *Journal) Read(ctx context.Context, at orchestrator.Position) ([]byte, error) {
	j.mu.Lock()
	data := j.cache.get(at.Commit)
	j.mu.Unlock()
	if data == nil {
		var err error
		if data, err = j.fetch(ctx, at.Commit); err != nil {
			return nil, err
		}
	}
	entry, err := entryOf(data, at.Index)
	if err != nil {
		return nil, damagedCommit(at.Commit, err)
	}
	return entry, nil
}

func (j *Journal) fetch(ctx context.Context, commit uint64) ([]byte, error) {
	bounded, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	if commit == 0 {
		return nil, errNoEntry(commit)
	}
	message, err := j.stream.GetMsg(bounded, commit)
	switch {
	case absent(err):
		return nil, errNoEntry(commit)
	case err != nil:
		return nil, classify(ctx, "read the journal", err)
	}
	j.mu.Lock()
	j.cache.put(commit, message.Data)
	j.mu.Unlock()
	return message.Data, nil
}

// Trim implements orchestrator.Journal.
func (j *Journal) Trim(ctx context.Context, before uint64) error {
	if before <= 1 {
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	j.mu.Lock()
	j.cache.forget(before)
	j.mu.Unlock()
	return classify(ctx, "trim the journal", j.stream.Purge(bounded, jetstream.WithPurgeSequence(before)))
}

func errNoEntry(commit uint64) error {
	return orchestrator.Errorf(orchestrator.ErrNotFound, "entry-not-found", "the journal has no commit %d", commit)
}

func damagedCommit(commit uint64, cause error) error {
	return orchestrator.Errorf(orchestrator.ErrUnavailable, "journal-damaged", "commit %d of the journal is damaged: %w", commit, cause).
		WithHint("restore the data folder from a backup, or remove the stream %s to begin with an empty queue", journalStream)
}

var errTorn = errors.New("it ends within an entry")

// entriesOf yields the entries of a message; they share its memory. An error is
// the last that it yields.
func entriesOf(data []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if len(data) == 0 || data[0] != commitVersion {
			yield(nil, fmt.Errorf("it is not of version %d", commitVersion))
			return
		}
		for rest := data[1:]; len(rest) > 0; {
			n, used := binary.Uvarint(rest)
			if used <= 0 || n > uint64(len(rest)-used) {
				yield(nil, errTorn)
				return
			}
			end := used + int(n)
			if !yield(rest[used:end:end], nil) {
				return
			}
			rest = rest[end:]
		}
	}
}

// entryOf returns one entry of a message.
func entryOf(data []byte, index int) ([]byte, error) {
	n := 0
	for e, err := range entriesOf(data) {
		if err != nil || n == index {
			return e, err
		}
		n++
	}
	return nil, fmt.Errorf("it has %d entries, not an entry %d", n, index)
}

// commitCache keeps the messages that came last, up to journalCache bytes.
type commitCache struct {
	commits map[uint64][]byte
	order   []uint64 // oldest first
	bytes   int
}

func (c *commitCache) get(commit uint64) []byte { return c.commits[commit] }

func (c *commitCache) put(commit uint64, data []byte) {
	if _, ok := c.commits[commit]; ok {
		return
	}
	c.commits[commit] = data
	c.order = append(c.order, commit)
	c.bytes += len(data)
	for c.bytes > journalCache && len(c.order) > 1 {
		c.drop(c.order[0])
		c.order = c.order[1:]
	}
}

func (c *commitCache) drop(commit uint64) {
	c.bytes -= len(c.commits[commit])
	delete(c.commits, commit)
}

// forget drops all before a commit.
func (c *commitCache) forget(before uint64) {
	kept := c.order[:0]
	for _, commit := range c.order {
		if commit < before {
			c.drop(commit)
			continue
		}
		kept = append(kept, commit)
	}
	c.order = kept
}

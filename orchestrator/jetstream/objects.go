package jetstream

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// objectsBucket describes objects, key BUCKET.PART.PART…; renaming it loses
	// what is in it.
	objectsBucket = "kiln-objects"
	// maxEntries bounds the objects of all buckets, with those that were deleted
	// within DeletionLife: listing reads the keys of a whole folder.
	maxEntries = 250_000
	// maxTransfers bounds what is written and read at once: each holds up to three
	// pieces in memory.
	maxTransfers = 64
	// maxListings bounds listings at once: each holds the keys of a folder.
	maxListings = 4
	// lookAgain is when Changes looks although nothing told it to: the
	// acknowledgement of a write may have been lost.
	lookAgain = 30 * time.Second
)

// Buckets is an orchestrator.Buckets on JetStream: a key-value bucket describes
// the objects, a stream holds their contents. A description is written once its
// content is there, so that the sequences of the key-value bucket are the log of
// changes: of each object the last one, as a mark when it was deleted.
type Buckets struct {
	server  *Server
	index   *bucket
	content *contents
	slots   chan struct{} // holds a token for each transfer
	// listings holds a token for each listing that reads keys.
	listings chan struct{}

	mu      sync.Mutex
	waiting map[string]chan struct{} // guarded by mu: closed at the next change of a bucket

	stop  context.CancelFunc
	swept chan struct{} // closed when the sweep has ended
}

var _ orchestrator.Buckets = (*Buckets)(nil)

// described is what is stored of an object.
type described struct {
	orchestrator.Object
	Upload string   `json:"upload"`
	Chunks int      `json:"chunks"`
	Marks  []uint64 `json:"marks,omitempty"` // sequences of every markEvery-th chunk
}

// NewBuckets opens the buckets on a server, which remains the caller's. What torn
// uploads left is removed meanwhile; Close waits for that. Errors are NewStore's.
func NewBuckets(ctx context.Context, server *Server) (*Buckets, error) {
	index, err := server.openBucket(ctx, objectsBucket, "Kiln: objects by bucket and key")
	if err != nil {
		return nil, classify(ctx, "open the buckets", err)
	}
	content, err := server.openContents(ctx)
	if err != nil {
		return nil, classify(ctx, "open the buckets", err)
	}
	uploads, err := content.uploads(ctx)
	if err != nil {
		return nil, classify(ctx, "open the buckets", err)
	}
	b := &Buckets{
		server: server, index: index, content: content, slots: make(chan struct{}, maxTransfers), listings: make(chan struct{}, maxListings),
		waiting: map[string]chan struct{}{}, swept: make(chan struct{}),
	}
	ctx, b.stop = context.WithCancel(context.Background())
	go func() {
		defer close(b.swept)
		b.sweep(ctx, uploads)
	}()
	return b, nil
}

// Close ends what NewBuckets began. It may be called more than once.
func (b *Buckets) Close() error {
	b.stop()
	<-b.swept
	return nil
}

// sweep removes those of the uploads that no object consists of.
func (b *Buckets) sweep(ctx context.Context, uploads []upload) {
	for _, u := range uploads {
		found, _, err := b.describe(ctx, u.key)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			b.server.logger.Warn("look for what torn uploads left", "error", err)
			return
		}
		if (found == nil || found.Upload != u.id) && b.content.torn(ctx, u) {
			b.content.discard(ctx, u)
		}
	}
}

// objectKey is the key of an object's description. Each part of the path is a token
// of its own, so that a folder can be listed without the rest.
func objectKey(bucket, key string) string {
	parts := strings.Split(key, "/")
	for i, part := range parts {
		parts[i] = base64.RawURLEncoding.EncodeToString([]byte(part))
	}
	return bucket + "." + strings.Join(parts, ".")
}

// nameOf undoes objectKey.
func nameOf(objectKey string) (bucket, key string, err error) {
	bucket, rest, _ := strings.Cut(objectKey, ".")
	parts := strings.Split(rest, ".")
	for i, part := range parts {
		decoded, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil {
			return "", "", fmt.Errorf("decode the key of an object: %w", err)
		}
		parts[i] = string(decoded)
	}
	return bucket, strings.Join(parts, "/"), nil
}

func checkObject(bucket, key string) error {
	if err := orchestrator.ValidateBucket(bucket); err != nil {
		return err
	}
	return orchestrator.ValidateKey(key)
}

// describe returns what is stored of an object and the sequence it was written at;
// nil when there is none.
func (b *Buckets) describe(ctx context.Context, key string) (*described, uint64, error) {
	got, err := b.index.get(ctx, key)
	if absent(err) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	var d described
	if err := json.Unmarshal(got.value, &d); err != nil {
		return nil, 0, fmt.Errorf("decode the description of an object: %w", err)
	}
	return &d, got.sequence, nil
}

// Buckets implements orchestrator.Buckets.
func (b *Buckets) Buckets(ctx context.Context) ([]string, error) {
	keys, err := b.keys(ctx, ">")
	if err != nil {
		return nil, classify(ctx, "list buckets", err)
	}
	found := map[string]bool{}
	for _, key := range keys {
		bucket, _, _ := strings.Cut(key, ".")
		if found[bucket] {
			continue
		}
		d, _, err := b.describe(ctx, key)
		if err != nil {
			return nil, classify(ctx, "list buckets", err)
		}
		if d != nil {
			found[bucket] = true
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// keys returns the keys of descriptions and marks that match a filter.
func (b *Buckets) keys(ctx context.Context, filter string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	select {
	case b.listings <- struct{}{}:
		defer func() { <-b.listings }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	prefix := "$KV." + objectsBucket + "."
	info, err := b.index.stream.Info(ctx, jetstream.WithSubjectFilter(prefix+filter))
	if err != nil {
		return nil, err
	}
	keys := make([]string, 0, len(info.State.Subjects))
	for subject := range info.State.Subjects {
		keys = append(keys, strings.TrimPrefix(subject, prefix))
	}
	return keys, nil
}

// Objects implements orchestrator.Buckets.
func (b *Buckets) Objects(ctx context.Context, bucket string, filter orchestrator.ObjectFilter) ([]orchestrator.Object, bool, error) {
	if err := orchestrator.ValidateBucket(bucket); err != nil {
		return nil, false, err
	}
	folder := bucket
	if i := strings.LastIndexByte(filter.Prefix, '/'); i > 0 && len(filter.Prefix) <= orchestrator.MaxObjectKey {
		folder = objectKey(bucket, filter.Prefix[:i])
	}
	found, err := b.keys(ctx, folder+".>")
	if err != nil {
		return nil, false, classify(ctx, "list objects", err)
	}
	var names []string
	for _, k := range found {
		_, key, err := nameOf(k)
		if err != nil {
			return nil, false, err
		}
		if strings.HasPrefix(key, filter.Prefix) && key > filter.After {
			names = append(names, key)
		}
	}
	slices.Sort(names)
	page := []orchestrator.Object{}
	for _, key := range names {
		d, _, err := b.describe(ctx, objectKey(bucket, key))
		if err != nil {
			return nil, false, classify(ctx, "list objects", err)
		}
		if d == nil {
			continue // deleted
		}
		if len(page) == min(filter.Limit, orchestrator.MaxObjectList) {
			return page, true, nil
		}
		page = append(page, d.Object)
	}
	return page, false, nil
}

// Object implements orchestrator.Buckets.
func (b *Buckets) Object(ctx context.Context, bucket, key string) (orchestrator.Object, error) {
	d, err := b.find(ctx, bucket, key)
	return d.Object, err
}

func (b *Buckets) find(ctx context.Context, bucket, key string) (described, error) {
	if err := checkObject(bucket, key); err != nil {
		return described{}, err
	}
	d, _, err := b.describe(ctx, objectKey(bucket, key))
	switch {
	case err != nil:
		return described{}, classify(ctx, "look for an object", err)
	case d == nil:
		return described{}, noObject(bucket, key)
	}
	return *d, nil
}

func noObject(bucket, key string) error {
	return orchestrator.Errorf(orchestrator.ErrNotFound, "object-not-found", "there is no object %.80q in the bucket %s", key, bucket).
		WithHint("`kiln bucket ls %s` lists those there are", bucket)
}

// enter takes the right to a transfer.
func (b *Buckets) enter() error {
	select {
	case b.slots <- struct{}{}:
		return nil
	default:
		return orchestrator.Errorf(orchestrator.ErrExhausted, "transfers-full", "%d objects are written and read at this moment, no more at once", maxTransfers).
			WithHint("try again in a moment")
	}
}

func (b *Buckets) leave() { <-b.slots }

// OpenObject implements orchestrator.Buckets.
func (b *Buckets) OpenObject(ctx context.Context, bucket, key string) (orchestrator.ObjectReader, error) {
	if err := b.enter(); err != nil {
		return nil, err
	}
	for {
		d, err := b.find(ctx, bucket, key)
		if err != nil {
			b.leave()
			return nil, err
		}
		u := upload{objectKey(bucket, key), d.Upload}
		b.content.pin(u.id)
		// It may have been replaced before it was pinned.
		if now, err := b.find(ctx, bucket, key); err == nil && now.Upload == d.Upload {
			return newObjectReader(ctx, b, u, d), nil
		}
		b.content.unpin(context.WithoutCancel(ctx), u)
	}
}

// PutObject implements orchestrator.Buckets.
func (b *Buckets) PutObject(ctx context.Context, o orchestrator.Object, content io.Reader, may orchestrator.ObjectCheck) (orchestrator.Object, bool, error) {
	err := errors.Join(checkObject(o.Bucket, o.Key), orchestrator.ValidateMedia(o.ContentType))
	if err != nil {
		return orchestrator.Object{}, false, err
	}
	if err := b.enter(); err != nil {
		return orchestrator.Object{}, false, err
	}
	defer b.leave()
	key := objectKey(o.Bucket, o.Key)
	// What would be refused in the end is refused before it is sent.
	if _, _, err := b.admit(ctx, key, may); err != nil {
		return orchestrator.Object{}, false, classify(ctx, "store an object", err)
	}
	d, err := b.content.write(ctx, key, content)
	if err != nil {
		return orchestrator.Object{}, false, classify(ctx, "store an object", err)
	}
	o.Size, o.ETag = d.Size, d.ETag
	d.Object = o
	created, err := b.commit(ctx, key, &d, may)
	if err != nil {
		return orchestrator.Object{}, false, classify(ctx, "store an object", err)
	}
	return d.Object, created, nil
}

// askAbout returns what is there if it may be changed.
func (b *Buckets) askAbout(ctx context.Context, key string, may orchestrator.ObjectCheck) (*described, uint64, error) {
	there, sequence, err := b.describe(ctx, key)
	if err != nil || may == nil {
		return there, sequence, err
	}
	if there == nil {
		return nil, 0, may(nil)
	}
	return there, sequence, may(&there.Object)
}

// admit returns what is there if it may be written over; where nothing is, there
// has to be room for one more.
func (b *Buckets) admit(ctx context.Context, key string, may orchestrator.ObjectCheck) (*described, uint64, error) {
	there, sequence, err := b.askAbout(ctx, key, may)
	if err == nil && there == nil {
		err = b.full(ctx)
	}
	return there, sequence, err
}

// commit makes a content that was written that of an object.
func (b *Buckets) commit(ctx context.Context, key string, d *described, may orchestrator.ObjectCheck) (created bool, err error) {
	written := upload{key, d.Upload}
	for {
		there, sequence, err := b.admit(ctx, key, may)
		if err != nil {
			b.content.discard(context.WithoutCancel(ctx), written)
			return false, err
		}
		d.ModifiedAt = time.Now().UTC().Truncate(time.Millisecond)
		value, err := json.Marshal(d)
		if err != nil {
			return false, fmt.Errorf("encode the description: %w", err)
		}
		// A commit that began is seen through, so that it is known how it ended.
		_, err = b.index.put(context.WithoutCancel(ctx), key, value, sequence)
		b.changed(d.Bucket)
		switch {
		case conflicting(err):
			continue // somebody else was first
		case errors.Is(err, orchestrator.ErrExhausted):
			b.content.discard(context.WithoutCancel(ctx), written)
			return false, err
		case err != nil:
			return false, err // it may be there: the next sweep knows
		}
		if there != nil {
			b.content.discard(context.WithoutCancel(ctx), upload{key, there.Upload})
		}
		return there == nil, nil
	}
}

// full says whether there is room for one more object.
func (b *Buckets) full(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	info, err := b.index.stream.Info(ctx)
	if err == nil && info.State.NumSubjects >= maxEntries {
		err = orchestrator.Errorf(orchestrator.ErrExhausted, "buckets-full", "there are %d objects, those that were deleted within %s included; no more are kept", maxEntries, orchestrator.DeletionLife).
			WithHint("delete objects that are not needed any more")
	}
	return err
}

// DeleteObject implements orchestrator.Buckets.
func (b *Buckets) DeleteObject(ctx context.Context, bucket, key string, may orchestrator.ObjectCheck) error {
	if err := checkObject(bucket, key); err != nil {
		return err
	}
	k := objectKey(bucket, key)
	for {
		there, sequence, err := b.askAbout(ctx, k, may)
		if err != nil {
			return classify(ctx, "delete an object", err)
		}
		if there == nil {
			return noObject(bucket, key)
		}
		mark := *there
		mark.ModifiedAt, mark.Marks = time.Now().UTC().Truncate(time.Millisecond), nil
		value, err := json.Marshal(mark)
		if err != nil {
			return fmt.Errorf("encode the mark: %w", err)
		}
		err = b.index.mark(context.WithoutCancel(ctx), k, value, sequence, orchestrator.DeletionLife)
		b.changed(bucket)
		if conflicting(err) {
			continue // changed meanwhile
		}
		if err != nil {
			return classify(ctx, "delete an object", err)
		}
		b.content.discard(context.WithoutCancel(ctx), upload{k, there.Upload})
		return nil
	}
}

// changed wakes those who wait for changes of a bucket.
func (b *Buckets) changed(bucket string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.waiting[bucket]; c != nil {
		close(c)
		delete(b.waiting, bucket)
	}
}

// next is closed at the next change of a bucket.
func (b *Buckets) next(bucket string) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting[bucket] == nil {
		b.waiting[bucket] = make(chan struct{})
	}
	return b.waiting[bucket]
}

// LastChange implements orchestrator.Buckets.
func (b *Buckets) LastChange(ctx context.Context) (uint64, error) {
	opCtx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	info, err := b.index.stream.Info(opCtx)
	if err != nil {
		return 0, classify(ctx, "look at the changes of buckets", err)
	}
	return info.State.LastSeq, nil
}

// Changes implements orchestrator.Buckets.
func (b *Buckets) Changes(ctx context.Context, bucket string, after uint64, most int) ([]orchestrator.ObjectChange, error) {
	if err := orchestrator.ValidateBucket(bucket); err != nil {
		return nil, err
	}
	for {
		next := b.next(bucket) // before looking: what comes after it is told
		found, err := b.changes(ctx, bucket, after, most)
		if ctx.Err() != nil {
			return nil, nil
		}
		if err != nil || len(found) > 0 {
			return found, classify(ctx, "read the changes of a bucket", err)
		}
		again := time.NewTimer(lookAgain)
		select {
		case <-next:
		case <-again.C:
		case <-ctx.Done():
		}
		again.Stop()
		if ctx.Err() != nil {
			return nil, nil
		}
	}
}

// changes returns those that are there.
func (b *Buckets) changes(ctx context.Context, bucket string, after uint64, most int) ([]orchestrator.ObjectChange, error) {
	var found []orchestrator.ObjectChange
	for len(found) < most {
		opCtx, cancel := context.WithTimeout(ctx, opTimeout)
		message, err := b.index.stream.GetMsg(opCtx, after+1, jetstream.WithGetMsgSubject("$KV."+objectsBucket+"."+bucket+".>"))
		cancel()
		if absent(err) {
			return found, nil
		}
		if err != nil {
			return found, err
		}
		var d described
		if err := json.Unmarshal(message.Data, &d); err != nil {
			return found, fmt.Errorf("decode the description of an object: %w", err)
		}
		after = message.Sequence
		found = append(found, orchestrator.ObjectChange{Sequence: after, Object: d.Object, Deleted: deleted(message.Header)})
	}
	return found, nil
}

package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// FakeBuckets is an orchestrator.Buckets in memory.
type FakeBuckets struct {
	mu       sync.Mutex
	sequence uint64                    // guarded by mu: of the last change
	objects  map[[2]string]fakeContent // guarded by mu: by bucket and key
	changes  map[[2]string]orchestrator.ObjectChange
	changed  chan struct{} // guarded by mu: closed and replaced at each change
}

type fakeContent struct {
	orchestrator.Object
	content []byte
}

var _ orchestrator.Buckets = (*FakeBuckets)(nil)

// NewFakeBuckets returns a FakeBuckets without any.
func NewFakeBuckets() *FakeBuckets {
	return &FakeBuckets{objects: map[[2]string]fakeContent{}, changes: map[[2]string]orchestrator.ObjectChange{}, changed: make(chan struct{})}
}

// Buckets implements orchestrator.Buckets.
func (b *FakeBuckets) Buckets(context.Context) ([]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	found := map[string]bool{}
	for at := range b.objects {
		found[at[0]] = true
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// Objects implements orchestrator.Buckets.
func (b *FakeBuckets) Objects(_ context.Context, bucket string, filter orchestrator.ObjectFilter) ([]orchestrator.Object, bool, error) {
	if err := orchestrator.ValidateBucket(bucket); err != nil {
		return nil, false, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	page := []orchestrator.Object{}
	for at, o := range b.objects {
		if at[0] == bucket && strings.HasPrefix(at[1], filter.Prefix) && at[1] > filter.After {
			page = append(page, o.Object)
		}
	}
	slices.SortFunc(page, func(a, b orchestrator.Object) int { return strings.Compare(a.Key, b.Key) })
	limit := min(filter.Limit, orchestrator.MaxObjectList, len(page))
	return page[:limit], limit < len(page), nil
}

func (b *FakeBuckets) find(bucket, key string) (fakeContent, error) {
	if err := errors.Join(orchestrator.ValidateBucket(bucket), orchestrator.ValidateKey(key)); err != nil {
		return fakeContent{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	o, ok := b.objects[[2]string{bucket, key}]
	if !ok {
		return o, orchestrator.Errorf(orchestrator.ErrNotFound, "object-not-found", "there is no object %q", key)
	}
	return o, nil
}

// Object implements orchestrator.Buckets.
func (b *FakeBuckets) Object(_ context.Context, bucket, key string) (orchestrator.Object, error) {
	o, err := b.find(bucket, key)
	return o.Object, err
}

// OpenObject implements orchestrator.Buckets.
func (b *FakeBuckets) OpenObject(_ context.Context, bucket, key string) (orchestrator.ObjectReader, error) {
	o, err := b.find(bucket, key)
	if err != nil {
		return nil, err
	}
	return fakeReader{bytes.NewReader(o.content), o.Object}, nil
}

type fakeReader struct {
	*bytes.Reader
	object orchestrator.Object
}

func (r fakeReader) Object() orchestrator.Object { return r.object }
func (r fakeReader) Close() error                { return nil }

// PutObject implements orchestrator.Buckets.
func (b *FakeBuckets) PutObject(_ context.Context, o orchestrator.Object, content io.Reader, may orchestrator.ObjectCheck) (orchestrator.Object, bool, error) {
	err := errors.Join(orchestrator.ValidateBucket(o.Bucket), orchestrator.ValidateKey(o.Key), orchestrator.ValidateMedia(o.ContentType))
	if err != nil {
		return o, false, err
	}
	data, err := io.ReadAll(content)
	if classed := (*orchestrator.Error)(nil); err != nil && !errors.As(err, &classed) {
		err = orchestrator.Errorf(orchestrator.ErrInvalid, "content-unreadable", "read the content: %w", err)
	}
	if err != nil {
		return o, false, err
	}
	sum := sha256.Sum256(data)
	o.Size, o.ETag, o.ModifiedAt = int64(len(data)), hex.EncodeToString(sum[:]), time.Now().UTC().Truncate(time.Millisecond)
	b.mu.Lock()
	defer b.mu.Unlock()
	at := [2]string{o.Bucket, o.Key}
	_, there := b.objects[at]
	if err := b.ask(at, may); err != nil {
		return o, false, err
	}
	b.objects[at] = fakeContent{o, data}
	b.change(at, orchestrator.ObjectChange{Object: o})
	return o, !there, nil
}

func (b *FakeBuckets) ask(at [2]string, may orchestrator.ObjectCheck) error { // mu is held
	if may == nil {
		return nil
	}
	if there, ok := b.objects[at]; ok {
		return may(&there.Object)
	}
	return may(nil)
}

func (b *FakeBuckets) change(at [2]string, c orchestrator.ObjectChange) { // mu is held
	b.sequence++
	c.Sequence = b.sequence
	b.changes[at] = c
	close(b.changed)
	b.changed = make(chan struct{})
}

// DeleteObject implements orchestrator.Buckets.
func (b *FakeBuckets) DeleteObject(_ context.Context, bucket, key string, may orchestrator.ObjectCheck) error {
	o, err := b.find(bucket, key)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	at := [2]string{bucket, key}
	if err := b.ask(at, may); err != nil {
		return err
	}
	delete(b.objects, at)
	o.ModifiedAt = time.Now().UTC().Truncate(time.Millisecond)
	b.change(at, orchestrator.ObjectChange{Object: o.Object, Deleted: true})
	return nil
}

// LastChange implements orchestrator.Buckets.
func (b *FakeBuckets) LastChange(context.Context) (uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sequence, nil
}

// Changes implements orchestrator.Buckets.
func (b *FakeBuckets) Changes(ctx context.Context, bucket string, after uint64, most int) ([]orchestrator.ObjectChange, error) {
	if err := orchestrator.ValidateBucket(bucket); err != nil {
		return nil, err
	}
	for {
		b.mu.Lock()
		changed := b.changed
		var found []orchestrator.ObjectChange
		for _, c := range b.changes {
			if c.Object.Bucket == bucket && c.Sequence > after {
				found = append(found, c)
			}
		}
		b.mu.Unlock()
		if len(found) > 0 {
			slices.SortFunc(found, func(a, b orchestrator.ObjectChange) int { return int(a.Sequence) - int(b.Sequence) })
			return found[:min(most, len(found))], nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil
		}
	}
}

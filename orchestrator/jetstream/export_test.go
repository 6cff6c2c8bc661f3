package jetstream

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"
)

// Usage is what the streams of a store hold, marks and leftovers included.
type Usage struct {
	Functions uint64 // messages
	Revisions uint64
	Uploads   int // subjects with chunks
	Described uint64
}

// Usage looks past the contract at what is really kept.
func (s *Store) Usage(ctx context.Context) (u Usage, err error) {
	for _, b := range []struct {
		bucket *bucket
		count  *uint64
	}{{s.functions, &u.Functions}, {s.revisions, &u.Revisions}} {
		info, err := b.bucket.stream.Info(ctx)
		if err != nil {
			return u, err
		}
		*b.count = info.State.Msgs
	}
	info, err := s.archives.stream.Info(ctx, jetstream.WithSubjectFilter(chunkSubject(">")))
	if err != nil {
		return u, err
	}
	u.Uploads = len(info.State.Subjects)
	info, err = s.archives.stream.Info(ctx, jetstream.WithSubjectFilter(describeSubjects))
	if err != nil {
		return u, err
	}
	for _, n := range info.State.Subjects {
		u.Described += n
	}
	return u, nil
}

// PutBlindly writes to the stream of revisions without asking for room.
func (s *Store) PutBlindly(ctx context.Context, key string, value []byte) error {
	_, err := s.revisions.kv.Put(ctx, key, value)
	return err
}

// Hang keeps the owner of a store from renewing its lease, as a machine that
// stands still does, until Resume.
func (s *Store) Hang() { s.lease.stop() }

// Resume undoes Hang.
func (s *Store) Resume() {
	s.lease.done = make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	s.lease.cancel = cancel
	go s.lease.keep(ctx)
}

// Crash ends a store without a word to the next.
func (s *Store) Crash() {
	s.lease.stop()
	s.closing.Do(func() {})
	s.server.Close()
}

// Uploads returns how many uploads are kept, whether objects refer to them or not.
func (b *Buckets) Uploads(ctx context.Context) (int, error) {
	all, err := b.content.uploads(ctx)
	return len(all), err
}

// Damage puts another byte at the end of an object's content.
func (b *Buckets) Damage(ctx context.Context, bucket, key string) error {
	d, err := b.find(ctx, bucket, key)
	if err != nil {
		return err
	}
	last, err := b.content.stream.GetLastMsgForSubject(ctx, upload{objectKey(bucket, key), d.Upload}.subject())
	if err != nil {
		return err
	}
	if err := b.content.stream.DeleteMsg(ctx, last.Sequence); err != nil {
		return err
	}
	last.Data[len(last.Data)-1]++
	_, err = b.server.js.Publish(ctx, last.Subject, last.Data)
	return err
}

package jetstream

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// opTimeout bounds one exchange with the server: a synchronised write on a
	// busy disk takes seconds at worst.
	opTimeout = 15 * time.Second
	// duplicateWindow is the least the server accepts in effect: no write of
	// Kiln carries a message id, so that remembering them is for nothing.
	duplicateWindow = 100 * time.Millisecond
)

// bucket is a JetStream key-value bucket as this package uses it: one value a
// key, reads that see every write before them, deletions that leave a mark
// which expires.
type bucket struct {
	name   string
	kv     jetstream.KeyValue
	stream jetstream.Stream
	server *Server
}

// entry is a value with the sequence it was written at.
type entry struct {
	key      string
	value    []byte
	sequence uint64
}

// kvConfig is the stream of a bucket. It is what CreateKeyValue makes, except
// that marks may expire, and that reads of a replicated one go to the leader:
// with AllowDirect a replica that lags would answer with an older value.
func kvConfig(name, description string, replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              "KV_" + name,
		Description:       description,
		Subjects:          []string{"$KV." + name + ".>"},
		MaxMsgsPerSubject: 1,
		MaxMsgs:           -1,
		MaxBytes:          -1,
		MaxMsgSize:        -1,
		MaxConsumers:      -1,
		Storage:           jetstream.FileStorage,
		Replicas:          replicas,
		Discard:           jetstream.DiscardNew,
		Duplicates:        duplicateWindow,
		AllowDirect:       replicas == 1,
		AllowRollup:       true,
		DenyDelete:        true,
		AllowMsgTTL:       true,
	}
}

// openBucket finds a bucket or makes it.
func (s *Server) openBucket(ctx context.Context, name, description string) (*bucket, error) {
	stream, err := s.openStream(ctx, kvConfig(name, description, s.replicas))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	kv, err := s.js.KeyValue(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", name, err)
	}
	return &bucket{name: name, kv: kv, stream: stream, server: s}, nil
}

// openStream finds a stream or makes it. One that exists keeps its
// configuration, which may be an administrator's (replicas, placement), as
// long as it has what this package relies on.
func (s *Server) openStream(ctx context.Context, config jetstream.StreamConfig) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	stream, err := s.js.Stream(ctx, config.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if err := s.forgetTornStream(config.Name); err != nil {
			return nil, err
		}
		stream, err = s.js.CreateStream(ctx, config)
	}
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", config.Name, err)
	}
	got := stream.CachedInfo().Config
	if got.MaxMsgsPerSubject != config.MaxMsgsPerSubject || !got.AllowRollup || !got.AllowMsgTTL || got.MaxAge != 0 {
		return nil, orchestrator.Errorf(orchestrator.ErrInvalid, "store-stream-unsuitable",
			"the stream %s exists with settings that Kiln cannot keep its state with", config.Name).
			WithHint("it needs max_msgs_per_subject %d, allow_rollup_hdrs, allow_msg_ttl and no max_age", config.MaxMsgsPerSubject)
	}
	return stream, nil
}

// keyToken is what one part of a key may be made of. Names are RFC 1123 labels
// and revision ids are letters, digits and '-'; anything else names nothing. A
// wildcard must not reach the server, nor a name so long that the server closes
// the connection over it.
var keyToken = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// key joins parts; ok is false when one of them can be no part of a key.
func key(parts ...string) (_ string, ok bool) {
	for _, part := range parts {
		if !keyToken.MatchString(part) {
			return "", false
		}
	}
	return strings.Join(parts, "."), true
}

// get returns the value of key; absent(err) when there is none.
func (b *bucket) get(ctx context.Context, key string) (entry, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	got, err := b.kv.Get(ctx, key)
	if err != nil {
		return entry{}, err
	}
	return entry{key: key, value: got.Value(), sequence: got.Revision()}, nil
}

// put writes a value if the key's sequence is still after, where 0 stands for
// no value, and returns the new one; conflicting(err) when it is not.
func (b *bucket) put(ctx context.Context, key string, value []byte, after uint64) (uint64, error) {
	if err := b.server.room(len(value)); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	if after == 0 {
		return b.kv.Create(ctx, key, value)
	}
	return b.kv.Update(ctx, key, value, after)
}

// set writes a value whatever is there.
func (b *bucket) set(ctx context.Context, key string, value []byte) error {
	if err := b.server.room(len(value)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	_, err := b.kv.Put(ctx, key, value)
	return err
}

// remove deletes the value of key if its sequence is still the given one. What
// remains is a mark that the server drops after its life; until then it also
// keeps an older copy from coming back should the disk lose what was not yet
// synchronised of the removal itself.
func (b *bucket) remove(ctx context.Context, key string, sequence uint64) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	return b.kv.Purge(ctx, key, jetstream.LastRevision(sequence), jetstream.PurgeTTL(b.server.markerLife))
}

// drop deletes the value of key whatever its sequence: one that is written
// meanwhile goes too. absent(err) when there is none.
func (b *bucket) drop(ctx context.Context, key string) error {
	for {
		got, err := b.get(ctx, key)
		if err == nil {
			err = b.remove(ctx, key, got.sequence)
		}
		if !conflicting(err) {
			return err
		}
	}
}

// mark is remove with a life of its own and a value: what is left to be told of
// the entry.
func (b *bucket) mark(ctx context.Context, key string, value []byte, sequence uint64, life time.Duration) error {
	message := nats.NewMsg("$KV." + b.name + "." + key)
	message.Data = value
	message.Header.Set("KV-Operation", "PURGE")
	message.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	_, err := b.server.js.PublishMsg(ctx, message, jetstream.WithExpectLastSequencePerSubject(sequence), jetstream.WithMsgTTL(life))
	return err
}

// list returns the values whose keys match the filter ("*", "name.*").
func (b *bucket) list(ctx context.Context, filter string) (map[string]entry, error) {
	found := map[string]entry{}
	prefix := "$KV." + b.name + "."
	err := walk(ctx, b.stream, prefix+filter, func(message jetstream.Msg, meta *jetstream.MsgMetadata) error {
		name := strings.TrimPrefix(message.Subject(), prefix)
		if deleted(message.Headers()) {
			delete(found, name)
			return nil
		}
		found[name] = entry{key: name, value: message.Data(), sequence: meta.Sequence.Stream}
		return nil
	})
	return found, err
}

// deleted says whether a message is the mark of a deletion.
func deleted(header nats.Header) bool {
	return header.Get("KV-Operation") != "" || header.Get(jetstream.MarkerReasonHeader) != ""
}

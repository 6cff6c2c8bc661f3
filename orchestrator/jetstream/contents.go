package jetstream

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	contentsStream = "KILN_OBJECT_DATA"
	// contentPrefix is followed by the key of the description and the upload.
	contentPrefix = "kiln.objects."
	// markEvery is how many chunks lie between two whose sequence is known: as many
	// are read in vain at most, 8 MiB, before a range begins.
	markEvery = 16
	// objectReserve is what uploads leave free, in bytes: everything else that
	// Kiln writes goes on when files have filled the disk.
	objectReserve = 512 << 20
)

// contents are the chunks that objects consist of: each upload has a subject of
// its own.
type contents struct {
	server *Server
	stream jetstream.Stream

	mu     sync.Mutex
	pinned map[string]int  // guarded by mu: readers by upload
	doomed map[string]bool // guarded by mu: uploads that go with their last reader
}

// upload names the chunks that were written for an object.
type upload struct {
	key string // of the object's description
	id  string
}

func (u upload) subject() string { return contentPrefix + u.key + "." + u.id }

func (s *Server) openContents(ctx context.Context) (*contents, error) {
	config := archivesConfig(s.replicas)
	config.Name, config.Description, config.Subjects = contentsStream, "Kiln: contents of objects", []string{contentPrefix + ">"}
	stream, err := s.openStream(ctx, config)
	if err != nil {
		return nil, err
	}
	return &contents{server: s, stream: stream, pinned: map[string]int{}, doomed: map[string]bool{}}, nil
}

// uploads returns all there are.
func (c *contents) uploads(ctx context.Context) ([]upload, error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	info, err := c.stream.Info(ctx, jetstream.WithSubjectFilter(contentPrefix+">"))
	if err != nil {
		return nil, fmt.Errorf("list uploads: %w", err)
	}
	var all []upload
	for subject := range info.State.Subjects {
		key := strings.TrimPrefix(subject, contentPrefix)
		if i := strings.LastIndexByte(key, '.'); i > 0 {
			all = append(all, upload{key[:i], key[i+1:]})
		}
	}
	return all, nil
}

// torn says whether nobody writes an upload any more, as for archives.
func (c *contents) torn(ctx context.Context, u upload) bool {
	if c.server.embedded != nil {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	last, err := c.stream.GetLastMsgForSubject(ctx, u.subject())
	return err == nil && time.Since(last.Time) > uploadLife
}

// pin keeps an upload until unpin.
func (c *contents) pin(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pinned[id]++
}

func (c *contents) unpin(ctx context.Context, u upload) {
	c.mu.Lock()
	c.pinned[u.id]--
	last := c.pinned[u.id] == 0
	doomed := last && c.doomed[u.id]
	if last {
		delete(c.pinned, u.id)
		delete(c.doomed, u.id)
	}
	c.mu.Unlock()
	if doomed {
		c.purge(ctx, u)
	}
}

// discard removes an upload that nothing refers to, once nobody reads it.
func (c *contents) discard(ctx context.Context, u upload) {
	c.mu.Lock()
	read := c.pinned[u.id] > 0
	if read {
		c.doomed[u.id] = true
	}
	c.mu.Unlock()
	if !read {
		c.purge(ctx, u)
	}
}

// purge removes chunks. When that fails they only take space, until the next
// start sweeps them.
func (c *contents) purge(ctx context.Context, u upload) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	if err := c.stream.Purge(ctx, jetstream.WithPurgeSubject(u.subject())); err != nil {
		c.server.logger.Warn("purge chunks of an object", "upload", u.id, "error", err)
	}
}

// write stores what r yields as chunks, and nothing when it fails.
func (c *contents) write(ctx context.Context, key string, r io.Reader) (d described, err error) {
	u := upload{key, uuid.NewString()}
	d.Upload = u.id
	defer func() {
		if err != nil && d.Chunks > 0 {
			c.discard(context.WithoutCancel(ctx), u)
		}
	}()
	sum := sha256.New()
	buf := make([]byte, chunkSize)
	for {
		n, readErr := io.ReadFull(r, buf)
		if readErr != nil && readErr != io.EOF && readErr != io.ErrUnexpectedEOF {
			return d, contentError(ctx, readErr)
		}
		if n > 0 {
			if d.Size += int64(n); d.Size > orchestrator.MaxObjectSize {
				return d, tooLarge()
			}
			sequence, err := c.writeChunk(ctx, u, buf[:n])
			if err != nil {
				return d, err
			}
			if d.Chunks%markEvery == 0 {
				d.Marks = append(d.Marks, sequence)
			}
			d.Chunks++
			sum.Write(buf[:n])
		}
		if readErr != nil {
			d.ETag = hex.EncodeToString(sum.Sum(nil))
			return d, nil
		}
	}
}

func tooLarge() error {
	return orchestrator.Errorf(orchestrator.ErrTooLarge, "object-too-large", "an object has at most %d bytes", orchestrator.MaxObjectSize)
}

// contentError classes an error of the reader that PutObject was given, as
// readError does.
func contentError(ctx context.Context, err error) error {
	var classed *orchestrator.Error
	if errors.As(err, &classed) || ctx.Err() != nil {
		return err
	}
	return orchestrator.Errorf(orchestrator.ErrInvalid, "content-unreadable", "read the content: %w", err).WithHint("send it again")
}

func (c *contents) writeChunk(ctx context.Context, u upload, chunk []byte) (uint64, error) {
	if err := c.server.roomBeyond(len(chunk), objectReserve); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	ack, err := c.server.js.Publish(ctx, u.subject(), chunk)
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// objectReader is an orchestrator.ObjectReader.
type objectReader struct {
	ctx     context.Context // the caller's, of OpenObject
	buckets *Buckets
	upload  upload
	object  described

	offset   int64
	chunk    []byte
	index    int    // of chunk; -1 = none yet
	sequence uint64 // of chunk
	sum      hash.Hash
	summed   int   // how many chunks from the first on are in sum
	err      error // what every further Read returns
	closed   bool
}

func newObjectReader(ctx context.Context, b *Buckets, u upload, d described) *objectReader {
	return &objectReader{ctx: ctx, buckets: b, upload: u, object: d, index: -1, sum: sha256.New()}
}

// Object implements orchestrator.ObjectReader.
func (r *objectReader) Object() orchestrator.Object { return r.object.Object }

// Read implements io.Reader.
func (r *objectReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.offset >= r.object.Size {
		return 0, io.EOF
	}
	if want := int(r.offset / chunkSize); want != r.index {
		if r.err = r.load(want); r.err != nil {
			return 0, r.err
		}
	}
	n := copy(p, r.chunk[r.offset-int64(r.index)*chunkSize:])
	r.offset += int64(n)
	return n, nil
}

// Seek implements io.Seeker.
func (r *objectReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.offset
	case io.SeekEnd:
		offset += r.object.Size
	}
	if offset < 0 {
		return 0, errors.New("seek before the beginning of an object")
	}
	r.offset = offset
	return offset, nil
}

// Close implements io.Closer.
func (r *objectReader) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	r.chunk, r.err = nil, errors.New("read of a closed object")
	r.buckets.content.unpin(context.WithoutCancel(r.ctx), r.upload)
	r.buckets.leave()
	return nil
}

// load makes a chunk the one that is read: the one behind the last, or another,
// from the nearest mark on.
func (r *objectReader) load(want int) error {
	at, sequence := r.index+1, r.sequence+1
	if mark := want - want%markEvery; want < at || mark > at || r.index < 0 {
		at, sequence = mark, r.object.Marks[mark/markEvery]
	}
	for ; ; at++ {
		ctx, cancel := context.WithTimeout(r.ctx, opTimeout)
		message, err := r.buckets.content.stream.GetMsg(ctx, sequence, jetstream.WithGetMsgSubject(r.upload.subject()))
		cancel()
		if absent(err) {
			return r.damaged(fmt.Sprintf("%d of %d chunks are there", at, r.object.Chunks))
		}
		if err != nil {
			return classify(r.ctx, "read an object", err)
		}
		r.index, r.sequence, r.chunk = at, message.Sequence, message.Data
		if err := r.check(); err != nil || at == want {
			return err
		}
		sequence = message.Sequence + 1
	}
}

// check compares a chunk with what was written: its size, and before the last is
// handed out the digest of all, when all were read.
func (r *objectReader) check() error {
	if got, want := int64(len(r.chunk)), min(chunkSize, r.object.Size-int64(r.index)*chunkSize); got != want {
		return r.damaged(fmt.Sprintf("chunk %d has %d bytes, not %d", r.index, got, want))
	}
	if r.index != r.summed {
		return nil
	}
	r.summed++
	r.sum.Write(r.chunk)
	if got := hex.EncodeToString(r.sum.Sum(nil)); r.summed == r.object.Chunks && got != r.object.ETag {
		return r.damaged("its content has the digest " + got)
	}
	return nil
}

func (r *objectReader) damaged(how string) error {
	return orchestrator.Errorf(orchestrator.ErrUnavailable, "object-damaged", "the object %.80q of the bucket %s is damaged: %s", r.object.Key, r.object.Bucket, how).
		WithHint("write it again")
}

package jetstream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// chunkSize is what one message of an archive carries: read back it is
	// base64 inside JSON, and stays below NATS' default limit of 1 MiB. A
	// multiple of 3, for base64.
	chunkSize = 510 << 10
	// uploadLife is how old chunks without an archive must be before another
	// gateway may take them for torn: no upload takes that long.
	uploadLife = time.Hour
	// digestPrefix begins every digest.
	digestPrefix = "sha256:"
)

// digestForm is what every digest looks like. Anything else names no archive
// and, as with keyToken, must not reach the server.
var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// archives is an object store whose objects are named by their digest.
//
// The layout is that of NATS object stores (ADR-20), so that `nats object`
// reads it: chunks under a subject of their own for each upload, and one
// message that describes the object and makes it visible, written last and only
// if there is none. An upload that ends early is chunks that nothing refers to;
// sweep removes them. Reading and writing are this package's: one chunk at a
// time, each with its own deadline, so that 250 MiB need no more memory than
// one chunk, and a reader that waits (a build) costs nothing.
type archives struct {
	server *Server
	stream jetstream.Stream
}

func archivesConfig(replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              "OBJ_" + archivesBucket,
		Description:       "Kiln: archives by digest",
		Subjects:          []string{chunkSubject(">"), describeSubjects},
		MaxMsgsPerSubject: -1,
		MaxMsgs:           -1,
		MaxBytes:          -1,
		MaxMsgSize:        -1,
		MaxConsumers:      -1,
		Storage:           jetstream.FileStorage,
		Replicas:          replicas,
		Discard:           jetstream.DiscardNew,
		Duplicates:        duplicateWindow,
		AllowDirect:       replicas == 1, // as in kvConfig; besides four times as fast
		AllowRollup:       true,
		AllowMsgTTL:       true,
	}
}

const describeSubjects = "$O." + archivesBucket + ".M.>"

func chunkSubject(upload string) string { return "$O." + archivesBucket + ".C." + upload }

func describeSubject(digest string) string {
	return "$O." + archivesBucket + ".M." + base64.URLEncoding.EncodeToString([]byte(digest))
}

func (s *Server) openArchives(ctx context.Context) (*archives, error) {
	stream, err := s.openStream(ctx, archivesConfig(s.replicas))
	if err != nil {
		return nil, err
	}
	return &archives{server: s, stream: stream}, nil
}

// PutArchive implements orchestrator.Store.
func (s *Store) PutArchive(ctx context.Context, r io.Reader) (string, int64, error) {
	digest, size, err := s.archives.put(ctx, r)
	return digest, size, classify(ctx, "store an archive", err)
}

// Archive implements orchestrator.Store.
func (s *Store) Archive(ctx context.Context, digest string) (io.ReadCloser, error) {
	info, _, err := s.archives.describe(ctx, digest)
	if err != nil {
		return nil, classify(ctx, "open archive "+digest, err)
	}
	if info == nil {
		return nil, orchestrator.Errorf(orchestrator.ErrNotFound, "archive-not-found", "there is no archive %s", digest)
	}
	return &archiveReader{ctx: ctx, stream: s.archives.stream, info: *info, digest: digest, hash: sha256.New()}, nil
}

// Archives implements orchestrator.Store.
func (s *Store) Archives(ctx context.Context) ([]string, error) {
	live, err := s.archives.list(ctx)
	if err != nil {
		return nil, classify(ctx, "list archives", err)
	}
	digests := make([]string, 0, len(live))
	for digest := range live {
		digests = append(digests, digest)
	}
	slices.Sort(digests)
	return digests, nil
}

// DeleteArchive implements orchestrator.Store.
func (s *Store) DeleteArchive(ctx context.Context, digest string) error {
	return classify(ctx, "delete archive "+digest, s.archives.remove(ctx, digest))
}

// put stores what r yields under its digest.
func (a *archives) put(ctx context.Context, r io.Reader) (digest string, size int64, err error) {
	upload := uuid.NewString()
	hash := sha256.New()
	buf := make([]byte, chunkSize)
	var held []byte // a chunk that was read and not yet written: a small archive that is there already costs no write
	var chunks uint32
	defer func() {
		if err != nil && chunks > 0 {
			a.purgeChunks(context.WithoutCancel(ctx), upload)
		}
	}()
	for {
		n, readErr := io.ReadFull(r, buf)
		if readErr != nil && readErr != io.EOF && readErr != io.ErrUnexpectedEOF {
			return "", 0, readError(ctx, readErr)
		}
		if n > 0 {
			if held != nil {
				if err := a.putChunk(ctx, upload, held); err != nil {
					return "", 0, err
				}
				chunks++
			}
			held = append(held[:0], buf[:n]...)
			hash.Write(held)
			size += int64(n)
		}
		if readErr != nil {
			break
		}
	}
	digest = digestPrefix + hex.EncodeToString(hash.Sum(nil))
	known, after, err := a.describe(ctx, digest)
	if err != nil {
		return "", 0, err
	}
	if known == nil {
		if held != nil {
			if err := a.putChunk(ctx, upload, held); err != nil {
				return "", 0, err
			}
			chunks++
		}
		err = a.putDescription(ctx, jetstream.ObjectInfo{
			ObjectMeta: jetstream.ObjectMeta{Name: digest, Opts: &jetstream.ObjectMetaOptions{ChunkSize: chunkSize}},
			Bucket:     archivesBucket, NUID: upload, Size: uint64(size), Chunks: chunks,
			Digest: jetstream.GetObjectDigestValue(hash),
		}, after, 0)
		if err == nil {
			return digest, size, nil
		}
		if !conflicting(err) {
			return "", 0, err
		}
	}
	// The same archive is there, or was stored at the same time.
	if chunks > 0 {
		a.purgeChunks(ctx, upload)
	}
	return digest, size, nil
}

// readError classes an error of the reader that PutArchive was given: one that
// has a class keeps it, any other means that the client went away.
func readError(ctx context.Context, err error) error {
	var classed *orchestrator.Error
	if errors.As(err, &classed) || ctx.Err() != nil {
		return err
	}
	return orchestrator.Errorf(orchestrator.ErrInvalid, "archive-unreadable", "read the archive: %w", err).WithHint("send it again")
}

func (a *archives) putChunk(ctx context.Context, upload string, chunk []byte) error {
	if err := a.server.room(len(chunk)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	_, err := a.server.js.Publish(ctx, chunkSubject(upload), chunk)
	return err
}

// putDescription writes info in place of the description written at the
// sequence after, 0 for none. A life other than 0 ends it by itself.
func (a *archives) putDescription(ctx context.Context, info jetstream.ObjectInfo, after uint64, life time.Duration) error {
	data, err := json.Marshal(info)
	if err != nil {
		return fmt.Errorf("encode the description: %w", err)
	}
	message := nats.NewMsg(describeSubject(info.Name))
	message.Data = data
	message.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	// Written as a header: the option of Publish leaves out an expected 0.
	message.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(after, 10))
	var options []jetstream.PublishOpt
	if life > 0 {
		options = append(options, jetstream.WithMsgTTL(life))
	}
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	_, err = a.server.js.PublishMsg(ctx, message, options...)
	return err
}

// describe returns the description of an archive, nil when there is none, and
// the sequence of what was last written for it, 0 when nothing was.
func (a *archives) describe(ctx context.Context, digest string) (*jetstream.ObjectInfo, uint64, error) {
	if !digestForm.MatchString(digest) {
		return nil, 0, nil
	}
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	message, err := a.stream.GetLastMsgForSubject(ctx, describeSubject(digest))
	switch {
	case absent(err):
		return nil, 0, nil
	case err != nil:
		return nil, 0, err
	}
	var info jetstream.ObjectInfo
	if err := json.Unmarshal(message.Data, &info); err != nil {
		return nil, 0, fmt.Errorf("decode the description of %s: %w", digest, err)
	}
	if info.Deleted {
		return nil, message.Sequence, nil
	}
	return &info, message.Sequence, nil
}

// remove deletes an archive. Its description goes first, so that there is
// never one that lacks chunks.
func (a *archives) remove(ctx context.Context, digest string) error {
	for {
		info, sequence, err := a.describe(ctx, digest)
		if err != nil || info == nil {
			return err
		}
		mark := *info
		mark.Deleted, mark.Size, mark.Chunks, mark.Digest = true, 0, 0, ""
		err = a.putDescription(ctx, mark, sequence, a.server.markerLife)
		if conflicting(err) {
			continue // deleted, or deleted and stored again, meanwhile
		}
		if err != nil {
			return err
		}
		a.purgeChunks(ctx, info.NUID)
		return nil
	}
}

// list returns the uploads that archives are made of, by digest.
func (a *archives) list(ctx context.Context) (map[string]string, error) {
	live := map[string]string{}
	err := walk(ctx, a.stream, describeSubjects, func(message jetstream.Msg, _ *jetstream.MsgMetadata) error {
		var info jetstream.ObjectInfo
		if err := json.Unmarshal(message.Data(), &info); err != nil {
			return fmt.Errorf("decode a description: %w", err)
		}
		live[info.Name] = info.NUID
		if info.Deleted {
			delete(live, info.Name)
		}
		return nil
	})
	return live, err
}

// purgeChunks removes the chunks of an upload that nothing refers to. When that
// fails they only take space, until the next start sweeps them.
func (a *archives) purgeChunks(ctx context.Context, upload string) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	if err := a.stream.Purge(ctx, jetstream.WithPurgeSubject(chunkSubject(upload))); err != nil {
		a.server.logger.Warn("purge chunks of an archive", "upload", upload, "error", err)
	}
}

// sweep removes what torn uploads and deletions left. The embedded server has
// no other writer while this one starts; at an external one uploads of other
// gateways may be under way, so that only old chunks go.
func (a *archives) sweep(ctx context.Context) error {
	infoCtx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	info, err := a.stream.Info(infoCtx, jetstream.WithSubjectFilter(chunkSubject(">")))
	if err != nil {
		return fmt.Errorf("list uploads: %w", err)
	}
	live, err := a.list(ctx)
	if err != nil {
		return fmt.Errorf("list archives: %w", err)
	}
	uploads := make(map[string]bool, len(live))
	for _, upload := range live {
		uploads[upload] = true
	}
	for subject := range info.State.Subjects {
		upload := strings.TrimPrefix(subject, chunkSubject(""))
		if uploads[upload] || !a.torn(ctx, subject) {
			continue
		}
		a.purgeChunks(ctx, upload)
	}
	return nil
}

func (a *archives) torn(ctx context.Context, subject string) bool {
	if a.server.embedded != nil {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	last, err := a.stream.GetLastMsgForSubject(ctx, subject)
	return err == nil && time.Since(last.Time) > uploadLife
}

// archiveReader reads an archive chunk by chunk and says at its end whether it
// is what the digest promises. It is used by one goroutine.
type archiveReader struct {
	ctx    context.Context // the caller's, of Archive
	stream jetstream.Stream
	info   jetstream.ObjectInfo
	digest string
	hash   interface {
		io.Writer
		Sum([]byte) []byte
	}
	chunk    bytes.Reader
	read     uint32 // chunks read
	sequence uint64 // of the last one
	err      error  // what every further Read returns
}

// Read implements io.Reader. Besides io.EOF, errors are classed.
func (r *archiveReader) Read(p []byte) (int, error) {
	for r.err == nil && r.chunk.Len() == 0 {
		r.err = r.advance()
	}
	if r.err != nil {
		return 0, r.err
	}
	return r.chunk.Read(p)
}

// Close implements io.Closer.
func (r *archiveReader) Close() error {
	if r.err == nil {
		r.err = errors.New("read of a closed archive")
	}
	r.chunk.Reset(nil)
	return nil
}

// advance fetches the next chunk; io.EOF after the last, if all was right.
func (r *archiveReader) advance() error {
	if r.read == r.info.Chunks {
		if got := digestPrefix + hex.EncodeToString(r.hash.Sum(nil)); got != r.digest {
			return r.damaged("its content has the digest " + got)
		}
		return io.EOF
	}
	ctx, cancel := context.WithTimeout(r.ctx, opTimeout)
	defer cancel()
	message, err := r.stream.GetMsg(ctx, r.sequence+1, jetstream.WithGetMsgSubject(chunkSubject(r.info.NUID)))
	if absent(err) {
		return r.damaged(fmt.Sprintf("%d of %d chunks are there", r.read, r.info.Chunks))
	}
	if err != nil {
		return classify(r.ctx, "read archive "+r.digest, err)
	}
	r.read++
	r.sequence = message.Sequence
	r.hash.Write(message.Data)
	r.chunk.Reset(message.Data)
	return nil
}

// damaged reports an archive that is not what was stored: deleted while it was
// read, or hurt on the disk.
func (r *archiveReader) damaged(how string) error {
	return orchestrator.Errorf(orchestrator.ErrUnavailable, "archive-damaged", "archive %s is damaged: %s", r.digest, how).
		WithHint("deploy the function again")
}

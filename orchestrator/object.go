package orchestrator

import (
	"context"
	"fmt"
	"io"
	"mime"
	"strings"
	"time"
	"unicode/utf8"
)

// Object is a file in a bucket. Its JSON form is the wire form.
type Object struct {
	Bucket      string    `json:"bucket"`
	Key         string    `json:"key"`
	Size        int64     `json:"size"` // bytes
	ETag        string    `json:"etag"` // SHA-256 of the content in hex, without quotes
	ContentType string    `json:"content_type"`
	ModifiedAt  time.Time `json:"modified_at"`
}

// ObjectChange is that an object was written or deleted.
type ObjectChange struct {
	Sequence uint64 // larger than that of every change before it, of any bucket
	Object   Object // of a deletion: what was deleted, ModifiedAt when
	Deleted  bool
}

// Bounds of buckets.
const (
	MaxObjectKey  = 512         // bytes
	MaxObjectSize = int64(64e9) // bytes
	MaxObjectList = 1000        // objects of one page
	maxMediaType  = 255         // bytes: two names of 127, RFC 6838
	DefaultMedia  = "application/octet-stream"
	DeletionLife  = 72 * time.Hour // how long Changes tells of a deletion: a weekend
)

// ValidateBucket checks the name of a bucket, which is a label as that of a
// function. The error is ErrInvalid.
func ValidateBucket(name string) error {
	if ValidateName(name) != nil {
		return Errorf(ErrInvalid, "bucket-name-invalid", "%.80q is no name of a bucket", name).
			WithHint("use 1 to %d of a-z, 0-9 and '-', beginning and ending with a letter or a digit", maxName)
	}
	return nil
}

// ValidateKey checks the key of an object: a path of parts that are not empty, "."
// or "..", in UTF-8 without control characters. The error is ErrInvalid.
func ValidateKey(key string) error {
	refused := func(why string) error {
		return Errorf(ErrInvalid, "object-key-invalid", "%.80q is no key of an object: %s", key, why).
			WithHint("write a path such as photos/2026/cat.jpg, at most %d bytes", MaxObjectKey)
	}
	switch {
	case key == "" || len(key) > MaxObjectKey:
		return refused(fmt.Sprintf("it has %d bytes", len(key)))
	case !utf8.ValidString(key) || strings.ContainsFunc(key, control):
		return refused("it holds characters that it may not")
	}
	for part := range strings.SplitSeq(key, "/") {
		if part == "" || part == "." || part == ".." {
			return refused(fmt.Sprintf("a part of it is %q", part))
		}
	}
	return nil
}

// ValidateMedia checks the content type of an object. The error is ErrInvalid.
func ValidateMedia(media string) error {
	if _, _, err := mime.ParseMediaType(media); err != nil || len(media) > maxMediaType || strings.ContainsFunc(media, control) {
		return Errorf(ErrInvalid, "content-type-invalid", "%.80q is no content type", media).WithHint("send for example Content-Type: image/jpeg, or none")
	}
	return nil
}

// ObjectCheck decides on what is there whether a write may be: nil when there is
// nothing. It is asked again for what is there at last.
type ObjectCheck func(there *Object) error

// ObjectFilter is a part of a bucket's objects, by key in the order of bytes.
type ObjectFilter struct {
	Prefix string // of keys
	After  string // only keys behind this one
	Limit  int    // 1 to MaxObjectList
}

// ObjectReader reads an object as it was when it was opened, whatever happens to
// it meanwhile. A damaged object gives an error before its last bytes. Errors of
// Read are classed. It is used by one goroutine.
type ObjectReader interface {
	io.ReadSeekCloser
	Object() Object
}

// Buckets keeps files. A bucket exists while it holds an object.
//
// What a method acknowledged is on disk, as with a Store; a write that was not
// acknowledged is there whole or not at all, and leaves nothing behind. Objects
// are written and read in pieces, so that their size costs no memory. An object
// that is replaced or deleted is read on by those who opened it before. Who
// writes what another one writes replaces it; the last one counts.
//
// # Changes
//
// The changes of a bucket are a log that is kept for ever, but of each object
// only the last: who reads it late may see an object that was written twice once,
// and of one that was written and deleted the deletion alone. Deletions are told
// for DeletionLife.
//
// Errors: ErrNotFound; ErrInvalid for names, keys and content types, and for a
// content that cannot be read; ErrTooLarge for more than MaxObjectSize;
// ErrExhausted when the disk, or what is transferred at once, is full;
// ErrUnavailable; what an ObjectCheck says. Methods are safe for concurrent use.
type Buckets interface {
	// Buckets returns the names of those that hold objects, in order.
	Buckets(ctx context.Context) ([]string, error)
	// Objects returns objects of a bucket; more tells that there are others behind
	// them.
	Objects(ctx context.Context, bucket string, filter ObjectFilter) (page []Object, more bool, err error)
	// Object describes one.
	Object(ctx context.Context, bucket, key string) (Object, error)
	// OpenObject opens one. ctx bounds the reading, too; the caller closes it.
	OpenObject(ctx context.Context, bucket, key string) (ObjectReader, error)
	// PutObject stores what it reads to the end as an object with the given bucket,
	// key and content type, and returns it complete. created tells that there was
	// none. may may be nil.
	PutObject(ctx context.Context, o Object, content io.Reader, may ObjectCheck) (stored Object, created bool, err error)
	// DeleteObject removes an object; ErrNotFound when there is none. may may be nil.
	DeleteObject(ctx context.Context, bucket, key string, may ObjectCheck) error

	// LastChange returns the sequence of the last change there was, of any bucket.
	LastChange(ctx context.Context) (uint64, error)
	// Changes returns changes of a bucket behind a sequence, in order, at most so
	// many; it waits while there are none, and returns none when ctx ended.
	Changes(ctx context.Context, bucket string, after uint64, most int) ([]ObjectChange, error)
}

package orchestrator

import (
	"context"
	"io"
)

// Store keeps functions, revisions and archives. What a method acknowledged is
// on disk: it survives SIGKILL and power loss at any later instant, and a write
// that was not acknowledged is there whole or not at all.
//
// Functions are written by compare-and-set on Function.Version. Revisions
// belong to a function and are removed with it by the caller. Archives are
// addressed by the SHA-256 of what was written; writing the same twice keeps
// one.
//
// Errors: ErrNotFound; ErrConflict when the version is not the stored one (or
// a function to be created exists); ErrUnavailable when the store does not
// answer; ErrExhausted when the disk is full. Methods are safe for concurrent
// use.
type Store interface {
	// Function returns one function.
	Function(ctx context.Context, name string) (Function, error)
	// Functions returns all, by name.
	Functions(ctx context.Context) ([]Function, error)
	// PutFunction creates (Version 0) or replaces a function and returns it with
	// its new version.
	PutFunction(ctx context.Context, f Function) (Function, error)
	// DeleteFunction removes a function if it still has the version.
	DeleteFunction(ctx context.Context, name string, version uint64) error

	// Revision returns one revision.
	Revision(ctx context.Context, function, id string) (Revision, error)
	// Revisions returns those of a function, newest first. An unknown function
	// has none.
	Revisions(ctx context.Context, function string) ([]Revision, error)
	// AllRevisions returns every revision of every function.
	AllRevisions(ctx context.Context) ([]Revision, error)
	// PutRevision creates or replaces a revision.
	PutRevision(ctx context.Context, r Revision) error
	// DeleteRevision removes a revision; absent is no error.
	DeleteRevision(ctx context.Context, function, id string) error

	// PutArchive stores what it reads and returns its digest ("sha256:…") and size.
	PutArchive(ctx context.Context, r io.Reader) (digest string, size int64, err error)
	// Archive opens a stored archive; the caller closes it. A damaged archive
	// gives an error while reading.
	Archive(ctx context.Context, digest string) (io.ReadCloser, error)
	// Archives returns the digests of all.
	Archives(ctx context.Context) ([]string, error)
	// DeleteArchive removes an archive; absent is no error.
	DeleteArchive(ctx context.Context, digest string) error

	// Owner returns the id of this installation, made on first use and kept.
	Owner(ctx context.Context) (string, error)
}

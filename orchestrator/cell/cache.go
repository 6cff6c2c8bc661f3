package cell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// DefaultCacheSize is how much unpacked code a Cache keeps on disk: some
// hundreds of functions, and what the page cache holds of them is not the
// gateway's memory.
const DefaultCacheSize = orchestrator.GiB

// Cache is a CodeStore that keeps the unpacked code of another in files: what is
// stored compressed would take longer to unpack than to load, a static Go
// binary some 60 ms. Files are named after what they hold and rebuilt when
// missing, so the folder may be emptied at any time.
type Cache struct {
	code  CodeStore
	dir   string
	limit orchestrator.Bytes

	mu      sync.Mutex
	fetches map[string]*fetch // under way, by digest; guarded by mu
}

// fetch is a file being made. done is closed with err set.
type fetch struct {
	done chan struct{}
	err  error
}

// NewCache returns a Cache in a folder of its own, made when absent. It keeps at
// most limit bytes, 0 = DefaultCacheSize, besides what is being loaded.
func NewCache(code CodeStore, dir string, limit orchestrator.Bytes) (*Cache, error) {
	if limit <= 0 {
		limit = DefaultCacheSize
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the cache of code: %w", err)
	}
	return &Cache{code: code, dir: dir, limit: limit, fetches: map[string]*fetch{}}, nil
}

// Size implements CodeStore.
func (c *Cache) Size(revision orchestrator.Revision) (orchestrator.Bytes, bool) {
	return c.code.Size(revision)
}

// Open implements CodeStore.
func (c *Cache) Open(ctx context.Context, revision orchestrator.Revision) (io.ReadCloser, error) {
	path, ok := c.path(revision)
	if !ok {
		return c.code.Open(ctx, revision)
	}
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := c.Prepare(ctx, revision); err != nil {
			return nil, err
		}
		file, err = os.Open(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the cache of code: %w", err)
	}
	now := time.Now()
	// The time of the last use decides what goes first; without it the file goes
	// a little early.
	_ = os.Chtimes(path, now, now)
	return file, nil
}

// path is where a revision's code is kept; false when its digest is not one.
func (c *Cache) path(revision orchestrator.Revision) (string, bool) {
	name := strings.ReplaceAll(revision.CodeDigest, ":", "-")
	if name == "" || strings.ContainsAny(name, "/.") {
		return "", false
	}
	return filepath.Join(c.dir, name+".tar"), true
}

// Prepare makes the file of a revision's code unless it is there, so that the
// first load is as fast as any other. Several at once share the work.
func (c *Cache) Prepare(ctx context.Context, revision orchestrator.Revision) error {
	path, ok := c.path(revision)
	if !ok {
		return nil
	}
	for {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		c.mu.Lock()
		f := c.fetches[path]
		if f == nil {
			f = &fetch{done: make(chan struct{})}
			c.fetches[path] = f
			c.mu.Unlock()
			f.err = c.fetch(ctx, revision, path)
			c.mu.Lock()
			delete(c.fetches, path)
			c.mu.Unlock()
			close(f.done)
			return f.err
		}
		c.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		// When the one who did the work gave up, that is not this one's end.
		if f.err != nil && !errors.Is(f.err, context.Canceled) && !errors.Is(f.err, context.DeadlineExceeded) {
			return f.err
		}
	}
}

// fetch unpacks code into a file, which is there whole or not at all.
func (c *Cache) fetch(ctx context.Context, revision orchestrator.Revision, path string) (err error) {
	if _, err := os.Stat(path); err == nil {
		return nil // another has made it since this one looked, and has done
	}
	size, _ := c.code.Size(revision)
	if err := c.makeRoom(size); err != nil {
		return err
	}
	code, err := c.code.Open(ctx, revision)
	if err != nil {
		return err
	}
	defer code.Close()
	part, err := os.CreateTemp(c.dir, "*.part")
	if err != nil {
		return fmt.Errorf("cache the code of %s: %w", revision.ID, err)
	}
	defer func() {
		if err != nil {
			os.Remove(part.Name())
		}
	}()
	if _, err := io.Copy(part, code); err != nil {
		part.Close()
		return fmt.Errorf("cache the code of %s: %w", revision.ID, err)
	}
	if err := part.Close(); err != nil {
		return fmt.Errorf("cache the code of %s: %w", revision.ID, err)
	}
	if err := os.Rename(part.Name(), path); err != nil {
		return fmt.Errorf("cache the code of %s: %w", revision.ID, err)
	}
	return nil
}

// partAge is after how long an unfinished file is one that a crash left.
const partAge = time.Hour

// makeRoom removes the files used longest ago until another of the size fits.
func (c *Cache) makeRoom(size orchestrator.Bytes) error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return fmt.Errorf("list the cache of code: %w", err)
	}
	var files []fs.FileInfo
	total := size
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue // removed meanwhile
		}
		if !strings.HasSuffix(e.Name(), ".tar") {
			if time.Since(info.ModTime()) > partAge {
				os.Remove(filepath.Join(c.dir, e.Name()))
			}
			continue
		}
		files = append(files, info)
		total += orchestrator.Bytes(info.Size())
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, f := range files {
		if total <= c.limit {
			return nil
		}
		if err := os.Remove(filepath.Join(c.dir, f.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("make room in the cache of code: %w", err)
		}
		total -= orchestrator.Bytes(f.Size())
	}
	return nil
}

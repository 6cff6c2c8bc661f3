package cell_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/cell"
)

// slowCode is a CodeStore that counts.
type slowCode struct {
	mu    sync.Mutex
	opens int
	err   error         // in the middle
	wait  chan struct{} // an Open goes on when it is closed; nil = at once
}

const codeSize = 1000

func (s *slowCode) Size(orchestrator.Revision) (orchestrator.Bytes, bool) { return codeSize, true }

func (s *slowCode) Open(ctx context.Context, revision orchestrator.Revision) (io.ReadCloser, error) {
	s.mu.Lock()
	s.opens++
	err := s.err
	s.mu.Unlock()
	if s.wait != nil {
		select {
		case <-s.wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	text := strings.Repeat(revision.CodeDigest[:1], codeSize)
	if err != nil {
		return io.NopCloser(io.MultiReader(strings.NewReader(text[:500]), iotest.ErrReader(err))), nil
	}
	return io.NopCloser(strings.NewReader(text)), nil
}

func (s *slowCode) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opens
}

func revision(digest string) orchestrator.Revision {
	return orchestrator.Revision{ID: "r-" + digest, CodeDigest: digest}
}

func readCode(c *cell.Cache, digest string) (string, error) {
	r, err := c.Open(context.Background(), revision(digest))
	if err != nil {
		return "", err
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	return string(data), err
}

func TestCacheKeepsWhatItRead(t *testing.T) {
	code := &slowCode{}
	dir := t.TempDir()
	for range 2 { // the second is the next gateway's
		c, err := cell.NewCache(code, dir, 0)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if got, err := readCode(c, "a:1"); err != nil || got != strings.Repeat("a", codeSize) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
		}
	}
	if code.count() != 1 {
		t.Errorf("unpacked %d times", code.count())
	}
}

func TestCacheSharesTheWork(t *testing.T) {
	code := &slowCode{wait: make(chan struct{})}
	c, err := cell.NewCache(code, t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	// The first gives up; the others do not suffer from it.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var work sync.WaitGroup
	work.Go(func() {
		if err := c.Prepare(ctx, revision("a:1")); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	await(t, "the first to unpack", func() bool { return code.count() == 1 })
	for range 8 {
		work.Go(func() {
			if _, err := readCode(c, "a:1"); err != nil {
				t.Error(err)
			}
		})
	}
	cancel()
	await(t, "another to unpack", func() bool { return code.count() == 2 })
	close(code.wait)
	work.Wait()
	if code.count() != 2 {
		t.Errorf("unpacked %d times, want once after the one given up", code.count())
	}
}

func TestCacheKeepsNothingHalf(t *testing.T) {
	code := &slowCode{err: errors.New("damaged")}
	dir := t.TempDir()
	c, err := cell.NewCache(code, dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readCode(c, "a:1"); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("got %v", err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 0 {
		t.Errorf("left: %v", files)
	}
	code.err = nil
	if got, err := readCode(c, "a:1"); err != nil || len(got) != codeSize {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestCacheIsBounded(t *testing.T) {
	code := &slowCode{}
	dir := t.TempDir()
	c, err := cell.NewCache(code, dir, 3*codeSize)
	if err != nil {
		t.Fatal(err)
	}
	for i, digest := range []string{"a:1", "b:1", "c:1", "d:1"} {
		if digest == "d:1" { // a was used last
			if _, err := readCode(c, "a:1"); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := readCode(c, digest); err != nil {
			t.Fatal(err)
		}
		used := time.Now().Add(time.Duration(i-10) * time.Minute)
		if digest != "a:1" || i == 0 {
			path := filepath.Join(dir, strings.ReplaceAll(digest, ":", "-")+".tar")
			if err := os.Chtimes(path, used, used); err != nil {
				t.Fatal(err)
			}
		}
	}
	var names []string
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		names = append(names, f.Name())
	}
	if got := fmt.Sprint(names); got != "[a-1.tar c-1.tar d-1.tar]" {
		t.Errorf("kept %v, want all but the one used longest ago", got)
	}
}

package jetstream_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/jetstream"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
)

// image copies the folder of a store that is in use: what a power cut at this
// instant leaves.
func image(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "image")
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		there := to + strings.TrimPrefix(path, dir)
		if entry.IsDir() {
			return os.Mkdir(there, 0o700)
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil // the server writes some files under another name first
		} else if err != nil {
			return err
		}
		return os.WriteFile(there, data, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// lastBlock returns the newest file of a stream's messages.
func lastBlock(t *testing.T, dir, stream string) string {
	t.Helper()
	blocks, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", stream, "msgs", "*.blk"))
	if err != nil || len(blocks) == 0 {
		t.Fatalf("blocks of %s: %q, %v", stream, blocks, err)
	}
	slices.Sort(blocks)
	return blocks[len(blocks)-1]
}

func openQuietly(t *testing.T, dir string) *jetstream.Store {
	t.Helper()
	store, err := jetstream.Open(t.Context(), jetstream.Options{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

// TestTornTail: a store whose last write is torn opens, has all that was
// written before and takes new writes.
func TestTornTail(t *testing.T) {
	const functions = 10
	dir := t.TempDir()
	store := open(t, jetstream.Options{Dir: dir})
	for i := range functions {
		if _, err := store.PutFunction(t.Context(), storetest.Function(fmt.Sprintf("f%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	running := image(t, dir)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	for _, state := range []struct{ name, dir string }{{"killed", running}, {"closed", dir}} {
		for _, cut := range []int64{1, 7, 30, 200} {
			t.Run(fmt.Sprintf("%s/cut %d", state.name, cut), func(t *testing.T) {
				torn := image(t, state.dir)
				block := lastBlock(t, torn, "KV_kiln-functions")
				info, err := os.Stat(block)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.Truncate(block, info.Size()-cut); err != nil {
					t.Fatal(err)
				}
				checkTail(t, torn, functions-1)
			})
		}
		t.Run(state.name+"/half a record more", func(t *testing.T) {
			torn := image(t, state.dir)
			file, err := os.OpenFile(lastBlock(t, torn, "KV_kiln-functions"), os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(file, rand.Reader, 100); err != nil {
				t.Fatal(err)
			}
			if err := file.Close(); err != nil {
				t.Fatal(err)
			}
			checkTail(t, torn, functions)
		})
	}
}

// checkTail opens a store and finds at least the functions f0 to f(least-1).
func checkTail(t *testing.T, dir string, least int) {
	t.Helper()
	store := openQuietly(t, dir)
	for i := range least {
		name := fmt.Sprintf("f%d", i)
		if _, err := store.Function(t.Context(), name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := store.PutFunction(t.Context(), storetest.Function("new")); err != nil {
		t.Fatalf("write: %v", err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	again := openQuietly(t, dir)
	if _, err := again.Function(t.Context(), "new"); err != nil {
		t.Errorf("what was written after the tear: %v", err)
	}
}

// TestTornSettings: a server that dies while it makes a stream leaves its
// configuration without the checksum, and would not restore it again.
func TestTornSettings(t *testing.T) {
	for _, test := range []struct {
		name string
		tear func(folder string) error
	}{
		{"no checksum", func(folder string) error { return os.Remove(filepath.Join(folder, "meta.sum")) }},
		{"old checksum", func(folder string) error {
			return os.WriteFile(filepath.Join(folder, "meta.sum"), []byte("0123456789abcdef"), 0o600)
		}},
		{"no settings", func(folder string) error { return os.Remove(filepath.Join(folder, "meta.inf")) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			store := open(t, jetstream.Options{Dir: dir})
			if _, err := store.PutFunction(t.Context(), storetest.Function("a")); err != nil {
				t.Fatal(err)
			}
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
			if err := test.tear(filepath.Dir(filepath.Dir(lastBlock(t, dir, "KV_kiln-functions")))); err != nil {
				t.Fatal(err)
			}
			checkFunction(t, openQuietly(t, dir), "a")

			var log bytes.Buffer
			again, err := jetstream.Open(t.Context(), jetstream.Options{Dir: dir, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			defer again.Close()
			checkFunction(t, again, "a")
			if log.Len() > 0 {
				t.Errorf("the second start still warns: %s", &log)
			}
		})
	}
}

// checkFunction finds a function and ends the store.
func checkFunction(t *testing.T, store *jetstream.Store, name string) {
	t.Helper()
	if _, err := store.Function(t.Context(), name); err != nil {
		t.Error(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedArchive: whatever bytes of an archive rot, a reader gets the
// archive or an error, never other bytes.
func TestDamagedArchive(t *testing.T) {
	dir := t.TempDir()
	store := open(t, jetstream.Options{Dir: dir})
	want, err := io.ReadAll(storetest.Content(1, 2<<20))
	if err != nil {
		t.Fatal(err)
	}
	digest, _, err := store.PutArchive(t.Context(), bytes.NewReader(want))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	failures := 0
	for at := int64(1000); at < 2<<20; at += 300_000 {
		damaged := image(t, dir)
		flip(t, lastBlock(t, damaged, "OBJ_kiln-archives"), at)
		store := openQuietly(t, damaged)
		r, err := store.Archive(t.Context(), digest)
		if err == nil {
			var got []byte
			got, err = io.ReadAll(r)
			if err == nil && !bytes.Equal(got, want) {
				t.Errorf("byte %d: the archive came back changed", at)
			}
		}
		if err != nil {
			failures++
			if !errors.Is(err, orchestrator.ErrUnavailable) && !errors.Is(err, orchestrator.ErrNotFound) {
				t.Errorf("byte %d: error %v has no class", at, err)
			}
		}
		store.Close()
	}
	if failures == 0 {
		t.Error("no damage was noticed")
	}
}

func flip(t *testing.T, path string, at int64) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var b [1]byte
	if _, err := file.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0xff
	if _, err := file.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

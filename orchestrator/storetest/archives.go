package storetest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Content returns a reader of size bytes that look random and are the same for
// the same seed, made as they are read.
func Content(seed uint64, size int64) io.Reader {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	return io.LimitReader(rand.NewChaCha8(key), size)
}

func content(seed uint64, size int64) []byte {
	data, err := io.ReadAll(Content(seed, size))
	if err != nil {
		panic(err) // of a generator
	}
	return data
}

func putArchive(t *testing.T, s orchestrator.Store, data []byte) string {
	t.Helper()
	digest, size, err := s.PutArchive(t.Context(), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if want := digestOf(data); digest != want || size != int64(len(data)) {
		t.Fatalf("PutArchive = %s, %d, want %s, %d", digest, size, want, len(data))
	}
	return digest
}

func readArchive(t *testing.T, s orchestrator.Store, digest string) []byte {
	t.Helper()
	r, err := s.Archive(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func wantArchives(t *testing.T, s orchestrator.Store, digests ...string) {
	t.Helper()
	got, err := s.Archives(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	slices.Sort(digests)
	if !slices.Equal(got, digests) {
		t.Errorf("Archives = %q, want %q", got, digests)
	}
}

func archiveIsKeptAsWritten(t *testing.T, s orchestrator.Store) {
	data := content(1, 3<<20+17)
	// A reader that yields little at a time, as a network does.
	digest, size, err := s.PutArchive(t.Context(), iotest.HalfReader(bytes.NewReader(data)))
	if err != nil {
		t.Fatal(err)
	}
	if want := digestOf(data); digest != want || size != int64(len(data)) {
		t.Fatalf("PutArchive = %s, %d, want %s, %d", digest, size, want, len(data))
	}
	r, err := s.Archive(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := iotest.TestReader(r, data); err != nil {
		t.Error(err)
	}
	wantArchives(t, s, digest)
}

func archiveOfManySizes(t *testing.T, s orchestrator.Store) {
	var digests []string
	for i, size := range []int64{0, 1, 510<<10 - 1, 510 << 10, 510<<10 + 1, 1 << 20, 2 * 510 << 10} {
		data := content(uint64(i), size)
		digests = append(digests, putArchive(t, s, data))
		if got := readArchive(t, s, digests[i]); !bytes.Equal(got, data) {
			t.Errorf("archive of %d bytes came back with %d, or changed", size, len(got))
		}
	}
	wantArchives(t, s, digests...)
}

func sameArchiveIsKeptOnce(t *testing.T, s orchestrator.Store) {
	for _, size := range []int64{10, 2 << 20} {
		data := content(1, size)
		digest := putArchive(t, s, data)
		if again := putArchive(t, s, data); again != digest {
			t.Errorf("the second time the digest was %s, want %s", again, digest)
		}
		if got := readArchive(t, s, digest); !bytes.Equal(got, data) {
			t.Error("the archive changed when it was stored again")
		}
	}
	wantArchives(t, s, digestOf(content(1, 10)), digestOf(content(1, 2<<20)))
}

func sameArchiveAtTheSameTime(t *testing.T, s orchestrator.Store) {
	data := content(1, 2<<20)
	for _, err := range race(func(int) error {
		_, _, err := s.PutArchive(t.Context(), bytes.NewReader(data))
		return err
	}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	wantArchives(t, s, digestOf(data))
	if got := readArchive(t, s, digestOf(data)); !bytes.Equal(got, data) {
		t.Error("the archive came back changed")
	}
}

func tornUploadLeavesNothing(t *testing.T, s orchestrator.Store) {
	torn := errors.New("connection reset by peer")
	for _, n := range []int{0, 100, 3 << 20} {
		digest, _, err := s.PutArchive(t.Context(), &errReader{n: n, err: torn})
		wantClass(t, "torn upload", err, orchestrator.ErrInvalid)
		wantClass(t, "torn upload", err, torn)
		if digest != "" {
			t.Errorf("a torn upload has the digest %s", digest)
		}
	}
	wantArchives(t, s)
	_, err := s.Archive(t.Context(), digestOf(make([]byte, 3<<20)))
	wantClass(t, "Archive of a torn upload", err, orchestrator.ErrNotFound)
}

func readersErrorKeepsItsClass(t *testing.T, s orchestrator.Store) {
	want := orchestrator.Errorf(orchestrator.ErrTooLarge, "archive-too-large", "the archive is over the limit")
	_, _, err := s.PutArchive(t.Context(), &errReader{n: 2 << 20, err: want})
	if got := (*orchestrator.Error)(nil); !errors.As(err, &got) || got.Code != want.Code {
		t.Errorf("PutArchive: error %v, want %v", err, want)
	}
}

func deletedArchiveIsGone(t *testing.T, s orchestrator.Store) {
	gone, stays := content(1, 2<<20), content(2, 1000)
	digest := putArchive(t, s, gone)
	kept := putArchive(t, s, stays)
	for range 2 { // absent is no error
		if err := s.DeleteArchive(t.Context(), digest); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.Archive(t.Context(), digest)
	wantClass(t, "Archive after delete", err, orchestrator.ErrNotFound)
	wantArchives(t, s, kept)

	putArchive(t, s, gone)
	if got := readArchive(t, s, digest); !bytes.Equal(got, gone) {
		t.Error("an archive stored again after its deletion came back changed")
	}
	wantArchives(t, s, kept, digest)
}

func archiveReadersAreIndependent(t *testing.T, s orchestrator.Store) {
	data := content(1, 2<<20)
	digest := putArchive(t, s, data)
	abandoned, err := s.Archive(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, abandoned, 1000); err != nil {
		t.Fatal(err)
	}
	for _, err := range race(func(int) error {
		r, err := s.Archive(t.Context(), digest)
		if err != nil {
			return err
		}
		hash := sha256.New()
		if _, err := io.Copy(hash, r); err != nil {
			return err
		}
		if got := "sha256:" + hex.EncodeToString(hash.Sum(nil)); got != digest {
			return errors.New("read " + got)
		}
		return r.Close()
	}) {
		if err != nil {
			t.Error(err)
		}
	}
	if err := abandoned.Close(); err != nil {
		t.Error(err)
	}
	if _, err := abandoned.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("read of a closed archive: error %v, want one", err)
	}
	if diff := cmp.Diff(len(data), len(readArchive(t, s, digest))); diff != "" {
		t.Error(diff)
	}
}

// Package storetest is the conformance suite of orchestrator.Store, and a Store
// in memory for the tests of what uses one.
package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Run checks a Store against its contract. open returns an empty Store for
// each call; what it needs to be cleaned up it registers with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) orchestrator.Store) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, orchestrator.Store)
	}{
		{"FunctionIsKeptAsWritten", functionIsKeptAsWritten},
		{"FunctionsAreSorted", functionsAreSorted},
		{"AbsentIsNotFound", absentIsNotFound},
		{"StrangeNamesNameNothing", strangeNamesNameNothing},
		{"CreateWhatExistsConflicts", createWhatExistsConflicts},
		{"WriteOfAnOldVersionConflicts", writeOfAnOldVersionConflicts},
		{"DeleteComparesVersions", deleteComparesVersions},
		{"VersionsAreNotUsedAgain", versionsAreNotUsedAgain},
		{"OneOfManyCreatesWins", oneOfManyCreatesWins},
		{"OneOfManyUpdatesWins", oneOfManyUpdatesWins},
		{"CountingUnderContentionLosesNothing", countingUnderContention},
		{"ValuesAreNotShared", valuesAreNotShared},
		{"RevisionsAreNewestFirst", revisionsAreNewestFirst},
		{"RevisionsOfOtherFunctionsStayApart", revisionsStayApart},
		{"DeleteRevision", deleteRevision},
		{"ArchiveIsKeptAsWritten", archiveIsKeptAsWritten},
		{"ArchiveOfManySizes", archiveOfManySizes},
		{"SameArchiveIsKeptOnce", sameArchiveIsKeptOnce},
		{"SameArchiveAtTheSameTime", sameArchiveAtTheSameTime},
		{"TornUploadLeavesNothing", tornUploadLeavesNothing},
		{"ReadersErrorKeepsItsClass", readersErrorKeepsItsClass},
		{"DeletedArchiveIsGone", deletedArchiveIsGone},
		{"ArchiveReadersAreIndependent", archiveReadersAreIndependent},
		{"OwnerIsKept", ownerIsKept},
		{"CancelledCallsReturn", cancelledCallsReturn},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

// writers is how many goroutines race; enough to collide on two cores.
const writers = 16

// Function returns a function with every field set, for tests to store.
func Function(name string) orchestrator.Function {
	created := time.Date(2026, 3, 1, 12, 30, 15, 123456789, time.UTC)
	return orchestrator.Function{
		Name: name, Spec: spec(name), Live: "r2-abcdef", Revision: 3,
		CreatedAt: created, UpdatedAt: created.Add(time.Hour),
	}
}

// Revision returns a revision with every field set, for tests to store.
func Revision(function string, number int) orchestrator.Revision {
	created := time.Date(2026, 3, 1, 12, 30, 15, 123456789, time.UTC)
	id := fmt.Sprintf("r%d-%06x", number, number)
	return orchestrator.Revision{
		ID: id, Function: function, Number: number, Spec: spec(function),
		ArchiveDigest: digestOf([]byte(id)), TemplateDigest: digestOf([]byte("t")), BuildDigest: digestOf([]byte("b" + id)),
		Image: "kiln/" + function + ":" + id, ImageID: "sha256:1234",
		Status: orchestrator.RevisionReady, Error: "none",
		CreatedAt: created, ReadyAt: created.Add(3 * time.Second),
	}
}

func spec(name string) orchestrator.Spec {
	s := orchestrator.DefaultSpec()
	s.Name, s.Template, s.Handler = name, "python", "main.py"
	s.Env = map[string]string{"A": "1", "Ü": "ß\n"}
	s.Secrets = []string{"token"}
	s.Scale.Min = 1
	s.Triggers = []orchestrator.Trigger{TriggerState(name, "nightly").Trigger}
	s.Build = orchestrator.Build{Packages: []string{"curl"}, Args: map[string]string{"X": "y"}, Test: true}
	return s
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func create(t *testing.T, s orchestrator.Store, f orchestrator.Function) orchestrator.Function {
	t.Helper()
	got, err := s.PutFunction(t.Context(), f)
	if err != nil {
		t.Fatalf("PutFunction(%s): %v", f.Name, err)
	}
	return got
}

func wantClass(t *testing.T, what string, err, class error) {
	t.Helper()
	if !errors.Is(err, class) {
		t.Errorf("%s: error %v, want the class %q", what, err, class)
	}
}

func functionIsKeptAsWritten(t *testing.T, s orchestrator.Store) {
	want := Function("resize")
	put := create(t, s, want)
	if put.Version == 0 {
		t.Error("PutFunction returned version 0")
	}
	want.Version = put.Version
	if diff := cmp.Diff(want, put); diff != "" {
		t.Errorf("PutFunction (-want +got):\n%s", diff)
	}
	got, err := s.Function(t.Context(), "resize")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Function (-want +got):\n%s", diff)
	}
	got.Live = "r4-000000"
	put, err = s.PutFunction(t.Context(), got)
	if err != nil {
		t.Fatal(err)
	}
	if put.Version == got.Version {
		t.Error("a write left the version as it was")
	}
	again, err := s.Function(t.Context(), "resize")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(put, again); diff != "" {
		t.Errorf("Function after an update (-want +got):\n%s", diff)
	}
}

func functionsAreSorted(t *testing.T, s orchestrator.Store) {
	if got, err := s.Functions(t.Context()); err != nil || len(got) != 0 {
		t.Fatalf("Functions of an empty store = %v, %v", got, err)
	}
	for _, name := range []string{"mid", "z", "a-b", "a", "gone"} {
		create(t, s, Function(name))
	}
	mid, err := s.Function(t.Context(), "mid")
	if err != nil {
		t.Fatal(err)
	}
	mid.Live = "r9-ffffff"
	create(t, s, mid)
	gone, err := s.Function(t.Context(), "gone")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteFunction(t.Context(), "gone", gone.Version); err != nil {
		t.Fatal(err)
	}
	all, err := s.Functions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range all {
		names = append(names, f.Name)
		one, err := s.Function(t.Context(), f.Name)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(one, f); diff != "" {
			t.Errorf("Functions and Function differ (-one +list):\n%s", diff)
		}
	}
	if diff := cmp.Diff([]string{"a", "a-b", "mid", "z"}, names); diff != "" {
		t.Errorf("Functions (-want +got):\n%s", diff)
	}
}

func absentIsNotFound(t *testing.T, s orchestrator.Store) {
	ctx := t.Context()
	_, err := s.Function(ctx, "absent")
	wantClass(t, "Function", err, orchestrator.ErrNotFound)
	wantClass(t, "DeleteFunction", s.DeleteFunction(ctx, "absent", 1), orchestrator.ErrNotFound)
	_, err = s.Revision(ctx, "absent", "r1-000001")
	wantClass(t, "Revision", err, orchestrator.ErrNotFound)
	_, err = s.Archive(ctx, digestOf(nil))
	wantClass(t, "Archive", err, orchestrator.ErrNotFound)
	if got, err := s.Revisions(ctx, "absent"); err != nil || len(got) != 0 {
		t.Errorf("Revisions of an unknown function = %v, %v", got, err)
	}
	if got, err := s.AllRevisions(ctx); err != nil || len(got) != 0 {
		t.Errorf("AllRevisions of an empty store = %v, %v", got, err)
	}
	if got, err := s.Archives(ctx); err != nil || len(got) != 0 {
		t.Errorf("Archives of an empty store = %v, %v", got, err)
	}
	if err := s.DeleteRevision(ctx, "absent", "r1-000001"); err != nil {
		t.Errorf("DeleteRevision of an absent one: %v", err)
	}
	if err := s.DeleteArchive(ctx, digestOf(nil)); err != nil {
		t.Errorf("DeleteArchive of an absent one: %v", err)
	}
	update := Function("absent")
	update.Version = 7
	_, err = s.PutFunction(ctx, update)
	wantClass(t, "PutFunction with a version nobody gave", err, orchestrator.ErrConflict)
}

// strangeNamesNameNothing: names come from URLs, and a wildcard or a separator
// must not reach what it does not name; 5000 bytes are over a line of NATS.
func strangeNamesNameNothing(t *testing.T, s orchestrator.Store) {
	ctx := t.Context()
	create(t, s, Function("a"))
	if err := s.PutRevision(ctx, Revision("a", 1)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "*", ">", "a.>", "a b", "../a", "a/", "a.b", "\x00", strings.Repeat("a", 5000)} {
		_, err := s.Function(ctx, name)
		wantClass(t, fmt.Sprintf("Function(%.10q)", name), err, orchestrator.ErrNotFound)
		wantClass(t, fmt.Sprintf("DeleteFunction(%.10q)", name), s.DeleteFunction(ctx, name, 1), orchestrator.ErrNotFound)
		_, err = s.Revision(ctx, "a", name)
		wantClass(t, fmt.Sprintf("Revision(%.10q)", name), err, orchestrator.ErrNotFound)
		if got, err := s.Revisions(ctx, name); err != nil || len(got) != 0 {
			t.Errorf("Revisions(%.10q) = %v, %v, want none", name, got, err)
		}
		if err := s.DeleteRevision(ctx, "a", name); err != nil {
			t.Errorf("DeleteRevision(%.10q): %v", name, err)
		}
		_, err = s.Archive(ctx, name)
		wantClass(t, fmt.Sprintf("Archive(%.10q)", name), err, orchestrator.ErrNotFound)
		if err := s.DeleteArchive(ctx, name); err != nil {
			t.Errorf("DeleteArchive(%.10q): %v", name, err)
		}
	}
	if got, err := s.AllRevisions(ctx); err != nil || len(got) != 1 {
		t.Errorf("AllRevisions = %v, %v, want the one", got, err)
	}
}

func createWhatExistsConflicts(t *testing.T, s orchestrator.Store) {
	first := create(t, s, Function("a"))
	_, err := s.PutFunction(t.Context(), Function("a"))
	wantClass(t, "second create", err, orchestrator.ErrConflict)
	got, err := s.Function(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, got); diff != "" {
		t.Errorf("the refused write changed the function (-want +got):\n%s", diff)
	}
}

func writeOfAnOldVersionConflicts(t *testing.T, s orchestrator.Store) {
	old := create(t, s, Function("a"))
	current := create(t, s, old)
	_, err := s.PutFunction(t.Context(), old)
	wantClass(t, "write of an old version", err, orchestrator.ErrConflict)
	if _, err := s.PutFunction(t.Context(), current); err != nil {
		t.Errorf("write of the current version: %v", err)
	}
}

func deleteComparesVersions(t *testing.T, s orchestrator.Store) {
	ctx := t.Context()
	old := create(t, s, Function("a"))
	current := create(t, s, old)
	wantClass(t, "delete of an old version", s.DeleteFunction(ctx, "a", old.Version), orchestrator.ErrConflict)
	wantClass(t, "delete of version 0", s.DeleteFunction(ctx, "a", 0), orchestrator.ErrConflict)
	if _, err := s.Function(ctx, "a"); err != nil {
		t.Fatalf("after refused deletes: %v", err)
	}
	if err := s.DeleteFunction(ctx, "a", current.Version); err != nil {
		t.Fatal(err)
	}
	_, err := s.Function(ctx, "a")
	wantClass(t, "Function after delete", err, orchestrator.ErrNotFound)
	wantClass(t, "second delete", s.DeleteFunction(ctx, "a", current.Version), orchestrator.ErrNotFound)
	_, err = s.PutFunction(ctx, current)
	wantClass(t, "write of a deleted version", err, orchestrator.ErrConflict)
}

// versionsAreNotUsedAgain: otherwise who read the function before it was
// deleted could overwrite its successor.
func versionsAreNotUsedAgain(t *testing.T, s orchestrator.Store) {
	first := create(t, s, Function("a"))
	if err := s.DeleteFunction(t.Context(), "a", first.Version); err != nil {
		t.Fatal(err)
	}
	second := create(t, s, Function("a"))
	if second.Version == first.Version {
		t.Fatalf("both have version %d", first.Version)
	}
	_, err := s.PutFunction(t.Context(), first)
	wantClass(t, "write with the version of the one before", err, orchestrator.ErrConflict)
}

// race runs f in many goroutines at once and returns their errors.
func race(f func(i int) error) []error {
	errs := make([]error, writers)
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range writers {
		wg.Go(func() {
			<-start
			errs[i] = f(i)
		})
	}
	close(start)
	wg.Wait()
	return errs
}

// wantOneWinner checks that one error is nil and all others are conflicts.
func wantOneWinner(t *testing.T, errs []error) (winner int) {
	t.Helper()
	won := 0
	for i, err := range errs {
		if err == nil {
			won++
			winner = i
			continue
		}
		wantClass(t, "loser", err, orchestrator.ErrConflict)
	}
	if won != 1 {
		t.Fatalf("%d of %d won, want 1", won, len(errs))
	}
	return winner
}

func oneOfManyCreatesWins(t *testing.T, s orchestrator.Store) {
	for round := range 3 {
		name := fmt.Sprintf("f%d", round)
		winner := wantOneWinner(t, race(func(i int) error {
			f := Function(name)
			f.Revision = i
			_, err := s.PutFunction(t.Context(), f)
			return err
		}))
		got, err := s.Function(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if got.Revision != winner {
			t.Errorf("stored is the write of %d, want that of the winner %d", got.Revision, winner)
		}
	}
}

func oneOfManyUpdatesWins(t *testing.T, s orchestrator.Store) {
	f := create(t, s, Function("a"))
	for range 3 {
		winner := wantOneWinner(t, race(func(i int) error {
			mine := f
			mine.Revision = 100 + i
			_, err := s.PutFunction(t.Context(), mine)
			return err
		}))
		var err error
		if f, err = s.Function(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		if f.Revision != 100+winner {
			t.Errorf("stored is the write of %d, want that of the winner %d", f.Revision-100, winner)
		}
	}
}

func countingUnderContention(t *testing.T, s orchestrator.Store) {
	f := Function("counter")
	f.Revision = 0
	create(t, s, f)
	for _, err := range race(func(int) error {
		for {
			f, err := s.Function(t.Context(), "counter")
			if err != nil {
				return err
			}
			f.Revision++
			if _, err = s.PutFunction(t.Context(), f); !errors.Is(err, orchestrator.ErrConflict) {
				return err
			}
		}
	}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Function(t.Context(), "counter")
	if err != nil {
		t.Fatal(err)
	}
	if got.Revision != writers {
		t.Errorf("counted %d, want %d", got.Revision, writers)
	}
}

func valuesAreNotShared(t *testing.T, s orchestrator.Store) {
	f := Function("a")
	create(t, s, f)
	f.Spec.Env["A"] = "changed after the write"
	got, err := s.Function(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	got.Spec.Secrets[0] = "changed after the read"
	again, err := s.Function(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	want := Function("a")
	want.Version = again.Version
	if diff := cmp.Diff(want, again); diff != "" {
		t.Errorf("stored value changed with the caller's (-want +got):\n%s", diff)
	}
}

func putRevisions(t *testing.T, s orchestrator.Store, function string, numbers ...int) {
	t.Helper()
	for _, n := range numbers {
		if err := s.PutRevision(t.Context(), Revision(function, n)); err != nil {
			t.Fatal(err)
		}
	}
}

func revisionsAreNewestFirst(t *testing.T, s orchestrator.Store) {
	putRevisions(t, s, "a", 2, 11, 1, 10, 9)
	replaced := Revision("a", 9)
	replaced.Status = orchestrator.RevisionRetired
	if err := s.PutRevision(t.Context(), replaced); err != nil {
		t.Fatal(err)
	}
	got, err := s.Revisions(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	want := []orchestrator.Revision{Revision("a", 11), Revision("a", 10), replaced, Revision("a", 2), Revision("a", 1)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Revisions (-want +got):\n%s", diff)
	}
	one, err := s.Revision(t.Context(), "a", replaced.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(replaced, one); diff != "" {
		t.Errorf("Revision (-want +got):\n%s", diff)
	}
}

func revisionsStayApart(t *testing.T, s orchestrator.Store) {
	putRevisions(t, s, "a", 1)
	putRevisions(t, s, "a-b", 1, 2)
	putRevisions(t, s, "b", 1)
	got, err := s.Revisions(t.Context(), "a-b")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]orchestrator.Revision{Revision("a-b", 2), Revision("a-b", 1)}, got); diff != "" {
		t.Errorf("Revisions (-want +got):\n%s", diff)
	}
	all, err := s.AllRevisions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, r := range all {
		keys = append(keys, r.Function+" "+r.ID)
	}
	slices.Sort(keys)
	if diff := cmp.Diff([]string{"a r1-000001", "a-b r1-000001", "a-b r2-000002", "b r1-000001"}, keys); diff != "" {
		t.Errorf("AllRevisions (-want +got):\n%s", diff)
	}
}

func deleteRevision(t *testing.T, s orchestrator.Store) {
	ctx := t.Context()
	putRevisions(t, s, "a", 1, 2)
	for range 2 { // absent is no error
		if err := s.DeleteRevision(ctx, "a", Revision("a", 1).ID); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.Revision(ctx, "a", Revision("a", 1).ID)
	wantClass(t, "Revision after delete", err, orchestrator.ErrNotFound)
	got, err := s.Revisions(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]orchestrator.Revision{Revision("a", 2)}, got); diff != "" {
		t.Errorf("Revisions (-want +got):\n%s", diff)
	}
	putRevisions(t, s, "a", 1)
	if _, err := s.Revision(ctx, "a", Revision("a", 1).ID); err != nil {
		t.Errorf("Revision stored again: %v", err)
	}
}

func ownerIsKept(t *testing.T, s orchestrator.Store) {
	owners := make([]string, writers)
	for _, err := range race(func(i int) (err error) {
		owners[i], err = s.Owner(t.Context())
		return err
	}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if owners[0] == "" {
		t.Fatal("the owner is empty")
	}
	if got := slices.Compact(owners); len(got) != 1 {
		t.Errorf("owners %q, want one", got)
	}
}

func cancelledCallsReturn(t *testing.T, s orchestrator.Store) {
	f := create(t, s, Function("a"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, functionErr := s.Function(ctx, "a")
	_, functionsErr := s.Functions(ctx)
	_, putErr := s.PutFunction(ctx, f)
	_, _, archiveErr := s.PutArchive(ctx, bytes.NewReader(make([]byte, 4<<20)))
	for what, err := range map[string]error{
		"Function": functionErr, "Functions": functionsErr, "PutFunction": putErr, "PutArchive": archiveErr,
		"PutRevision":    s.PutRevision(ctx, Revision("a", 1)),
		"DeleteFunction": s.DeleteFunction(ctx, "a", f.Version),
	} {
		wantClass(t, what, err, orchestrator.ErrDeadline)
		wantClass(t, what, err, context.Canceled)
	}
	if got, err := s.Archives(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("Archives = %v, %v, want none", got, err)
	}
}

// errReader yields n bytes and then an error.
type errReader struct {
	n   int
	err error
}

func (r *errReader) Read(p []byte) (int, error) {
	if r.n == 0 {
		return 0, r.err
	}
	n := min(len(p), r.n)
	r.n -= n
	clear(p[:n])
	return n, nil
}

var _ io.Reader = (*errReader)(nil)

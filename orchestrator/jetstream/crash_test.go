package jetstream_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/jetstream"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
)

const (
	childEnv     = "KILN_TEST_STORE_CHILD" // JSON of childTask: the test binary writes instead of testing
	crashRounds  = 20
	crashWorkers = 4
	// crashWithin is the time in which a child is killed; it takes about 100 ms
	// to open the store, so that some die before their first write.
	crashWithin = 700 * time.Millisecond
)

func TestMain(m *testing.M) {
	if task := os.Getenv(childEnv); task != "" {
		if err := writeUntilKilled(task); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

type childTask struct {
	Dir   string
	Round int
}

// note is a line of a child: what a worker is about to do, and that the store
// has acknowledged it.
type note struct {
	Worker int
	Done   bool
	Op     operation
}

// operation is one write. Those of one worker concern only its own function,
// and follow each other.
type operation struct {
	Kind     string // put-function, delete-function, put-revision, delete-revision, put-archive, delete-archive
	Function string
	Number   int // of the revision, and what the function's value counts
	Seed     uint64
	Size     int64
}

// writeUntilKilled is the child: workers that write for ever, one deploy after
// another, and tell on stdout.
func writeUntilKilled(encoded string) error {
	var task childTask
	if err := json.Unmarshal([]byte(encoded), &task); err != nil {
		return err
	}
	ctx := context.Background()
	store, err := jetstream.Open(ctx, jetstream.Options{Dir: task.Dir})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	tell := func(n note) error {
		line, err := json.Marshal(n)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		_, err = os.Stdout.Write(append(line, '\n')) // one write(2): a line is whole or absent
		return err
	}
	failed := make(chan error, crashWorkers)
	for w := range crashWorkers {
		go func() {
			for i := 0; ; i++ {
				for _, op := range cycle(task.Round, w, i) {
					if err := errors.Join(tell(note{w, false, op}), apply(ctx, store, op), tell(note{w, true, op})); err != nil {
						failed <- fmt.Errorf("%+v: %w", op, err)
						return
					}
				}
			}
		}()
	}
	return <-failed
}

// cycle is a deploy as the store sees it, now and then with a removal.
func cycle(round, worker, i int) []operation {
	name := fmt.Sprintf("r%d-w%d", round, worker)
	seed := uint64(round)<<32 + uint64(worker)<<24 + uint64(i) + 1 // no two write the same
	size := int64(100 << (i % 5 * 4))                              // 100 B to 6.25 MiB
	if size > 3<<20 {
		size = 1300 << 10 // three chunks
	}
	ops := []operation{
		{Kind: "put-archive", Function: name, Number: i, Seed: seed, Size: size},
		{Kind: "put-revision", Function: name, Number: i},
		{Kind: "put-function", Function: name, Number: i},
	}
	if i%4 == 3 {
		ops = append(ops,
			operation{Kind: "delete-revision", Function: name, Number: i - 1},
			operation{Kind: "delete-archive", Function: name, Number: i, Seed: seed, Size: size},
			operation{Kind: "delete-function", Function: name, Number: i},
		)
	}
	return ops
}

func apply(ctx context.Context, store orchestrator.Store, op operation) error {
	switch op.Kind {
	case "put-archive":
		_, _, err := store.PutArchive(ctx, storetest.Content(op.Seed, op.Size))
		return err
	case "delete-archive":
		digest, err := digestOf(op)
		if err != nil {
			return err
		}
		return store.DeleteArchive(ctx, digest)
	case "put-revision":
		return store.PutRevision(ctx, storetest.Revision(op.Function, op.Number))
	case "delete-revision":
		return store.DeleteRevision(ctx, op.Function, storetest.Revision(op.Function, op.Number).ID)
	case "put-function":
		f := storetest.Function(op.Function)
		f.Revision = op.Number
		if old, err := store.Function(ctx, op.Function); err == nil {
			f.Version = old.Version
		} else if !errors.Is(err, orchestrator.ErrNotFound) {
			return err
		}
		_, err := store.PutFunction(ctx, f)
		return err
	case "delete-function":
		f, err := store.Function(ctx, op.Function)
		if err != nil {
			return err
		}
		return store.DeleteFunction(ctx, op.Function, f.Version)
	}
	return fmt.Errorf("unknown operation %q", op.Kind)
}

func digestOf(op operation) (string, error) {
	digest, _, err := storetest.NewFake().PutArchive(context.Background(), storetest.Content(op.Seed, op.Size))
	return digest, err
}

// contents is what a store holds, in a form to compare.
type contents struct {
	Functions map[string]int // by name: Function.Revision
	Revisions map[string]bool
	Archives  map[string]bool
}

func contentsOf(t *testing.T, store orchestrator.Store) contents {
	t.Helper()
	c := contents{map[string]int{}, map[string]bool{}, map[string]bool{}}
	functions, err := store.Functions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range functions {
		c.Functions[f.Name] = f.Revision
	}
	revisions, err := store.AllRevisions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range revisions {
		c.Revisions[r.Function+" "+r.ID] = true
	}
	digests, err := store.Archives(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, digest := range digests {
		c.Archives[digest] = true
	}
	return c
}

// TestAcknowledgedWritesSurviveKill kills a writing gateway at random instants
// and compares what the next one finds with what was acknowledged. An operation
// that was under way may have happened or not; nothing else may differ.
func TestAcknowledgedWritesSurviveKill(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	dir := t.TempDir()
	model := storetest.NewFake()
	acknowledged := 0
	read := map[string]bool{} // archives that were read back
	for round := range crashRounds {
		open := map[int]operation{} // by worker
		for _, n := range runChild(t, childTask{Dir: dir, Round: round}) {
			if n.Done {
				if err := apply(t.Context(), model, n.Op); err != nil {
					t.Fatalf("round %d: model: %+v: %v", round, n.Op, err)
				}
				delete(open, n.Worker)
				acknowledged++
				continue
			}
			open[n.Worker] = n.Op
		}
		checkRound(t, round, dir, model, open, read)
	}
	if acknowledged == 0 {
		t.Fatal("no child wrote anything")
	}
	t.Logf("%d acknowledged writes in %d rounds", acknowledged, crashRounds)
}

// childPatience is how long a child may take to its first note.
const childPatience = time.Minute

// runChild returns the notes of a child that was killed.
func runChild(t *testing.T, task childTask) []note {
	t.Helper()
	encoded, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childEnv+"="+string(encoded))
	child.Stderr = t.Output()
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	// Every other child is killed while it writes, however long a busy machine takes
	// to start it; the others at any instant, while they open the store, too.
	untilNote := task.Round%2 == 1
	first := rand.N(crashWithin)
	if untilNote {
		first = childPatience
	}
	killer := time.AfterFunc(first, func() { child.Process.Kill() })
	defer killer.Stop()
	var notes []note
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if untilNote && len(notes) == 0 {
			killer.Reset(rand.N(crashWithin))
		}
		var n note
		if err := json.Unmarshal(lines.Bytes(), &n); err != nil {
			t.Fatalf("child wrote %q: %v", lines.Text(), err)
		}
		notes = append(notes, n)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	child.Wait() // its error says only that it was killed
	if code := child.ProcessState.ExitCode(); code != -1 {
		t.Fatalf("the child ended by itself with %d", code)
	}
	return notes
}

func checkRound(t *testing.T, round int, dir string, model orchestrator.Store, open map[int]operation, read map[string]bool) {
	t.Helper()
	store, err := jetstream.Open(t.Context(), jetstream.Options{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatalf("round %d: open after SIGKILL: %v", round, err)
	}
	defer store.Close()
	got := contentsOf(t, store)
	// Take each open operation as done when its effect is there.
	for _, op := range open {
		if happened(t, got, op) {
			if err := apply(t.Context(), model, op); err != nil {
				t.Fatalf("round %d: open operation: %v", round, err)
			}
		}
	}
	if diff := cmp.Diff(contentsOf(t, model), got); diff != "" {
		t.Fatalf("round %d, open operations %+v (-acknowledged +found):\n%s", round, open, diff)
	}
	for digest := range got.Archives {
		if !read[digest] || round == crashRounds-1 {
			readBack(t, store, digest)
			read[digest] = true
		}
	}
	usage, err := store.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if usage.Uploads != len(got.Archives) {
		t.Errorf("round %d: %d uploads are kept for %d archives", round, usage.Uploads, len(got.Archives))
	}
}

// happened says whether the effect of an operation is in c.
func happened(t *testing.T, c contents, op operation) bool {
	t.Helper()
	revision := op.Function + " " + storetest.Revision(op.Function, op.Number).ID
	digest, err := digestOf(op)
	if err != nil {
		t.Fatal(err)
	}
	number, there := c.Functions[op.Function]
	switch op.Kind {
	case "put-archive":
		return c.Archives[digest]
	case "delete-archive":
		return !c.Archives[digest]
	case "put-revision":
		return c.Revisions[revision]
	case "delete-revision":
		return !c.Revisions[revision]
	case "put-function":
		return there && number == op.Number
	default:
		return !there
	}
}

func readBack(t *testing.T, store orchestrator.Store, digest string) {
	t.Helper()
	r, err := store.Archive(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.Copy(io.Discard, r); err != nil { // compares the digest
		t.Fatal(err)
	}
}

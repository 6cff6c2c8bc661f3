package audit_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kilnfaas/kiln/gateway/audit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func read(t *testing.T, path string) (all []audit.Record) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var r audit.Record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatalf("%s: %q: %v", path, lines.Text(), err)
		}
		all = append(all, r)
	}
	return all
}

// TestRecordsSurviveRestarts writes from many at once, closes and goes on.
func TestRecordsSurviveRestarts(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		l, err := audit.Open(dir, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		var writers sync.WaitGroup
		for range 8 {
			writers.Go(func() {
				for range 100 {
					l.Write(audit.Record{Time: time.Now(), Action: "DELETE /v1/functions/{name}", Name: "a\nb", Status: 204})
				}
			})
		}
		writers.Wait()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l.Close()
		l.Write(audit.Record{}) // after the end: nothing, and no panic
	}
	path := filepath.Join(dir, audit.FileName)
	if got := len(read(t, path)); got != 1600 {
		t.Errorf("%d records, want 1600", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v; want 0600", info.Mode(), err)
	}
}

// TestFilesAreBounded writes far more than is kept.
func TestFilesAreBounded(t *testing.T) {
	const limit = 2 << 10
	dir := t.TempDir()
	l, err := audit.OpenSmall(dir, slog.New(slog.DiscardHandler), limit)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 500 {
		l.Write(audit.Record{RequestID: fmt.Sprint(n), Action: strings.Repeat("x", 50)})
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 5 {
		t.Fatalf("files = %v, %v; want 5", files, err)
	}
	want := 500
	for _, name := range []string{"", ".1", ".2", ".3", ".4"} { // newest first, without a gap
		path := filepath.Join(dir, audit.FileName+name)
		info, err := os.Stat(path)
		if err != nil || info.Size() > limit {
			t.Errorf("%s has %d bytes, want at most %d: %v", path, info.Size(), limit, err)
		}
		records := read(t, path)
		for i := len(records) - 1; i >= 0; i-- {
			if want--; records[i].RequestID != fmt.Sprint(want) {
				t.Fatalf("%s: record %s where %d should be", path, records[i].RequestID, want)
			}
		}
	}
}

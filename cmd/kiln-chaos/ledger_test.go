package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestLedger: a change and its outcome, again and again, and what may be live
// then.
func TestLedger(t *testing.T) {
	type change struct {
		version int
		result  outcome
	}
	for _, test := range []struct {
		name    string
		changes []change
		seen    int
		lost    bool
	}{
		{"nothing was deployed", nil, gone, false},
		{"acknowledged and there", []change{{1, acknowledged}}, 1, false},
		{"acknowledged and not there", []change{{1, acknowledged}}, gone, true},
		{"an older one is back", []change{{1, acknowledged}, {2, acknowledged}}, 1, true},
		{"refused, and the old one stays", []change{{1, acknowledged}, {2, refused}}, 1, false},
		{"refused, and there all the same", []change{{1, acknowledged}, {2, refused}}, 2, true},
		{"no answer, and the old one stays", []change{{1, acknowledged}, {2, unknown}}, 1, false},
		{"no answer, and there", []change{{1, acknowledged}, {2, unknown}}, 2, false},
		{"no answer, then acknowledged", []change{{1, unknown}, {2, acknowledged}}, 1, true},
		{"removed", []change{{1, acknowledged}, {gone, acknowledged}}, gone, false},
		{"removed and back", []change{{1, acknowledged}, {gone, acknowledged}}, 1, true},
		{"removed without an answer", []change{{1, acknowledged}, {gone, unknown}}, 1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLedger()
			for _, c := range test.changes {
				l.begin("f", c.version)
				l.end("f", c.result)
			}
			if err := l.seen("f", test.seen); (err != nil) != test.lost {
				t.Errorf("got %v, want lost %v", err, test.lost)
			}
		})
	}
}

func TestLedgerSettlesOnWhatWasSeen(t *testing.T) {
	l := newLedger()
	l.begin("f", 1)
	l.end("f", acknowledged)
	l.begin("f", 2)
	l.end("f", unknown)
	if err := l.seen("f", 2); err != nil {
		t.Fatal(err)
	}
	if err := l.seen("f", 1); err == nil {
		t.Error("a version that was seen live may not be replaced by an older one")
	}
}

func TestHalfARevision(t *testing.T) {
	for body, want := range map[string]int{"code=3 data=3\n": 3, "code=3 data=2": -1, "something else": -1, "": -1} {
		got, err := versionOf([]byte(body))
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("%q: got %d (%v), want %d", body, got, err, want)
		}
	}
}

// TestJournal: calls are counted over all containers of the owner, also of those
// that were removed, and no others.
func TestJournal(t *testing.T) {
	dir := t.TempDir()
	write := func(id, owner, text string) {
		if err := os.MkdirAll(filepath.Join(dir, id), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string]string{"config.v2.json": `{"owner":"` + owner + `"}`, id + "-json.log": text} {
			if err := os.WriteFile(filepath.Join(dir, id, name), []byte(data), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("a", "us", `{"log":"call=f-1;\n"}{"log":"call=f-2;\n"}`)
	write("b", "us", `{"log":"call=f-1;\n"}{"log":"call=f-3`)
	write("c", "them", `{"log":"call=f-2;\n"}`)
	j := openJournal(dir, "us")
	defer j.close()
	j.look()
	if err := os.RemoveAll(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	got, err := j.received()
	if err != nil || len(got) != 2 || got["f-1"] != 2 || got["f-2"] != 1 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestExcuses(t *testing.T) {
	start := time.Now()
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	w := &world{excuses: []*excuse{{from: at(100), until: at(200), covers: noGateway}}}
	for _, test := range []struct {
		name        string
		from, until int
		status      int
		want        bool
	}{
		{"before", 0, 90, 0, false},
		{"into it", 0, 110, 0, true},
		{"within", 110, 120, 0, true},
		{"out of it", 190, 300, 0, true},
		{"after", 201, 300, 0, false},
		{"another kind", 110, 120, 502, false},
	} {
		f := failure{from: at(test.from), until: at(test.until), status: test.status}
		if got := w.excused(f); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

// TestTear: a file keeps all it had and gets half of its end once more.
func TestTear(t *testing.T) {
	path := filepath.Join(t.TempDir(), "1.blk")
	was := []byte("first record, second record")
	if err := os.WriteFile(path, was, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := tearFile(path, 13); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if want := append(was, "second"...); err != nil || !bytes.HasPrefix(got, was) || len(got) != len(want) {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestTableIsKept: each finding alone breaks a promise.
func TestTableIsKept(t *testing.T) {
	if !(row{allowed: 3}).kept() {
		t.Error("allowed failures break nothing")
	}
	for i, r := range []row{
		{notAllowed: []string{"a"}}, {lost: []string{"a"}}, {twice: []string{"a"}}, {left: []string{"a"}}, {violations: []string{"a"}},
	} {
		if r.kept() {
			t.Errorf("row %d breaks a promise", i)
		}
	}
}

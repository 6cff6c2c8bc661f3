package object_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/jetstream"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
	"github.com/kilnfaas/kiln/orchestrator/trigger/object"
	"github.com/kilnfaas/kiln/orchestrator/triggertest"
)

func of(settings orchestrator.Settings) orchestrator.Trigger {
	return orchestrator.Trigger{Name: "t", Type: object.Type, Settings: settings}
}

func put(b orchestrator.Buckets, bucket, key string) error {
	_, _, err := b.PutObject(context.Background(), orchestrator.Object{Bucket: bucket, Key: key, ContentType: "text/plain"}, strings.NewReader(key), nil)
	return err
}

// TestConforms with noise that the trigger does not want.
func TestConforms(t *testing.T) {
	t.Run("Fake", func(t *testing.T) {
		triggertest.Run(t, func(*testing.T) triggertest.World { return world(storetest.NewFakeBuckets()) })
	})
	t.Run("Real", func(t *testing.T) {
		triggertest.Run(t, func(t *testing.T) triggertest.World { return world(realBuckets(t)) })
	})
}

func world(b orchestrator.Buckets) triggertest.World {
	return triggertest.World{
		Source:  func() orchestrator.Source { return object.Source{Buckets: b} },
		Trigger: of(orchestrator.Settings{"bucket": "files", "prefix": "in/", "suffix": ".txt"}),
		Cause: func(n int, _ triggertest.Receive) error {
			key := fmt.Sprintf("in/%d.txt", n)
			return errors.Join(put(b, "other", key), put(b, "files", key+".part"), put(b, "files", key))
		},
		Number: func(e orchestrator.CloudEvent) (int, error) {
			return strconv.Atoi(strings.TrimSuffix(path.Base(e.Subject), ".txt"))
		},
	}
}

// realBuckets are those of a server of the test's own.
func realBuckets(t *testing.T) *jetstream.Buckets {
	t.Helper()
	server, err := jetstream.Connect(t.Context(), jetstream.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	b, err := jetstream.NewBuckets(t.Context(), server)
	if err != nil {
		t.Fatal(errors.Join(err, server.Close()))
	}
	t.Cleanup(func() {
		if err := errors.Join(b.Close(), server.Close()); err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestCheck(t *testing.T) {
	for setting, settings := range map[string]orchestrator.Settings{
		"bucket: none":   {},
		"bucket: form":   {"bucket": "A b"},
		"events: kind":   {"bucket": "a", "events": []any{"changed"}},
		"events: none":   {"bucket": "a", "events": []any{}},
		"events: text":   {"bucket": "a", "events": "created"},
		"prefix: long":   {"bucket": "a", "prefix": strings.Repeat("x", 513)},
		"suffix: number": {"bucket": "a", "suffix": 1.0},
	} {
		err := object.Source{}.Check(of(settings))
		place, ok := errors.AsType[*orchestrator.SettingError](err)
		if name, _, _ := strings.Cut(setting, ":"); !ok || place.Setting != name || place.Cause.Hint == "" {
			t.Errorf("%s: %v, want an error of it", setting, err)
		}
	}
	for _, events := range [][]any{nil, {"created"}, {"deleted"}, {"created", "deleted"}} {
		settings := orchestrator.Settings{"bucket": "a"}
		if events != nil {
			settings["events"] = events
		}
		if err := (object.Source{}).Check(of(settings)); err != nil {
			t.Errorf("%v: %v", events, err)
		}
	}
}

// feed takes what is delivered, until it has enough.
type feed struct {
	orchestrator.Feed
	start  []byte
	most   int
	end    context.CancelFunc
	events []orchestrator.CloudEvent
	last   []byte
}

func (f *feed) Position() []byte             { return f.start }
func (f *feed) Ready()                       {}
func (f *feed) Report(orchestrator.Progress) {}
func (f *feed) Deliver(_ context.Context, position []byte, events ...orchestrator.CloudEvent) error {
	f.events, f.last = append(f.events, events...), position
	if len(f.events) >= f.most {
		f.end()
	}
	return nil
}

// TestEvents: what they tell, for each choice of kinds.
func TestEvents(t *testing.T) {
	b := storetest.NewFakeBuckets()
	for _, key := range []string{"before", "a", "b"} {
		if err := put(b, "files", key); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.DeleteObject(t.Context(), "files", "a", nil); err != nil {
		t.Fatal(err)
	}
	start := []byte(`{"bucket":"files","done":1}`)
	for kinds, want := range map[string][]string{
		"created":         {"dev.kiln.object.created b 3 /buckets/files"},
		"deleted":         {"dev.kiln.object.deleted a 4 /buckets/files"},
		"created deleted": {"dev.kiln.object.created b 3 /buckets/files", "dev.kiln.object.deleted a 4 /buckets/files"},
	} {
		var list []any
		for kind := range strings.FieldsSeq(kinds) {
			list = append(list, kind)
		}
		ctx, cancel := context.WithCancel(t.Context())
		f := &feed{start: start, most: len(want), end: cancel}
		if err := (object.Source{Buckets: b}).Run(ctx, of(orchestrator.Settings{"bucket": "files", "events": list}), f); err != nil {
			t.Error(err)
		}
		var got []string
		for _, e := range f.events {
			got = append(got, e.Type+" "+e.Subject+" "+e.ID+" "+e.Source)
			var o orchestrator.Object
			if err := json.Unmarshal(e.Data, &o); err != nil || o.Bucket != "files" || o.Key != e.Subject || o.Size != 1 || o.ETag == "" || o.ContentType != "text/plain" {
				t.Errorf("data %s, %v", e.Data, err)
			}
			if err := e.Validate(); err != nil {
				t.Error(err)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", kinds, diff)
		}
	}
}

// TestOtherBucketBeginsNow: the position of one bucket means nothing in another.
func TestOtherBucketBeginsNow(t *testing.T) {
	b := storetest.NewFakeBuckets()
	if err := put(b, "files", "a"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	f := &feed{start: []byte(`{"bucket":"other","done":0}`), end: cancel}
	if err := (object.Source{Buckets: b}).Run(ctx, of(orchestrator.Settings{"bucket": "files"}), f); err != nil {
		t.Fatal(err)
	}
	if len(f.events) != 0 || string(f.last) != `{"bucket":"files","done":1}` {
		t.Errorf("%d events, position %s, want it to begin behind what is there", len(f.events), f.last)
	}
}

package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
)

// RunBuckets checks an orchestrator.Buckets against its contract. open returns an
// empty one for each call.
func RunBuckets(t *testing.T, open func(t *testing.T) orchestrator.Buckets) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, orchestrator.Buckets)
	}{
		{"ObjectIsKeptAsWritten", objectIsKeptAsWritten},
		{"AnyPartIsRead", anyPartIsRead},
		{"StrangeNamesAreRefused", strangeNamesAreRefused},
		{"AbsentObjectIsNotFound", absentObjectIsNotFound},
		{"ReplacedObjectIsReadOn", replacedObjectIsReadOn},
		{"TornObjectLeavesNothing", tornObjectLeavesNothing},
		{"ChecksDecide", checksDecide},
		{"CreatedOnceAtTheSameTime", createdOnce},
		{"ListsAreSortedPages", listsAreSortedPages},
		{"ChangesAreToldInOrder", changesAreTold},
		{"ChangesAreWaitedFor", changesAreWaitedFor},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

func putObject(t *testing.T, b orchestrator.Buckets, bucket, key, content string) orchestrator.Object {
	t.Helper()
	o, _, err := b.PutObject(t.Context(), orchestrator.Object{Bucket: bucket, Key: key, ContentType: "text/plain"}, strings.NewReader(content), nil)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// striped returns size bytes that are made fast and differ from chunk to chunk.
func striped(size int) []byte { return bytes.Repeat([]byte("0123456789abcdefg"), size/17+1)[:size] }

func readObject(t *testing.T, b orchestrator.Buckets, bucket, key string) string {
	t.Helper()
	r, err := b.OpenObject(t.Context(), bucket, key)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func objectIsKeptAsWritten(t *testing.T, b orchestrator.Buckets) {
	for _, size := range []int64{0, 1, 510 << 10, 510<<10 + 1, 3<<20 + 17} {
		data := striped(int(size))
		key := fmt.Sprintf("ordner/größe %d.bin", size)
		want := orchestrator.Object{Bucket: "files", Key: key, Size: size, ETag: strings.TrimPrefix(digestOf(data), "sha256:"), ContentType: "image/x-test; a=b"}
		got, created, err := b.PutObject(t.Context(), orchestrator.Object{Bucket: "files", Key: key, ContentType: want.ContentType}, iotest.HalfReader(bytes.NewReader(data)), nil)
		if err != nil || !created {
			t.Fatalf("PutObject: created %v, %v", created, err)
		}
		if since := time.Since(got.ModifiedAt); since < -time.Second || since > time.Minute {
			t.Errorf("modified %v ago", since)
		}
		want.ModifiedAt = got.ModifiedAt
		described, err := b.Object(t.Context(), "files", key)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range []orchestrator.Object{got, described} {
			if diff := cmp.Diff(want, o); diff != "" {
				t.Errorf("object (-want +got):\n%s", diff)
			}
		}
		if read := readObject(t, b, "files", key); read != string(data) {
			t.Errorf("%d bytes came back as %d, or changed", size, len(read))
		}
	}
}

func anyPartIsRead(t *testing.T, b orchestrator.Buckets) {
	data := striped(20<<20 + 5) // 41 chunks
	putObject(t, b, "files", "a", string(data))
	r, err := b.OpenObject(t.Context(), "files", "a")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	const chunk = 510 << 10
	for _, at := range []int64{0, 5, chunk - 1, 20 * chunk, 19*chunk + 1, 16 * chunk, 40 * chunk, 3 * chunk, int64(len(data)) - 1, int64(len(data)), int64(len(data)) + 9} {
		if got, err := r.Seek(at, io.SeekStart); got != at || err != nil {
			t.Fatalf("Seek(%d) = %d, %v", at, got, err)
		}
		want := data[min(at, int64(len(data))):min(at+chunk+1, int64(len(data)))]
		got, err := io.ReadAll(io.LimitReader(r, chunk+1))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("at %d: %d bytes, %v, want %d, or others", at, len(got), err, len(want))
		}
	}
	if end, err := r.Seek(-2, io.SeekEnd); end != int64(len(data))-2 || err != nil {
		t.Errorf("Seek from the end = %d, %v", end, err)
	}
	if at, err := r.Seek(1, io.SeekCurrent); at != int64(len(data))-1 || err != nil {
		t.Errorf("Seek from here = %d, %v", at, err)
	}
	if _, err := r.Seek(-1, io.SeekStart); err == nil {
		t.Error("Seek before the beginning is no error")
	}
}

func strangeNamesAreRefused(t *testing.T, b orchestrator.Buckets) {
	for _, name := range [][2]string{
		{"", "a"}, {"A", "a"}, {"a.b", "a"}, {"*", "a"}, {">", "a"}, {"a/b", "a"},
		{"a", ""}, {"a", "/a"}, {"a", "a/"}, {"a", "a//b"}, {"a", "../b"}, {"a", "a/./b"}, {"a", "a\x00"}, {"a", "a\n"}, {"a", "\xff"}, {"a", strings.Repeat("x", 513)},
	} {
		_, _, err := b.PutObject(t.Context(), orchestrator.Object{Bucket: name[0], Key: name[1], ContentType: "text/plain"}, strings.NewReader("x"), nil)
		wantClass(t, fmt.Sprintf("PutObject %q", name), err, orchestrator.ErrInvalid)
		_, err = b.OpenObject(t.Context(), name[0], name[1])
		wantClass(t, fmt.Sprintf("OpenObject %q", name), err, orchestrator.ErrInvalid)
		wantClass(t, fmt.Sprintf("DeleteObject %q", name), b.DeleteObject(t.Context(), name[0], name[1], nil), orchestrator.ErrInvalid)
	}
	_, _, err := b.PutObject(t.Context(), orchestrator.Object{Bucket: "a", Key: "a", ContentType: "nonsense\r\n"}, strings.NewReader("x"), nil)
	wantClass(t, "a content type", err, orchestrator.ErrInvalid)
	for _, key := range []string{"*", ">", "a b", "a.b", "..a", strings.Repeat("x", 512), "a/b/c"} {
		putObject(t, b, "a", key, key)
		if got := readObject(t, b, "a", key); got != key {
			t.Errorf("%q holds %q", key, got)
		}
	}
}

func absentObjectIsNotFound(t *testing.T, b orchestrator.Buckets) {
	putObject(t, b, "files", "a/b", "x")
	for _, name := range [][2]string{{"files", "a"}, {"files", "b"}, {"other", "a/b"}, {"files", "a/b/c"}} {
		_, err := b.Object(t.Context(), name[0], name[1])
		wantClass(t, "Object", err, orchestrator.ErrNotFound)
		_, err = b.OpenObject(t.Context(), name[0], name[1])
		wantClass(t, "OpenObject", err, orchestrator.ErrNotFound)
		wantClass(t, "DeleteObject", b.DeleteObject(t.Context(), name[0], name[1], nil), orchestrator.ErrNotFound)
	}
	if err := b.DeleteObject(t.Context(), "files", "a/b", nil); err != nil {
		t.Fatal(err)
	}
	_, err := b.Object(t.Context(), "files", "a/b")
	wantClass(t, "after DeleteObject", err, orchestrator.ErrNotFound)
	putObject(t, b, "files", "a/b", "again")
	if got := readObject(t, b, "files", "a/b"); got != "again" {
		t.Errorf("written again it holds %q", got)
	}
}

func replacedObjectIsReadOn(t *testing.T, b orchestrator.Buckets) {
	old := string(striped(2 << 20))
	putObject(t, b, "files", "a", old)
	first, err := b.OpenObject(t.Context(), "files", "a")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	head := make([]byte, 10)
	if _, err := io.ReadFull(first, head); err != nil {
		t.Fatal(err)
	}
	o, created, err := b.PutObject(t.Context(), orchestrator.Object{Bucket: "files", Key: "a", ContentType: "text/html"}, strings.NewReader("new"), nil)
	if err != nil || created || o.ContentType != "text/html" {
		t.Fatalf("PutObject = %+v, created %v, %v", o, created, err)
	}
	if got := readObject(t, b, "files", "a"); got != "new" {
		t.Errorf("the object holds %.20q, want new", got)
	}
	second, err := b.OpenObject(t.Context(), "files", "a")
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := b.DeleteObject(t.Context(), "files", "a", nil); err != nil {
		t.Fatal(err)
	}
	for reader, want := range map[orchestrator.ObjectReader]string{first: old[10:], second: "new"} {
		if got, err := io.ReadAll(reader); err != nil || string(got) != want {
			t.Errorf("who opened it before reads %d bytes, %v, want %d as they were", len(got), err, len(want))
		}
	}
	first.Close()
	if _, err := first.Read(head); err == nil {
		if _, fake := first.(fakeReader); !fake {
			t.Error("a closed reader reads")
		}
	}
}

func tornObjectLeavesNothing(t *testing.T, b orchestrator.Buckets) {
	torn := errors.New("connection reset by peer")
	putObject(t, b, "files", "a", "old")
	for _, n := range []int{0, 100, 3 << 20} {
		_, _, err := b.PutObject(t.Context(), orchestrator.Object{Bucket: "files", Key: "a", ContentType: "text/plain"}, &errReader{n: n, err: torn}, nil)
		wantClass(t, "torn upload", err, orchestrator.ErrInvalid)
		wantClass(t, "torn upload", err, torn)
	}
	if got := readObject(t, b, "files", "a"); got != "old" {
		t.Errorf("the object holds %.20q, want what it did", got)
	}
}

func checksDecide(t *testing.T, b orchestrator.Buckets) {
	no := orchestrator.Errorf(orchestrator.ErrConflict, "no", "no")
	absent := func(o *orchestrator.Object) error {
		if o != nil {
			return no
		}
		return nil
	}
	put := func(content string, may orchestrator.ObjectCheck) error {
		_, _, err := b.PutObject(t.Context(), orchestrator.Object{Bucket: "files", Key: "a", ContentType: "text/plain"}, strings.NewReader(content), may)
		return err
	}
	if err := put("one", absent); err != nil {
		t.Fatal(err)
	}
	wantClass(t, "PutObject", put("two", absent), no)
	etag := ""
	if err := put("three", func(o *orchestrator.Object) error { etag = o.ETag; return nil }); err != nil || etag != strings.TrimPrefix(digestOf([]byte("one")), "sha256:") {
		t.Errorf("the check saw %q, %v, want what was there", etag, err)
	}
	wantClass(t, "DeleteObject", b.DeleteObject(t.Context(), "files", "a", absent), no)
	if got := readObject(t, b, "files", "a"); got != "three" {
		t.Errorf("the object holds %q", got)
	}
}

// createdOnce: checks are asked for what is there at last.
func createdOnce(t *testing.T, b orchestrator.Buckets) {
	absent := func(o *orchestrator.Object) error {
		if o != nil {
			return orchestrator.Errorf(orchestrator.ErrConflict, "there", "it is there")
		}
		return nil
	}
	winner := wantOneWinner(t, race(func(i int) error {
		_, _, err := b.PutObject(t.Context(), orchestrator.Object{Bucket: "files", Key: "a", ContentType: "text/plain"}, bytes.NewReader(content(uint64(i), 1000)), absent)
		return err
	}))
	if got := readObject(t, b, "files", "a"); got != string(content(uint64(winner), 1000)) {
		t.Error("it is not what the winner wrote")
	}
	for _, err := range race(func(i int) error {
		_, _, err := b.PutObject(t.Context(), orchestrator.Object{Bucket: "files", Key: "b", ContentType: "text/plain"}, bytes.NewReader(content(uint64(i), 1000)), nil)
		return err
	}) {
		if err != nil {
			t.Error(err)
		}
	}
	readObject(t, b, "files", "b")
}

func listsAreSortedPages(t *testing.T, b orchestrator.Buckets) {
	for _, key := range []string{"b", "a/1", "a/2", "a.txt", "a/1/x", "ä", "gone"} {
		putObject(t, b, "files", key, key)
	}
	putObject(t, b, "other", "a/3", "x")
	putObject(t, b, "empty", "a", "x")
	for _, name := range [][2]string{{"files", "gone"}, {"empty", "a"}} {
		if err := b.DeleteObject(t.Context(), name[0], name[1], nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		filter orchestrator.ObjectFilter
		want   string
		more   bool
	}{
		{orchestrator.ObjectFilter{Limit: 1000}, "a.txt a/1 a/1/x a/2 b ä", false},
		{orchestrator.ObjectFilter{Limit: 2}, "a.txt a/1", true},
		{orchestrator.ObjectFilter{Limit: 2, After: "a/1"}, "a/1/x a/2", true},
		{orchestrator.ObjectFilter{Limit: 2, After: "a/2"}, "b ä", false},
		{orchestrator.ObjectFilter{Limit: 9, Prefix: "a"}, "a.txt a/1 a/1/x a/2", false},
		{orchestrator.ObjectFilter{Limit: 9, Prefix: "a/"}, "a/1 a/1/x a/2", false},
		{orchestrator.ObjectFilter{Limit: 1, Prefix: "a/", After: "a/1"}, "a/1/x", true},
		{orchestrator.ObjectFilter{Limit: 9, Prefix: "a/1/"}, "a/1/x", false},
		{orchestrator.ObjectFilter{Limit: 9, Prefix: "/"}, "", false},
		{orchestrator.ObjectFilter{Limit: 9, Prefix: "*/"}, "", false},
		{orchestrator.ObjectFilter{Limit: 9, Prefix: "gone"}, "", false},
	} {
		page, more, err := b.Objects(t.Context(), "files", test.filter)
		var keys []string
		for _, o := range page {
			keys = append(keys, o.Key)
		}
		if got := strings.Join(keys, " "); err != nil || got != test.want || more != test.more {
			t.Errorf("%+v: %q, more %v, %v, want %q, %v", test.filter, got, more, err, test.want, test.more)
		}
	}
	if page, more, err := b.Objects(t.Context(), "absent", orchestrator.ObjectFilter{Limit: 1}); len(page) != 0 || more || err != nil {
		t.Errorf("an absent bucket: %v, %v, %v", page, more, err)
	}
	names, err := b.Buckets(t.Context())
	if diff := cmp.Diff([]string{"files", "other"}, names); diff != "" || err != nil {
		t.Errorf("Buckets: %v\n%s", err, diff)
	}
}

func changesAreTold(t *testing.T, b orchestrator.Buckets) {
	start, err := b.LastChange(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	putObject(t, b, "files", "a", "1")
	putObject(t, b, "other", "x", "1")
	putObject(t, b, "files", "b", "22")
	middle, err := b.LastChange(t.Context())
	if err != nil || middle <= start {
		t.Fatalf("LastChange = %d, %v, and was %d", middle, err, start)
	}
	putObject(t, b, "files", "a", "333")
	if err := b.DeleteObject(t.Context(), "files", "b", nil); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		after uint64
		most  int
		want  string
	}{
		{start, 10, "a 3 false, b 2 true"}, // of each object the last
		{start, 1, "a 3 false"},
		{middle, 10, "a 3 false, b 2 true"},
		{middle + 1, 10, "b 2 true"},
	} {
		found, err := b.Changes(t.Context(), "files", test.after, test.most)
		var told []string
		last := test.after
		for _, c := range found {
			if c.Sequence <= last || c.Object.Bucket != "files" || c.Object.ETag == "" || c.Object.ContentType != "text/plain" || c.Object.ModifiedAt.IsZero() {
				t.Errorf("change %+v behind %d", c, last)
			}
			last = c.Sequence
			told = append(told, fmt.Sprint(c.Object.Key, " ", c.Object.Size, " ", c.Deleted))
		}
		if got := strings.Join(told, ", "); got != test.want || err != nil {
			t.Errorf("changes behind %d: %q, %v, want %q", test.after, got, err, test.want)
		}
	}
}

func changesAreWaitedFor(t *testing.T, b orchestrator.Buckets) {
	start, err := b.LastChange(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan string, 1)
	go func() {
		found, err := b.Changes(t.Context(), "files", start, 10)
		told <- fmt.Sprint(len(found), err)
	}()
	putObject(t, b, "other", "a", "1")
	putObject(t, b, "files", "a", "1")
	select {
	case got := <-told:
		if got != "1 <nil>" {
			t.Errorf("Changes = %s, want one", got)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("nobody is told of a change")
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		found, err := b.Changes(ctx, "quiet", start, 10)
		told <- fmt.Sprint(len(found), err)
	}()
	cancel()
	if got := <-told; got != "0 <nil>" {
		t.Errorf("Changes of a context that ended = %s, want none", got)
	}
}

package gateway_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/audit"
	"github.com/kilnfaas/kiln/gateway/auth"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/storetest"
)

const digits = "0123456789"

// digitsTag is the ETag of digits.
const digitsTag = `"84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"`

func withDigits(t *testing.T) *fixture {
	t.Helper()
	f := newFixture(t)
	f.Buckets = storetest.NewFakeBuckets()
	got := f.call(t, "PUT", "/v1/buckets/files/a/d.txt", digits, "Content-Type", "text/plain")
	var o orchestrator.Object
	if err := json.Unmarshal([]byte(got.body), &o); err != nil || got.status != 201 || o.Key != "a/d.txt" || got.header.Get("ETag") != digitsTag {
		t.Fatalf("PUT = %d %s %v, %v", got.status, got.body, got.header, err)
	}
	return f
}

func TestObjectsOverHTTP(t *testing.T) {
	f := withDigits(t)
	const d = "/v1/buckets/files/a/d.txt"
	for name, test := range map[string]struct {
		method  string
		target  string
		headers []string
		status  int
		body    string // or the code of a problem
	}{
		"all":                  {"GET", d, nil, 200, digits},
		"head":                 {"HEAD", d, nil, 200, ""},
		"part":                 {"GET", d, []string{"Range", "bytes=2-4"}, 206, "234"},
		"end":                  {"GET", d, []string{"Range", "bytes=-3"}, 206, "789"},
		"several parts":        {"GET", d, []string{"Range", "bytes=0-0,2-2"}, 200, digits},
		"no part":              {"GET", d, []string{"Range", "bytes=10-"}, 416, "range-not-satisfiable"},
		"part if the same":     {"GET", d, []string{"Range", "bytes=2-4", "If-Range", digitsTag}, 206, "234"},
		"part if other":        {"GET", d, []string{"Range", "bytes=2-4", "If-Range", `"x"`}, 200, digits},
		"known":                {"GET", d, []string{"If-None-Match", digitsTag}, 304, ""},
		"not known":            {"GET", d, []string{"If-None-Match", `"x"`}, 200, digits},
		"not what is wanted":   {"GET", d, []string{"If-Match", `"x"`}, 412, "precondition-failed"},
		"escaped":              {"GET", "/v1/buckets/files/a/d%2Etxt", nil, 200, digits},
		"absent":               {"GET", "/v1/buckets/files/b", nil, 404, "object-not-found"},
		"no key":               {"GET", "/v1/buckets/files/a//b", nil, 422, "object-key-invalid"},
		"no bucket":            {"GET", "/v1/buckets/A/a", nil, 422, "bucket-name-invalid"},
		"put what is there":    {"PUT", d, []string{"If-None-Match", "*"}, 412, "precondition-failed"},
		"put what is other":    {"PUT", d, []string{"If-Match", `"x"`}, 412, "precondition-failed"},
		"put a part":           {"PUT", d, []string{"Content-Range", "bytes 0-1/2"}, 400, "header-invalid"},
		"put a strange type":   {"PUT", d, []string{"Content-Type", "x y z"}, 422, "content-type-invalid"},
		"delete what is other": {"DELETE", d, []string{"If-Match", `"x", "y"`}, 412, "precondition-failed"},
	} {
		got := f.call(t, test.method, test.target, "", test.headers...)
		body := got.body
		if test.status >= 400 {
			body = got.problem(t).Code
		}
		if got.status != test.status || body != test.body {
			t.Errorf("%s: %d %q, want %d %q", name, got.status, body, test.status, test.body)
		}
		if test.status == 200 && (got.header.Get("ETag") != digitsTag || got.header.Get("Content-Type") != "text/plain" || got.header.Get("Content-Length") != "10") {
			t.Errorf("%s: header %v", name, got.header)
		}
		if test.status == 416 && got.header.Get("Content-Range") != "bytes */10" {
			t.Errorf("%s: Content-Range %q", name, got.header.Get("Content-Range"))
		}
	}
	var records []audit.Record
	f.Audit = func(r audit.Record) { records = append(records, r) }
	if got := f.call(t, "PUT", d, "new", "If-Match", `"x", `+digitsTag, "Content-Type", "text/plain"); got.status != 200 {
		t.Errorf("PUT of what is as expected: %d %s", got.status, got.body)
	}
	if got := f.call(t, "DELETE", d, ""); got.status != 204 {
		t.Errorf("DELETE: %d %s", got.status, got.body)
	}
	if len(records) != 2 || records[1].Name != "files" || records[1].Key != "a/d.txt" || records[1].Status != 204 {
		t.Errorf("audit records %+v", records)
	}
}

func TestBucketsAreListed(t *testing.T) {
	f := withDigits(t)
	for _, key := range []string{"a/e", "b"} {
		if got := f.call(t, "PUT", "/v1/buckets/files/"+key, ""); got.status != 201 {
			t.Fatalf("PUT: %d %s", got.status, got.body)
		}
	}
	if got := f.call(t, "GET", "/v1/buckets", ""); got.body != `{"buckets":[{"name":"files"}]}`+"\n" {
		t.Errorf("buckets: %s", got.body)
	}
	for query, want := range map[string]string{
		"": "a/d.txt a/e b", "?prefix=a/": "a/d.txt a/e", "?limit=2": "a/d.txt a/e > a/e", "?limit=2&after=a/e": "b",
	} {
		var list api.ObjectList
		got := f.call(t, "GET", "/v1/buckets/files"+query, "")
		if err := json.Unmarshal([]byte(got.body), &list); err != nil {
			t.Fatalf("%s: %v: %s", query, err, got.body)
		}
		var keys []string
		for _, o := range list.Objects {
			keys = append(keys, o.Key)
		}
		if list.Next != "" {
			keys = append(keys, ">", list.Next)
		}
		if got := strings.Join(keys, " "); got != want {
			t.Errorf("%q: %s, want %s", query, got, want)
		}
	}
	for _, query := range []string{"?limit=0", "?limit=1001", "?limit=x", "?nonsense=1"} {
		if got := f.call(t, "GET", "/v1/buckets/files"+query, ""); got.status != 400 {
			t.Errorf("%q: %d, want 400", query, got.status)
		}
	}
}

// TestBucketsWantATokenForAll: who reads, who writes, and that a token for some
// functions is for no bucket; functions need one, too.
func TestBucketsWantATokenForAll(t *testing.T) {
	f := withDigits(t)
	f.Guard = openGuard(t, auth.Config{Store: storetest.NewFakeTokens()})
	secret := func(name string, functions []string, scope orchestrator.Scope) string {
		_, secret, err := f.Guard.Create(t.Context(), orchestrator.Token{Name: name, Scopes: []orchestrator.Scope{scope}, Functions: functions})
		if err != nil {
			t.Fatal(err)
		}
		return "Bearer " + secret
	}
	read, write := secret("r", nil, orchestrator.ScopeRead), secret("w", nil, orchestrator.ScopeDeploy)
	invoke, bound := secret("i", nil, orchestrator.ScopeInvoke), secret("b", []string{"*"}, orchestrator.ScopeDeploy)
	files := secret("f", nil, orchestrator.ScopeFiles)
	for _, inside := range []bool{false, true} {
		f.Inside = func(netip.Addr) bool { return inside }
		for _, test := range []struct {
			token, method, path string
			status              int
		}{
			{"", "GET", "/v1/buckets/files/a/d.txt", 401}, {invoke, "GET", "/v1/buckets/files/a/d.txt", 403}, {bound, "GET", "/v1/buckets/files/a/d.txt", 403},
			{read, "GET", "/v1/buckets/files/a/d.txt", 200}, {read, "PUT", "/v1/buckets/files/b", 403}, {read, "DELETE", "/v1/buckets/files/a/d.txt", 403},
			{write, "PUT", "/v1/buckets/files/a/d.txt", 200}, {write, "GET", "/v1/buckets", 200}, {"", "GET", "/v1/buckets", 401},
			{files, "PUT", "/v1/buckets/files/a/d.txt", 200}, {files, "GET", "/v1/buckets", 200},
		} {
			if got := f.call(t, test.method, test.path, digits, "Authorization", test.token, "Content-Type", "text/plain"); got.status != test.status {
				t.Errorf("inside %v: %s %s: %d, want %d", inside, test.method, test.path, got.status, test.status)
			}
		}
	}
	f.Inside = nil
	if got := f.call(t, "GET", "/v1/functions", "", "Authorization", files); got.status != 403 {
		t.Errorf("a token for files lists functions: %d", got.status)
	}
}

// brokenBuckets hold objects that cannot be read to their end.
type brokenBuckets struct{ *storetest.FakeBuckets }

type brokenReader struct{ orchestrator.ObjectReader }

func (b brokenBuckets) OpenObject(ctx context.Context, bucket, key string) (orchestrator.ObjectReader, error) {
	r, err := b.FakeBuckets.OpenObject(ctx, bucket, key)
	return brokenReader{r}, err
}

func (r brokenReader) Read(p []byte) (int, error) {
	if n, err := r.ObjectReader.Read(p[:min(5, len(p))]); n > 0 && err == nil {
		return n, orchestrator.Errorf(orchestrator.ErrUnavailable, "object-damaged", "it is damaged")
	}
	return 0, io.ErrUnexpectedEOF
}

// TestDamagedObjectBreaksOff: half of it does not look whole.
func TestDamagedObjectBreaksOff(t *testing.T) {
	f := withDigits(t)
	f.Buckets = brokenBuckets{f.Buckets.(*storetest.FakeBuckets)}
	server := httptest.NewServer(f.Handler())
	defer server.Close()
	client := &api.Client{BaseURL: server.URL, HTTP: server.Client()}
	response, err := client.Object(t.Context(), "files", "a/d.txt")
	if err == nil {
		defer response.Body.Close()
		var body []byte
		if body, err = io.ReadAll(response.Body); err == nil {
			t.Errorf("a damaged object came as %q", body)
		}
	}
	if log := f.log.String(); !strings.Contains(log, "it is damaged") {
		t.Errorf("the log does not tell: %s", log)
	}
}

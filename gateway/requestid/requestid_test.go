package requestid_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/requestid"
)

func TestNewIsVersion7OfNow(t *testing.T) {
	before := time.Now().Add(-time.Second)
	seen := map[string]bool{}
	for range 10_000 {
		s := requestid.New()
		id, err := uuid.Parse(s)
		if err != nil || id.Version() != 7 || id.Variant() != uuid.RFC4122 {
			t.Fatalf("New() = %q: version %d, variant %v, error %v; want version 7 of the RFC", s, id.Version(), id.Variant(), err)
		}
		if seconds, _ := id.Time().UnixTime(); seconds < before.Unix() || seconds > time.Now().Unix() {
			t.Fatalf("New() = %q tells the time %d, want now", s, seconds)
		}
		if seen[s] {
			t.Fatalf("New() gave %q twice", s)
		}
		seen[s] = true
	}
}

func TestOf(t *testing.T) {
	tests := map[string]bool{
		"018f-abc.DEF_9":          true,
		strings.Repeat("a", 128):  true,
		"":                        false,
		strings.Repeat("a", 129):  false,
		"a b":                     false,
		"a\r\nSet-Cookie: b=c":    false,
		"ä":                       false,
		"${jndi:ldap://x}":        false,
		"a/../b":                  false,
		"01890a5d-ac96-774b-bcce": true,
	}
	for id, want := range tests {
		r := &http.Request{Header: http.Header{api.HeaderRequestID: {id}}}
		got := requestid.Of(r)
		if (got == id) != want {
			t.Errorf("Of(request with %q) = %q, want kept: %v", id, got, want)
		}
		if !requestid.Valid(got) {
			t.Errorf("Of(request with %q) = %q, which is not valid itself", id, got)
		}
	}
}

func BenchmarkNew(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		requestid.New()
	}
}

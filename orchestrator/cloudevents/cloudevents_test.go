package cloudevents_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/cloudevents"
)

var full = orchestrator.CloudEvent{
	ID: "a b", Source: "/x", Type: "com.example.t", Subject: `ü "50%"`, Time: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC),
	ContentType: "text/plain", DataSchema: "https://example.com/s", Extensions: map[string]string{"partitionkey": "k", "n1": "2"}, Data: []byte("hello"),
}

func TestHeader(t *testing.T) {
	want := http.Header{
		"Ce-Specversion": {"1.0"}, "Ce-Id": {"a%20b"}, "Ce-Source": {"/x"}, "Ce-Type": {"com.example.t"}, "Ce-Subject": {"%C3%BC%20%2250%25%22"},
		"Ce-Time": {"2026-01-02T03:04:05.000006Z"}, "Ce-Dataschema": {"https://example.com/s"}, "Ce-Partitionkey": {"k"}, "Ce-N1": {"2"},
		"Content-Type": {"text/plain"},
	}
	got := cloudevents.Header(full)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Header (-want +got):\n%s", diff)
	}
	back, err := cloudevents.FromHeader(got, full.Data)
	if diff := cmp.Diff(full, back); err != nil || diff != "" {
		t.Errorf("FromHeader (-want +got): %v\n%s", err, diff)
	}
}

func TestFromHeaderErrors(t *testing.T) {
	for name, change := range map[string]func(http.Header){
		"no specversion": func(h http.Header) { h.Del("Ce-Specversion") },
		"another one":    func(h http.Header) { h.Set("Ce-Specversion", "0.3") },
		"no id":          func(h http.Header) { h.Del("Ce-Id") },
		"empty source":   func(h http.Header) { h.Set("Ce-Source", "") },
		"two types":      func(h http.Header) { h.Add("Ce-Type", "x") },
		"no time":        func(h http.Header) { h.Set("Ce-Time", "yesterday") },
		"half a percent": func(h http.Header) { h.Set("Ce-Subject", "%c") },
		"no hexadecimal": func(h http.Header) { h.Set("Ce-Subject", "%zz") },
		"a line break":   func(h http.Header) { h.Set("Ce-Subject", "a%0Ab") },
		"no UTF-8":       func(h http.Header) { h.Set("Ce-Subject", "%ff") },
		"extension name": func(h http.Header) { h.Set("Ce-My-Ext", "x") },
		"long":           func(h http.Header) { h.Set("Ce-Subject", strings.Repeat("x", orchestrator.MaxEventAttribute+1)) },
	} {
		header := cloudevents.Header(full)
		change(header)
		if e, err := cloudevents.FromHeader(header, nil); !errors.Is(err, orchestrator.ErrInvalid) {
			t.Errorf("%s: %+v, %v, want the class invalid", name, e, err)
		}
	}
	quoted := cloudevents.Header(full)
	quoted.Set("Ce-Subject", `"a \"b\""`)
	if e, err := cloudevents.FromHeader(quoted, nil); err != nil || e.Subject != `a "b"` {
		t.Errorf("a quoted value = %q, %v", e.Subject, err)
	}
}

func TestJSON(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want orchestrator.CloudEvent
	}{
		"the least": {`{"specversion":"1.0","id":"1","source":"/s","type":"t"}`, orchestrator.CloudEvent{ID: "1", Source: "/s", Type: "t"}},
		"JSON": {`{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"a":[1]}}`,
			orchestrator.CloudEvent{ID: "1", Source: "/s", Type: "t", ContentType: "application/json", Data: []byte(`{"a":[1]}`)}},
		"a text in JSON": {`{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"application/json","data":"x"}`,
			orchestrator.CloudEvent{ID: "1", Source: "/s", Type: "t", ContentType: "application/json", Data: []byte(`"x"`)}},
		"text": {`{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"text/plain","data":"x\n"}`,
			orchestrator.CloudEvent{ID: "1", Source: "/s", Type: "t", ContentType: "text/plain", Data: []byte("x\n")}},
		"base64": {`{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"image/png","data_base64":"AP8="}`,
			orchestrator.CloudEvent{ID: "1", Source: "/s", Type: "t", ContentType: "image/png", Data: []byte{0, 255}}},
		"extensions": {`{"specversion":"1.0","id":"1","source":"/s","type":"t","n":5,"yes":true,"text":"x","none":null,"data":null}`,
			orchestrator.CloudEvent{ID: "1", Source: "/s", Type: "t", Extensions: map[string]string{"n": "5", "yes": "true", "text": "x"}}},
	} {
		got, err := cloudevents.Unmarshal([]byte(test.text))
		if diff := cmp.Diff(test.want, got); err != nil || diff != "" {
			t.Errorf("%s (-want +got): %v\n%s", name, err, diff)
		}
	}
	encoded, err := cloudevents.Marshal(full)
	if err != nil {
		t.Fatal(err)
	}
	back, err := cloudevents.Unmarshal(encoded)
	if diff := cmp.Diff(full, back); err != nil || diff != "" {
		t.Errorf("Unmarshal of Marshal (-want +got): %v\n%s", err, diff)
	}
}

func TestJSONErrors(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":        ``,
		"null":           `null`,
		"a list":         `[]`,
		"no specversion": `{"id":"1","source":"/s","type":"t"}`,
		"no id":          `{"specversion":"1.0","source":"/s","type":"t"}`,
		"id is a number": `{"specversion":"1.0","id":1,"source":"/s","type":"t"}`,
		"nested":         `{"specversion":"1.0","id":"1","source":"/s","type":"t","ext":{"a":1}}`,
		"name":           `{"specversion":"1.0","id":"1","source":"/s","type":"t","Ext":"x"}`,
		"two data":       `{"specversion":"1.0","id":"1","source":"/s","type":"t","data":1,"data_base64":"AA=="}`,
		"no base64":      `{"specversion":"1.0","id":"1","source":"/s","type":"t","data_base64":"?"}`,
		"media":          `{"specversion":"1.0","id":"1","source":"/s","type":"t","datacontenttype":"/"}`,
		"more":           `{"specversion":"1.0","id":"1","source":"/s","type":"t"} {}`,
		"no UTF-8":       "{\"specversion\":\"1.0\",\"id\":\"\xff\",\"source\":\"/s\",\"type\":\"t\"}",
	} {
		if e, err := cloudevents.Unmarshal([]byte(text)); !errors.Is(err, orchestrator.ErrInvalid) {
			t.Errorf("%s: %+v, %v, want the class invalid", name, e, err)
		}
	}
}

func TestBatch(t *testing.T) {
	one := `{"specversion":"1.0","id":"1","source":"/s","type":"t"}`
	got, err := cloudevents.UnmarshalBatch([]byte("[" + one + "," + one + "]"))
	if err != nil || len(got) != 2 {
		t.Errorf("a batch of two = %v, %v", got, err)
	}
	if got, err := cloudevents.UnmarshalBatch([]byte("[]")); err != nil || len(got) != 0 {
		t.Errorf("an empty batch = %v, %v", got, err)
	}
	if _, err := cloudevents.UnmarshalBatch([]byte("[" + one + ",{}]")); !errors.Is(err, orchestrator.ErrInvalid) {
		t.Errorf("a batch with nonsense = %v, want the class invalid", err)
	}
	many := "[" + strings.Repeat(one+",", cloudevents.MaxBatch) + one + "]"
	if _, err := cloudevents.UnmarshalBatch([]byte(many)); !errors.Is(err, orchestrator.ErrTooLarge) {
		t.Errorf("a batch that is too long = %v, want the class too large", err)
	}
}

// FuzzJSON: what is taken is valid, and comes back from both forms.
func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"specversion":"1.0","id":"1","source":"/s","type":"t","time":"2026-01-02T03:04:05+01:00","data":{"a":"<b>"},"x":"y"}`))
	f.Add([]byte(`{"specversion":"1.0","id":"é%","source":"/s","type":"t","datacontenttype":"text/plain","data":""}`))
	f.Add([]byte(`{"specversion":"1.0","id":"1","source":"/s","type":"t","data":"null"}`))
	f.Add([]byte(`{"specversion":"1.0","id":"1","source":"/s","type":"t","empty":""}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := cloudevents.Unmarshal(text)
		if err != nil {
			return
		}
		encoded, err := cloudevents.Marshal(e)
		if err != nil {
			t.Fatalf("Marshal of %+v: %v", e, err)
		}
		back, err := cloudevents.Unmarshal(encoded)
		if diff := cmp.Diff(normal(e), normal(back)); err != nil || diff != "" {
			t.Errorf("from JSON (-want +got): %v\n%s", err, diff)
		}
		back, err = cloudevents.FromHeader(cloudevents.Header(e), e.Data)
		if diff := cmp.Diff(normal(e), normal(back)); err != nil || diff != "" {
			t.Errorf("from a header (-want +got): %v\n%s", err, diff)
		}
	})
}

// normal makes events equal that say the same.
func normal(e orchestrator.CloudEvent) orchestrator.CloudEvent {
	e.Time = e.Time.UTC()
	var compact bytes.Buffer
	if json.Compact(&compact, e.Data) == nil {
		var v any
		decoder := json.NewDecoder(&compact)
		decoder.UseNumber()
		if decoder.Decode(&v) == nil {
			e.Data, _ = json.Marshal(v)
		}
	}
	if len(e.Data) == 0 {
		e.Data = nil
	}
	if e.ContentType == "" && len(e.Data) > 0 {
		e.ContentType = "application/json"
	}
	return e
}

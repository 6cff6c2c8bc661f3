package manifest_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/manifest"
)

func doc(text string) manifest.Document {
	return manifest.Document{Name: manifest.FileName, Data: []byte(text)}
}

// complete sets every key.
const complete = `# a comment
name: resize-image
template: python
handler: src/app.py:main
env:
  GREETING: "Hello,\tworld\u00e9 \ud83d\ude00"
  VERSION: 1.10
  PORT_NUMBER: 08080
  DEBUG: true
  EMPTY: ""
  BLOCK: |
    one
    two
secrets: [api-key, db.password]
resources:
  memory: 256MiB
  cpu: 0.5
  tmp: 1Gi
timeout: 1m30s
concurrency: 8
max_request: 0
access: token
rate: {per_second: 2.5, burst: 5}
cors:
  origins: ["https://app.example", "http://localhost:3000"]
  methods: [PUT]
  headers: [X-Test]
  expose: [X-Count]
  credentials: true
  max_age: 10m
scale:
  min: 1
  max: 20
  freeze_after: 0
  keep_alive: 5m
network: services
runtime: runsc
async:
  attempts: 3
  backoff: 2s
  backoff_max: 60s
  max_age: 1h
  retry_on: [5xx, "409"]
  on_success: function:next
  on_failure: https://example.com/failed
triggers:
  - {name: nightly, type: schedule, cron: "0 3 * * *", catch_up: last}
  - type: other
    name: any
    number: 2.50
    on: true
    list: [a, 1]
    below:
      text: "yes"
      deep:
        - {}
    empty: []
  - name: bare
    type: x
build:
  packages:
    - libpq5
    - g++
  args:
    TAG: v1
    LEVEL: 3
  test: true
  network: none
`

func completeSpec() orchestrator.Spec {
	return orchestrator.Spec{
		Name:     "resize-image",
		Template: "python",
		Handler:  "src/app.py:main",
		Env: map[string]string{
			"GREETING": "Hello,\tworldé 😀", "VERSION": "1.10", "PORT_NUMBER": "08080", "DEBUG": "true", "EMPTY": "", "BLOCK": "one\ntwo\n",
		},
		Secrets: []string{"api-key", "db.password"},
		Access:  orchestrator.AccessToken,
		Rate:    orchestrator.Rate{PerSecond: 2.5, Burst: 5},
		CORS: orchestrator.CORS{
			Origins: []string{"https://app.example", "http://localhost:3000"}, Methods: []string{"PUT"}, Headers: []string{"X-Test"},
			Expose: []string{"X-Count"}, Credentials: true, MaxAge: orchestrator.Duration(10 * time.Minute),
		},
		Resources:   orchestrator.Resources{Memory: 256 * orchestrator.MiB, CPU: 0.5, Tmp: orchestrator.GiB},
		Timeout:     orchestrator.Duration(90 * time.Second),
		Concurrency: 8,
		Scale:       orchestrator.Scale{Min: 1, Max: 20, KeepAlive: orchestrator.Duration(5 * time.Minute)},
		Network:     orchestrator.NetworkServices,
		Runtime:     "runsc",
		Async: orchestrator.Async{
			Attempts: 3, Backoff: orchestrator.Duration(2 * time.Second), BackoffMax: orchestrator.Duration(time.Minute), MaxAge: orchestrator.Duration(time.Hour),
			RetryOn: []string{"5xx", "409"}, OnSuccess: "function:next", OnFailure: "https://example.com/failed",
		},
		Triggers: []orchestrator.Trigger{
			{Name: "nightly", Type: "schedule", Settings: orchestrator.Settings{"cron": "0 3 * * *", "catch_up": "last"}},
			{Name: "any", Type: "other", Settings: orchestrator.Settings{
				"number": 2.5, "on": true, "list": []any{"a", 1.0}, "below": map[string]any{"text": "yes", "deep": []any{map[string]any{}}}, "empty": []any{},
			}},
			{Name: "bare", Type: "x"},
		},
		Build: orchestrator.Build{Packages: []string{"libpq5", "g++"}, Args: map[string]string{"TAG": "v1", "LEVEL": "3"}, Test: true, Network: orchestrator.BuildNetworkNone},
	}
}

func TestApplyComplete(t *testing.T) {
	json := `{"name":"resize-image","template":"python","handler":"src/app.py:main",
		"env":{"GREETING":"Hello,\tworld\u00e9 \ud83d\ude00","VERSION":1.10,"PORT_NUMBER":"08080","DEBUG":true,"EMPTY":"","BLOCK":"one\ntwo\n"},
		"secrets":["api-key","db.password"],"resources":{"memory":268435456,"cpu":0.5,"tmp":"1GiB"},
		"access":"token","rate":{"per_second":2.5,"burst":5},
		"cors":{"origins":["https://app.example","http://localhost:3000"],"methods":["PUT"],"headers":["X-Test"],"expose":["X-Count"],"credentials":true,"max_age":"10m"},
		"timeout":"1m30s","concurrency":8,"max_request":0,"scale":{"min":1,"max":20,"freeze_after":"0s","keep_alive":"5m0s"},"network":"services","runtime":"runsc",
		"async":{"attempts":3,"backoff":"2s","backoff_max":"1m","max_age":"1h","retry_on":["5xx","409"],"on_success":"function:next","on_failure":"https://example.com/failed"},
		"triggers":[{"name":"nightly","type":"schedule","cron":"0 3 * * *","catch_up":"last"},
			{"type":"other","number":2.5,"on":true,"list":["a",1],"below":{"text":"yes","deep":[{}]},"empty":[],"name":"any"},{"name":"bare","type":"x"}],
		"build":{"packages":["libpq5","g++"],"args":{"TAG":"v1","LEVEL":3},"test":true,"network":"none"}}`
	for name, text := range map[string]string{
		"yaml":           complete,
		"windows":        strings.ReplaceAll(complete, "\n", "\r\n"),
		"byte order":     "\ufeff" + complete,
		"document start": "---\n" + complete,
		"json":           json,
		"json in tabs":   "\t" + strings.ReplaceAll(json, `,"`, ",\n\t\""),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := manifest.Apply(orchestrator.DefaultSpec(), doc(text))
			if err != nil {
				t.Fatal(err)
			}
			want := completeSpec()
			if name == "windows" {
				got.Env["BLOCK"] = strings.ReplaceAll(got.Env["BLOCK"], "\r\n", "\n")
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
			if err := manifest.Validate(got, orchestrator.Template{Name: "python"}); err != nil {
				t.Errorf("Validate: %v", err)
			}
		})
	}
}

// TestAccessKeysAreChecked gives what would open more than was meant, or nothing.
func TestAccessKeysAreChecked(t *testing.T) {
	for text, code := range map[string]string{
		"access: Public":                                         "access-invalid",
		"access: everybody":                                      "access-invalid",
		"rate: {per_second: -1}":                                 "rate-invalid",
		"rate: {per_second: 9999999}":                            "rate-invalid",
		"rate: {burst: 5}":                                       "rate-invalid",
		"cors: {origins: [app.example]}":                         "origin-invalid",
		"cors: {origins: ['https://a/b']}":                       "origin-invalid",
		"cors: {origins: ['https://*.a']}":                       "origin-invalid",
		"cors: {origins: ['null']}":                              "origin-invalid",
		"cors: {origins: ['*', 'http://a']}":                     "cors-invalid",
		"cors: {origins: ['*'], credentials: true}":              "cors-invalid",
		"cors: {methods: [GET]}":                                 "cors-invalid",
		"cors: {origins: ['http://a'], methods: ['GET, PUT']}":   "method-invalid",
		"cors: {origins: ['http://a'], headers: [\"a\\r\\nb\"]}": "header-invalid",
	} {
		spec := manifest.Defaults(orchestrator.Template{Name: "python"})
		spec.Name, spec.Template = "f", "python"
		spec, err := manifest.Apply(spec, doc(text))
		if err == nil {
			err = manifest.Validate(spec, orchestrator.Template{Name: "python"})
		}
		if refusal, ok := errors.AsType[*orchestrator.Error](err); !ok || refusal.Code != code || !errors.Is(err, orchestrator.ErrInvalid) {
			t.Errorf("%s: %v, want %s", text, err, code)
		}
	}
}

func TestApplyMerges(t *testing.T) {
	base := orchestrator.DefaultSpec()
	base.Name = "f"
	base.Env = map[string]string{"A": "1", "B": "2"}
	base.Secrets = []string{"one", "two"}
	base.Build.Args = map[string]string{"X": "x"}
	cases := []struct {
		name   string
		docs   []string
		change func(*orchestrator.Spec)
	}{
		{"nothing", nil, nil},
		{"empty documents", []string{"", "# only a comment\n", "---\n", "null", "{}"}, nil},
		{"empty sections", []string{"scale:\nresources:\nbuild:\n"}, nil},
		{"env is merged", []string{"env: {B: 3, C: 4}"}, func(s *orchestrator.Spec) { s.Env = map[string]string{"A": "1", "B": "3", "C": "4"} }},
		{"null removes a variable", []string{`{"env": {"A": null, "unknown": null}}`}, func(s *orchestrator.Spec) { s.Env = map[string]string{"B": "2"} }},
		{"null removes all variables", []string{"env:\n"}, func(s *orchestrator.Spec) { s.Env = nil }},
		{"the last variable removed", []string{"env: {A: null, B: null}"}, func(s *orchestrator.Spec) { s.Env = nil }},
		{"args are merged", []string{"build: {args: {Y: y}}"}, func(s *orchestrator.Spec) { s.Build.Args = map[string]string{"X": "x", "Y": "y"} }},
		{"lists replace", []string{"secrets: [three]"}, func(s *orchestrator.Spec) { s.Secrets = []string{"three"} }},
		{"null empties a list", []string{"secrets:\n"}, func(s *orchestrator.Spec) { s.Secrets = nil }},
		{"empty lists", []string{"secrets: []"}, func(s *orchestrator.Spec) { s.Secrets = nil }},
		{"a section keeps its other keys", []string{"scale: {max: 3}"}, func(s *orchestrator.Spec) { s.Scale.Max = 3 }},
		{"the last wins", []string{"timeout: 5s\nconcurrency: 2", `{"timeout":"6s"}`}, func(s *orchestrator.Spec) {
			s.Timeout, s.Concurrency = orchestrator.Duration(6*time.Second), 2
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			want := base.Clone()
			if c.change != nil {
				c.change(&want)
			}
			var docs []manifest.Document
			for _, text := range c.docs {
				docs = append(docs, doc(text))
			}
			got, err := manifest.Apply(base, docs...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("base is left alone", func(t *testing.T) {
		before := base.Clone()
		got, err := manifest.Apply(base, doc("env: {A: changed}\nsecrets: [x]\nbuild: {args: {X: changed}}"))
		if err != nil {
			t.Fatal(err)
		}
		got.Env["B"] = "changed"
		untouched, err := manifest.Apply(base, doc("timeout: 3s"))
		if err != nil {
			t.Fatal(err)
		}
		untouched.Env["A"], untouched.Build.Args["X"], untouched.Secrets[0] = "changed", "changed", "changed"
		if diff := cmp.Diff(before, base); diff != "" {
			t.Errorf("base changed:\n%s", diff)
		}
	})
}

func TestApplyErrors(t *testing.T) {
	long := strings.Repeat("x", 100)
	cases := []struct {
		text string
		at   string // line:column
		code string
		hint string // a part of it
	}{
		// Keys.
		{"nmae: f\n", "1:1", "manifest-unknown-key", "did you mean name?"},
		{"name: f\nenviroment:\n  A: b\n", "2:1", "manifest-unknown-key", "did you mean env?"},
		{"Name: f\n", "1:1", "manifest-unknown-key", "did you mean name?"},
		{"maxRequest: 1\n", "1:1", "manifest-unknown-key", "did you mean max_request?"},
		{"memory: 1GiB\n", "1:1", "manifest-unknown-key", "did you mean resources.memory?"},
		{"max: 3\n", "1:1", "manifest-unknown-key", "did you mean scale.max?"},
		{"keep-alive: 3m\n", "1:1", "manifest-unknown-key", "did you mean scale.keep_alive?"},
		{"scale:\n  maxx: 3\n", "2:3", "manifest-unknown-key", "did you mean scale.max?"},
		{"resources:\n  memry: 3\n", "2:3", "manifest-unknown-key", "did you mean resources.memory?"},
		{"build:\n  package: [a]\n", "2:3", "manifest-unknown-key", "did you mean build.packages?"},
		{"zebra: x\n", "1:1", "manifest-unknown-key", "allowed keys are name, template, handler"},
		{long + ": x\n", "1:1", "manifest-unknown-key", "allowed keys are"},
		{"name: f\nname: g\n", "2:1", "manifest-duplicate-key", ""},
		{"scale:\n  min: 1\n  min: 1\n", "3:3", "manifest-duplicate-key", ""},
		{"env:\n  A: 1\n  A: 1\n", "3:3", "manifest-duplicate-key", ""},
		{"{\"name\": \"f\",\n \"name\": \"f\"}", "2:2", "manifest-duplicate-key", ""},
		{"{\"env\": {\"A\": \"f\", \"A\": null}}", "1:20", "manifest-duplicate-key", ""},
		{"1: x\n", "1:1", "manifest-key", "quotes"},
		{"env:\n  true: x\n", "2:3", "manifest-key", "quotes"},

		// Types.
		{"just text", "1:1", "manifest-type", "allowed keys"},
		{"- name: f\n", "1:1", "manifest-type", "allowed keys"},
		{"42", "1:1", "manifest-type", "allowed keys"},
		{"scale: 5\n", "1:8", "manifest-type", "min, max"},
		{"scale: [1, 2]\n", "1:8", "manifest-type", "min, max"},
		{"name: 5\n", "1:7", "manifest-type", `name: "5"`},
		{"name: true\n", "1:7", "manifest-type", `name: "true"`},
		{"name: [f]\n", "1:7", "manifest-type", "name: "},
		{"name:\n  first: f\n", "2:3", "manifest-type", "name: "},
		{"name:\n", "1:7", "manifest-null", "leave the key out"},
		{"timeout: ~\n", "1:10", "manifest-null", "leave the key out"},
		{"{\"timeout\": null}", "1:13", "manifest-null", "leave the key out"},
		{"timeout: true\n", "1:10", "manifest-type", "30s"},
		{"timeout: 1.5\n", "1:10", "manifest-type", "30s"},
		{"timeout: 30\n", "1:10", "duration-invalid", "30s"},
		{"timeout: -3s\n", "1:10", "duration-invalid", "30s"},
		{"timeout: soon\n", "1:10", "duration-invalid", "30s"},
		{"concurrency: \"5\"\n", "1:14", "manifest-type", "concurrency: 5"},
		{"concurrency: 5.0\n", "1:14", "manifest-type", "concurrency: 5"},
		{"concurrency: 0x10\n", "1:14", "manifest-type", "concurrency: 5"},
		{"concurrency: 1_000\n", "1:14", "manifest-type", "concurrency: 5"},
		{"concurrency: 99999999999999999999\n", "1:14", "manifest-type", "concurrency: 5"},
		{"{\"concurrency\": 1e2}", "1:17", "manifest-type", "concurrency: 5"},
		{"resources: {cpu: half}\n", "1:18", "manifest-type", "0.5"},
		{"resources: {cpu: .inf}\n", "1:18", "manifest-type", "0.5"},
		{"resources: {cpu: .nan}\n", "1:18", "manifest-type", "0.5"},
		{"resources: {memory: lots}\n", "1:21", "size-invalid", "128MiB"},
		{"resources: {memory: -1}\n", "1:21", "size-invalid", "128MiB"},
		{"resources: {memory: 1e3}\n", "1:21", "size-invalid", "128MiB"},
		{"build: {test: 1}\n", "1:15", "manifest-type", "true"},
		{"build: {test: yes}\n", "1:15", "manifest-type", "true"},
		{"secrets: one\n", "1:10", "manifest-type", "[one, two]"},
		{"secrets: [one, 2]\n", "1:16", "manifest-type", "[one, two]"},
		{"secrets:\n- one\n-\n", "3:3", "manifest-null", ""},
		{"env: [A]\n", "1:6", "manifest-type", "KEY"},
		{"env: {A: {B: c}}\n", "1:11", "manifest-type", "A: text"},
		{"env: {A: [b]}\n", "1:10", "manifest-type", "A: text"},

		// Values.
		{"name: Hello\n", "1:7", "name-invalid", "a-z"},
		{"name: \"\"\n", "1:7", "name-missing", "name"},
		{"name: " + long + "\n", "1:7", "name-invalid", ""},
		{"template: ../../etc\n", "1:11", "template-invalid", "kiln templates"},
		{"template: ''\n", "1:11", "template-missing", "kiln templates"},
		{"handler: /etc/passwd\n", "1:10", "handler-invalid", "src/app.py:main"},
		{"handler: ../up.py\n", "1:10", "handler-invalid", ""},
		{"handler: a//b\n", "1:10", "handler-invalid", ""},
		{"handler: a/\n", "1:10", "handler-invalid", ""},
		{"handler: 'app.py:'\n", "1:10", "handler-invalid", ""},
		{"handler: app.py:main:x\n", "1:10", "handler-invalid", ""},
		{"handler: app.py:$(id)\n", "1:10", "handler-invalid", ""},
		{"handler: 'a\\b'\n", "1:10", "handler-invalid", ""},
		{"handler: '*.py'\n", "1:10", "handler-invalid", ""},
		{"handler: '[ab].py'\n", "1:10", "handler-invalid", ""},
		{"handler: \"a\\nb\"\n", "1:10", "handler-invalid", ""},
		{"handler: " + strings.Repeat("x", 1025) + "\n", "1:10", "handler-invalid", ""},
		{"env: {1A: b}\n", "1:7", "env-invalid", ""},
		{"env:\n  OK: b\n  A-B: b\n", "3:3", "env-invalid", ""},
		{"env: {'': b}\n", "1:7", "env-invalid", ""},
		{"env: {A: \"x\\0y\"}\n", "1:7", "env-invalid", "base64"},
		{"env: {PORT: 80}\n", "1:7", "env-reserved", ""},
		{"env: {KILN_CELL: 1}\n", "1:7", "env-reserved", ""},
		{"secrets: [../x]\n", "1:11", "secret-invalid", ""},
		{"secrets: [.x]\n", "1:11", "secret-invalid", ""},
		{"secrets: [x, x]\n", "1:14", "secret-twice", ""},
		{"resources: {memory: 5MiB}\n", "1:21", "memory-invalid", "6MiB"},
		{"resources: {memory: 2000GiB}\n", "1:21", "memory-invalid", "1024GiB"},
		{"resources: {cpu: 0}\n", "1:18", "cpu-invalid", "0.01"},
		{"resources: {cpu: -1}\n", "1:18", "cpu-invalid", "0.01"},
		{"resources: {cpu: 513}\n", "1:18", "cpu-invalid", "512"},
		{"resources: {tmp: 0}\n", "1:18", "tmp-invalid", "64KiB"},
		{"timeout: 0\n", "1:10", "timeout-invalid", "1ms"},
		{"timeout: 25h\n", "1:10", "timeout-invalid", "24h"},
		{"concurrency: 0\n", "1:14", "concurrency-invalid", "1 to 10000"},
		{"concurrency: -1\n", "1:14", "concurrency-invalid", "1 to 10000"},
		{"concurrency: 10001\n", "1:14", "concurrency-invalid", "1 to 10000"},
		{"max_request: -1\n", "1:14", "size-invalid", ""},
		{"scale: {min: -1}\n", "1:14", "scale-invalid", "0 to 1000"},
		{"scale: {max: 0}\n", "1:14", "scale-invalid", "1 to 1000"},
		{"scale: {max: 1001}\n", "1:14", "scale-invalid", "1 to 1000"},
		{"scale: {keep_alive: 0}\n", "1:21", "scale-invalid", "1ms"},
		{"scale: {freeze_after: 1000h}\n", "1:23", "scale-invalid", "720h"},
		{"runtime: 'runc --privileged'\n", "1:10", "runtime-invalid", "doctor"},
		{"runtime: /bin/sh\n", "1:10", "runtime-invalid", "doctor"},
		{"build: {packages: [Libpq]}\n", "1:20", "package-invalid", "libpq5"},
		{"build: {packages: [a]}\n", "1:20", "package-invalid", ""},
		{"build: {packages: [libpq5=1.0]}\n", "1:20", "package-invalid", "without version"},
		{"build: {packages: ['--purge']}\n", "1:20", "package-invalid", ""},
		{"build: {packages: ['gcc; id']}\n", "1:20", "package-invalid", ""},
		{"build: {packages: [gcc, gcc]}\n", "1:25", "package-twice", ""},
		{"build: {args: {a b: c}}\n", "1:16", "build-arg-invalid", ""},
		{"build: {args: {KILN_X: c}}\n", "1:16", "build-arg-reserved", ""},
		{"build: {args: {BUILDKIT_SYNTAX: evil/frontend}}\n", "1:16", "build-arg-reserved", "BUILDKIT_"},
		{"build: {network: host}\n", "1:18", "build-network-invalid", "internet"},
		{"build: {args: {A: \"\\0\"}}\n", "1:16", "build-arg-invalid", ""},

		// Syntax.
		{"name: [f\n", "1:7", "manifest-syntax", ""},
		{"name: \"f\n", "1:7", "manifest-syntax", ""},
		{"\tname: f\n", "1:5", "manifest-syntax", ""},
		{"name: a: b\n", "1:7", "manifest-syntax", ""},
		{"name: f\n---\nname: g\n", "3:5", "manifest-syntax", "---"},
		{"%YAML 1.2\n---\nname: f\n", "1:1", "manifest-syntax", "%"},
		{"? name\n: f\n", "1:1", "manifest-syntax", "KEY: VALUE"},
		{"{\"name\": \"f\"", "", "manifest-syntax", ""},
		{"{\"name\": \"f\"} x", "", "manifest-syntax", ""},
		{"name: f\xff\n", "1:1", "manifest-encoding", "UTF-8"},
		{"name: f\x00\n", "1:1", "manifest-encoding", "UTF-8"},
		{"{\"env\": {\"A\": \"\\ud83d\"}}", "1:15", "manifest-encoding", ""},
		{"{\"env\": {\"A\": \"\\ud83d\\u0041\"}}", "1:15", "manifest-encoding", ""},
		{"{\"env\": {\"A\": \"\\ud83d\\ud83d\\ude00\"}}", "1:15", "manifest-encoding", ""},
		{"{\"env\": {\"A\": \"x\\uDE00\"}}", "1:15", "manifest-encoding", ""},
		{"name: &x f\n", "1:7", "manifest-alias", "quotes"},
		{"name: *x\n", "1:7", "manifest-alias", "quotes"},
		{"scale: &a {min: 1}\n<<: *a\n", "1:8", "manifest-alias", ""},
		{"<<: {name: f}\n", "1:1", "manifest-alias", ""},
		{"name: !!str 5\n", "1:7", "manifest-tag", ""},
		{"env: !!map {A: b}\n", "1:6", "manifest-tag", ""},
		{"name: !!python/object/apply:os.system [id]\n", "1:7", "manifest-tag", ""},

		// Bombs.
		{strings.Repeat("[", 3_000), "1:17", "manifest-too-deep", ""},
		{strings.Repeat("{a: ", 2_000), "", "manifest-too-deep", ""},
		{strings.Repeat("- ", 30), "1:33", "manifest-too-deep", ""},
		{deep(200), "", "manifest-too-deep", ""},
		{"{\"name\":\"x\",\"a\":" + strings.Repeat("[", 3_000) + strings.Repeat("]", 3_000) + "}", "", "manifest-too-deep", ""},
		{strings.Repeat("a: ", 10_000), "", "manifest-too-complex", ""},
		{"{\"env\": [" + strings.Repeat("1,", 10_000) + "1]}", "", "manifest-too-complex", ""},
		{"a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: [*b,*b,*b,*b]\n", "1:4", "manifest-alias", ""},
	}
	for _, c := range cases {
		name := c.text
		if len(name) > 40 {
			name = name[:40]
		}
		t.Run(name, func(t *testing.T) {
			_, err := manifest.Apply(orchestrator.DefaultSpec(), doc(c.text))
			wantError(t, err, orchestrator.ErrInvalid, c.code)
			var got *orchestrator.Error
			if !errors.As(err, &got) {
				return
			}
			if !strings.HasPrefix(got.Detail, "function.yaml:"+c.at) {
				t.Errorf("got %q, want it at %s", got.Detail, c.at)
			}
			if !strings.Contains(got.Hint, c.hint) {
				t.Errorf("got hint %q, want %q in it", got.Hint, c.hint)
			}
			if len(got.Detail) > 400 {
				t.Errorf("the message has %d bytes: %q", len(got.Detail), got.Detail)
			}
		})
	}
	t.Run("too large", func(t *testing.T) {
		_, err := manifest.Apply(orchestrator.DefaultSpec(), doc(strings.Repeat("#", manifest.MaxSize+1)))
		wantError(t, err, orchestrator.ErrTooLarge, "manifest-too-large")
	})
}

// deep nests n sections by indentation.
func deep(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%sa:\n", strings.Repeat(" ", i))
	}
	return b.String()
}

func wantError(t testing.TB, err error, class error, code string) {
	t.Helper()
	var got *orchestrator.Error
	if !errors.As(err, &got) {
		t.Fatalf("got error %v, want %s", err, code)
	}
	if got.Code != code || !errors.Is(err, class) {
		t.Errorf("got %s of class %v (%v), want %s of class %v", got.Code, got.Class, err, code, class)
	}
	if got.Hint == "" {
		t.Errorf("%s has no hint", got.Code)
	}
}

func TestValidate(t *testing.T) {
	template := orchestrator.Template{Name: "python", Bases: []orchestrator.Base{{Arg: "BASE"}}}
	many := map[string]string{}
	for i := range 257 {
		many[fmt.Sprintf("A%d", i)] = "x"
	}
	valid := func() orchestrator.Spec {
		spec := manifest.Defaults(template)
		spec.Name, spec.Template = "f", "python"
		return spec
	}
	if err := manifest.Validate(valid(), template); err != nil {
		t.Fatalf("the defaults are not valid: %v", err)
	}
	for _, c := range []struct {
		change func(*orchestrator.Spec)
		code   string
		detail string
	}{
		{func(s *orchestrator.Spec) { s.Name = "" }, "name-missing", "name: "},
		{func(s *orchestrator.Spec) { s.Template = "" }, "template-missing", "template: "},
		{func(s *orchestrator.Spec) { s.Template = "node" }, "template-mismatch", ""},
		{func(s *orchestrator.Spec) { s.Secrets = []string{"../key"} }, "secret-invalid", "secrets: "},
		{func(s *orchestrator.Spec) { s.Scale.Min = 11 }, "scale-invalid", "scale.min is 11, more than scale.max"},
		{func(s *orchestrator.Spec) { s.Resources.Memory = 0 }, "memory-invalid", "resources.memory: "},
		{func(s *orchestrator.Spec) { s.Timeout = 0 }, "timeout-invalid", "timeout: "},
		{func(s *orchestrator.Spec) { s.Env = many }, "env-too-many", "env: "},
		{func(s *orchestrator.Spec) { s.Env = map[string]string{"A": strings.Repeat("x", 50<<10)} }, "env-too-large", "env: "},
		{func(s *orchestrator.Spec) { s.Env = map[string]string{"PORT": "1"} }, "env-reserved", "env: "},
		{func(s *orchestrator.Spec) { s.Build.Args = map[string]string{"BASE": "evil"} }, "build-arg-reserved", "build.args: BASE"},
		{func(s *orchestrator.Spec) { s.Build.Packages = make([]string, 129) }, "package-too-many", "build.packages: "},
	} {
		spec := valid()
		c.change(&spec)
		err := manifest.Validate(spec, template)
		wantError(t, err, orchestrator.ErrInvalid, c.code)
		if !strings.Contains(err.Error(), c.detail) {
			t.Errorf("got %v, want %q in it", err, c.detail)
		}
	}
}

func TestDefaults(t *testing.T) {
	got := manifest.Defaults(orchestrator.Template{Defaults: orchestrator.TemplateDefaults{Concurrency: 64, Memory: orchestrator.GiB}})
	want := orchestrator.DefaultSpec()
	want.Concurrency, want.Resources.Memory = 64, orchestrator.GiB
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
}

// TestTriggers gives what can be wrong with triggers whatever their kind is.
func TestTriggers(t *testing.T) {
	for text, want := range map[string]string{
		"triggers: [{name: a, type: b}]":                          "",
		"triggers:\n":                                             "",
		"triggers: x":                                             "m:1:11: triggers must be a list",
		"triggers: [x]":                                           "m:1:12: triggers[0] must be keys",
		"triggers: [{type: b}]":                                   "m:1:13: triggers[0]: the trigger has no name",
		"triggers:\n  - name: a":                                  "m:2:5: triggers[0]: the trigger has no type",
		"triggers: [{name: 5, type: b}]":                          "m:1:19: triggers[0].name must be text",
		"triggers: [{name: A, type: b}]":                          `m:1:13: triggers[0]: "A" is no name of a trigger`,
		"triggers: [{name: a, type: B}]":                          `m:1:13: triggers[0]: "B" is no type`,
		"triggers: [{name: a, type: b}, {name: a, type: c}]":      "m:1:33: triggers: the trigger a is there twice",
		"triggers:\n  - {name: a, type: b, x: }":                  "m:2:26: triggers[0].x has no value",
		"triggers:\n  - {name: a, type: b, x: 0x10}":              "m:2:27: triggers[0].x: 0x10 is no plain number",
		"triggers:\n  - {name: a, type: b, x: 9007199254740991}":  "",
		"triggers:\n  - {name: a, type: b, x: 90071992547409930}": "m:2:27: triggers[0].x: 90071992547409930 is no plain number",
	} {
		_, err := manifest.Apply(orchestrator.DefaultSpec(), manifest.Document{Name: "m", Data: []byte(text)})
		if got := fmt.Sprint(err); want == "" && err != nil || want != "" && !strings.HasPrefix(got, want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// TestCheckTriggers: what a kind refuses is told at its place in the document that
// says it.
func TestCheckTriggers(t *testing.T) {
	refuse := func(setting string) func(orchestrator.Trigger) error {
		return func(trigger orchestrator.Trigger) error {
			if trigger.Name != "b" {
				return nil
			}
			return &orchestrator.SettingError{Setting: setting, Cause: orchestrator.Errorf(orchestrator.ErrInvalid, "code", "is wrong").WithHint("hint")}
		}
	}
	first := manifest.Document{Name: "first", Data: []byte("triggers: [{name: b, type: k, cron: old}]")}
	second := manifest.Document{Name: "second", Data: []byte("triggers:\n  - name: a\n    type: k\n  - name: b\n    type: k\n    cron: x\n    filter:\n      prefix: y\n")}
	other := manifest.Document{Name: "third", Data: []byte("name: f")}
	spec, err := manifest.Apply(orchestrator.DefaultSpec(), first, second, other)
	if err != nil {
		t.Fatal(err)
	}
	for setting, want := range map[string]string{
		"cron":          "second:6:11: triggers[1].cron: is wrong",
		"filter.prefix": "second:8:15: triggers[1].filter.prefix: is wrong",
		"missing":       "second:4:5: triggers[1].missing: is wrong",
		"":              "second:4:5: triggers[1]: is wrong",
	} {
		err := manifest.CheckTriggers(spec, refuse(setting), first, second, other)
		if got, ok := errors.AsType[*orchestrator.Error](err); !ok || got.Detail != want || got.Hint != "hint" {
			t.Errorf("%q: %v, want %q", setting, err, want)
		}
	}
	if err := manifest.CheckTriggers(spec, refuse("cron"), other); err == nil || err.Error() != "triggers[1].cron: is wrong" {
		t.Errorf("without the document: %v", err)
	}
	if err := manifest.CheckTriggers(spec, nil, second); !errors.Is(err, orchestrator.ErrInvalid) {
		t.Errorf("where there are no triggers: %v", err)
	}
}

func TestAsyncSettings(t *testing.T) {
	base := completeSpec()
	for document, ok := range map[string]bool{
		`async: {attempts: 1}`: true, `async: {attempts: 0}`: false, `async: {attempts: 101}`: false,
		`async: {retry_on: ["503", "4xx"]}`: true, `async: {retry_on: ["200"]}`: false, `async: {retry_on: [none]}`: true,
		`async: {retry_on: [503]}`: false, `async: {retry_on: ["5xx", "5xx"]}`: false,
		`async: {on_success: "function:a"}`: true, `async: {on_success: "function:A"}`: false, `async: {on_success: "a"}`: false,
		`async: {on_success: "nats:orders.done"}`: true, `async: {on_success: "nats:orders.>"}`: false, `async: {on_success: "nats:$JS.API"}`: false,
		`async: {on_success: "nats:kiln.journal"}`: false, `async: {on_success: "nats:"}`: false,
		`async: {on_failure: "https://example.com/x?y=1"}`: true, `async: {on_failure: "https://u:p@example.com"}`: false,
		`async: {on_failure: "ftp://example.com"}`: false, `async: {on_failure: ""}`: true,
		`async: {max_age: 1ms}`: false, `async: {backoff: 0s}`: true, `async: {backoff: 48h}`: false,
	} {
		if _, err := manifest.Apply(base, manifest.Document{Name: "function.yaml", Data: []byte(document)}); (err == nil) != ok {
			t.Errorf("%s: %v", document, err)
		}
	}
}

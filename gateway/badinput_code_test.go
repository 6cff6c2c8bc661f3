package gateway_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kilnfaas/kiln/gateway"
	"github.com/kilnfaas/kiln/gateway/api"
)

// badSettings says bad settings in the three ways there are: in function.yaml, in
// the field of a form, and in the body of a change.
func badSettings(t *testing.T) (rows []bad) {
	for _, text := range badDocuments() {
		name := fmt.Sprintf("%.50q", text)
		body, media := formOf(t, part{"archive", "x.zip", string(zipOf(t, file{"handler.py", goodHandler}))}, part{"spec", "", text})
		rows = append(rows,
			bad{name: "function.yaml " + name, send: request("PUT", "/v1/functions/x", zipOf(t, file{"handler.py", goodHandler}, file{"function.yaml", text}))},
			bad{name: "the field spec " + name, send: request("PUT", "/v1/functions/x", body, "Content-Type", media)},
			bad{name: "a change " + name, send: request("PATCH", "/v1/functions/hello", text, "Content-Type", api.MediaYAML)})
	}
	return rows
}

// badDocuments are settings that cannot be.
func badDocuments() []string {
	pairs := func(n int, key, value string) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf("%s%d: %s", key, i, value))
		}
		return "{" + strings.Join(all, ", ") + "}"
	}
	var packages []string
	for i := range 129 {
		packages = append(packages, fmt.Sprintf("lib%d", i))
	}
	return []string{
		"nmae: f", "Name: f", "memory: 1GiB", "scale: {maxx: 3}", "scale: {min: 1, min: 1}", "env: {A: 1, A: 2}", "1: x", "env: {true: x}", "{\"name\": \"f\", \"name\": \"f\"}",
		"just text", "- a", "42", "scale: 5", "resources: [1]", "name: 5", "name: [f]", "name: {a: b}", "name: ~", "template: true", "handler: 7", "timeout: ~", "timeout: true", "timeout: 1.5", "timeout: 30", "timeout: -3s", "timeout: soon",
		"timeout: 99999999999h", "concurrency: \"5\"", "concurrency: 5.0", "concurrency: 0x10", "concurrency: 99999999999999999999", "resources: {cpu: half}", "resources: {cpu: .inf}", "resources: {cpu: .nan}", "resources: {cpu: -0.5}",
		"resources: {memory: lots}", "resources: {memory: -1}", "resources: {memory: 1e3}", "resources: {memory: 99999999999999999999GiB}", "resources: {tmp: [1]}", "build: {test: yes}", "build: {test: 1}", "secrets: one", "secrets: [one, 2]", "env: [A]",
		"env: {A: {B: c}}", "env: {A: [b]}", "build: {args: [A]}", "build: {packages: gcc}",
		"name: Hello", "name: a_b", "name: \"\"", "name: " + strings.Repeat("x", 64), "name: ../x", "template: ../../etc", "template: cobol", "template: ''", "handler: /etc/passwd", "handler: ../up.py", "handler: a//b", "handler: 'app.py:'",
		"handler: app.py:$(id)", "handler: 'a\\b'", "handler: '*.py'", "handler: \"a\\nb\"", "handler: " + strings.Repeat("x", 1025),
		"env: {1A: b}", "env: {A-B: b}", "env: {'': b}", "env: {A: \"x\\0y\"}", "env: {PORT: 80}", "env: {KILN_CELL_TOKEN: x}", "env: {\"A=B\": c}", "env: {A: \"" + strings.Repeat("x", 50<<10) + "\"}", "env: " + pairs(257, "A", "b"),
		"secrets: [../x]", "secrets: [x, x]", "secrets: [key]", "resources: {memory: 5MiB}", "resources: {memory: 2000GiB}", "resources: {cpu: 0}", "resources: {cpu: 513}", "resources: {tmp: 0}", "timeout: 0", "timeout: 25h",
		"concurrency: 0", "concurrency: -1", "concurrency: 10001", "max_request: -1", "scale: {min: -1}", "scale: {max: 0}", "scale: {max: 1001}", "scale: {min: 11}", "scale: {min: 5, max: 4}", "scale: {keep_alive: 0}", "scale: {freeze_after: 1000h}",
		"build: {packages: [Libpq]}", "build: {packages: ['--purge']}", "build: {packages: ['gcc; id']}", "build: {packages: [gcc, gcc]}", "build: {packages: [" + strings.Join(packages, ", ") + "]}", "build: {args: {a b: c}}", "build: {args: {KILN_X: c}}",
		"build: {args: {BASE: evil}}", "build: {args: {A: \"\\0\"}}", "build: {args: " + pairs(257, "A", "b") + "}",
		"name: [f", "name: \"f", "\tname: f", "name: a: b", "name: f\n---\nname: g", "%YAML 1.2\n---\nname: f", "? name\n: f", "{\"name\": \"f\"", "{\"name\": \"f\"} x", "name: f\xff", "name: f\x00", "{\"env\": {\"A\": \"\\ud83d\"}}",
		"name: &x f", "name: *x", "<<: {name: f}", "name: !!str 5", "name: !!python/object/apply:os.system [id]",
		strings.Repeat("[", 3_000), strings.Repeat("{a: ", 2_000), strings.Repeat("- ", 30), strings.Repeat("a: ", 10_000), "{\"env\": [" + strings.Repeat("1,", 10_000) + "1]}", "{\"a\":" + strings.Repeat("[", 3_000) + strings.Repeat("]", 3_000) + "}",
		"a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: [*b,*b,*b,*b]", strings.Repeat("#", gateway.MaxSpec+1),
	}
}

// badCode is code that its template has no use for, and settings in the wrong
// place.
func badCode(t *testing.T) (rows []bad) {
	for _, c := range []struct {
		name, spec string
		files      []file
	}{
		{"no handler", "template: python", []file{{"main.py", ""}}},
		{"no template that fits", "", []file{{"readme.md", "x"}}},
		{"two templates that fit", "", []file{{"handler.py", ""}, {"package.json", "{}"}}},
		{"the handler that is named is not there", "template: python\nhandler: app.py", []file{{"handler.py", ""}}},
		{"the handler is a folder", "template: python", []file{{"handler.py/x", ""}}},
		{"a folder around it", "template: python", []file{{"hello-main/handler.py", ""}}},
		{"a folder around something else", "template: python", []file{{"hello-main/x", ""}}},
		{"another Go package", "template: go", []file{{"handler.go", "package main"}}},
		{"Go that is none", "template: go", []file{{"handler.go", "fn main() {}"}}},
		{"Go tests only", "template: go", []file{{"x_test.go", "package function"}}},
		{"Go of a zero byte", "template: go", []file{{"handler.go", "\x00"}}},
		{"no Dockerfile", "template: dockerfile", []file{{"main.go", "package main"}}},
		{"no executable", "template: exec", []file{{"run.sh", ""}}},
		{"a library that is none", "template: cdylib", []file{{"x.so", "x"}}},
		{"half a library", "template: cdylib", []file{{"x.so", "\x7fELF\x02\x01\x01"}}},
		{"a library of zeros", "template: cdylib", []file{{"x.so", "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 100)}}},
		{"a library whose sections are beyond its end", "template: cdylib", []file{{"x.so", "\x7fELF\x02\x01\x01" + strings.Repeat("\xff", 100)}}},
		{"several libraries", "template: cdylib", []file{{"x.so", "x"}, {"y.so", "y"}}},
		{"settings in function.yml", "template: python", []file{{"handler.py", ""}, {"function.yml", "name: x"}}},
		{"settings in function.json", "template: python", []file{{"handler.py", ""}, {"function.json", "{}"}}},
		{"settings in a folder", "template: python", []file{{"handler.py", ""}, {"function.yaml/x", ""}}},
		{"only settings", "", []file{{"function.yaml", "name: x"}}},
	} {
		body, media := formOf(t, part{"file", "x.zip", string(zipOf(t, c.files...))}, part{"spec", "", c.spec})
		rows = append(rows, bad{name: c.name, send: request("POST", "/upload", body, "Content-Type", media)})
	}
	for _, c := range []struct{ name, filename, data, spec string }{
		{"a single file of no template", "hello.txt", "hello", ""},
		{"a single file without a name", "", "hello", ""},
		{"a single file of a name that is a path", "../../etc/passwd", "x", ""},
		{"a single empty file", "hello.py", "", ""},
		{"a single file of an unknown template", "hello.py", "x", "template: cobol"},
		{"a single binary", "hello.bin", "\x00\x01", ""},
		{"a single Go file of another package", "hello.go", "package main", ""},
		{"a single library that is none", "hello.so", "x", ""},
		{"a single file whose name makes none", "Hello World.py", "x", ""},
		{"a single file whose handler escapes", "hello.py", "x", "template: python\nhandler: ../x.py"},
		{"a single file that is too large", "hello.py", strings.Repeat("x", int(badLimits().Compressed)+1), ""},
	} {
		body, media := formOf(t, part{"file", c.filename, c.data}, part{"spec", "", c.spec})
		if c.filename == "" {
			body = strings.Replace(body, `name="file"`, `name="file"; filename=""`, 1)
		}
		rows = append(rows, bad{name: c.name, send: request("POST", "/upload", body, "Content-Type", media)})
	}
	return rows
}

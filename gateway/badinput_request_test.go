package gateway_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kilnfaas/kiln/gateway"
	"github.com/kilnfaas/kiln/gateway/api"
)

// badHeads are requests that are no HTTP, or that two parsers may read
// differently. None may be taken for anything, whatever it is for.
func badHeads() (rows []bad) {
	long := strings.Repeat("x", 64<<10)
	for _, target := range []string{"/invoke/hello", "/v1/functions/hello"} {
		post := "POST " + target + " HTTP/1.1\r\nHost: a\r\n"
		get := "GET " + target + " HTTP/1.1\r\nHost: a\r\n"
		line := func(format string) string { return fmt.Sprintf(format, target) + "\r\nHost: a\r\n\r\n" }
		for _, c := range [][2]string{
			{"a length and a coding", post + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
			{"a coding and a length", post + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n"},
			{"two lengths", post + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"}, {"a length twice", post + "Content-Length: 1\r\nContent-Length: 1\r\n\r\na"},
			{"a list of lengths", post + "Content-Length: 1, 1\r\n\r\na"}, {"a length with a sign", post + "Content-Length: +1\r\n\r\na"}, {"a negative length", post + "Content-Length: -1\r\n\r\na"},
			{"a length in hexadecimal", post + "Content-Length: 0x1\r\n\r\na"}, {"a length with an underscore", post + "Content-Length: 1_0\r\n\r\n0123456789"}, {"an empty length", post + "Content-Length:\r\n\r\na"},
			{"a length beyond 64 bits", post + "Content-Length: 99999999999999999999\r\n\r\na"}, {"a length with a blank inside", post + "Content-Length: 1 0\r\n\r\n0123456789"},
			{"two codings", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"}, {"a list of codings", post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"},
			{"a coding that nobody knows", post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"}, {"a coding with a control character", post + "Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n"}, {"a coding in quotes", post + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"},
			{"identity as a coding", post + "Transfer-Encoding: identity\r\n\r\n"}, {"an empty coding", post + "Transfer-Encoding:\r\n\r\n"},
			{"a coding in HTTP/1.0", "POST " + target + " HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
			{"a blank before the colon", post + "Content-Length : 1\r\n\r\na"}, {"a tab before the colon", post + "Content-Length\t: 1\r\n\r\na"}, {"a blank before a name", "GET " + target + " HTTP/1.1\r\n Host: a\r\n\r\n"},
			{"a folded line", get + "X: a\r\n b\r\n\r\n"}, {"a folded length", post + "Content-Length:\r\n 1\r\n\r\na"}, {"bare line feeds", "GET " + target + " HTTP/1.1\nHost: a\n\n"}, {"a bare line feed", get + "X: a\nY: b\r\n\r\n"},
			{"a bare line feed at the end", get + "\n"}, {"a bare carriage return", get + "X: a\rb\r\n\r\n"}, {"two carriage returns", get + "X: a\r\r\n\r\n"}, {"a zero byte in a value", get + "X: a\x00b\r\n\r\n"}, {"a zero byte in a name", get + "X\x00: b\r\n\r\n"},
			{"a delete in a value", get + "X: a\x7fb\r\n\r\n"}, {"a name of nothing", get + ": b\r\n\r\n"}, {"a line without a colon", get + "X\r\n\r\n"}, {"a name in parentheses", get + "(X): b\r\n\r\n"}, {"a name beyond ASCII", get + "\xc3\xbc: b\r\n\r\n"},
			{"no host", "GET " + target + " HTTP/1.1\r\nX: a\r\n\r\n"}, {"two hosts", get + "Host: a\r\n\r\n"}, {"a host with a slash", "GET " + target + " HTTP/1.1\r\nHost: a/b\r\n\r\n"}, {"a host with a blank", "GET " + target + " HTTP/1.1\r\nHost: a b\r\n\r\n"},
			{"an empty line before it", "\r\n" + get + "\r\n"}, {"no version", line("GET %s")}, {"version 1.2", line("GET %s HTTP/1.2")}, {"version 2 without its preface", line("GET %s HTTP/2.0")}, {"version 9", line("GET %s HTTP/9.1")}, {"version 1.10", line("GET %s HTTP/1.10")},
			{"a version in small letters", line("GET %s http/1.1")}, {"another protocol", line("GET %s SIP/2.0")}, {"two blanks", line("GET  %s HTTP/1.1")}, {"tabs", line("GET\t%s\tHTTP/1.1")}, {"a blank in the target", line("GET %s /x HTTP/1.1")},
			{"a fragment", line("GET %s#x HTTP/1.1")}, {"a broken escape", line("GET %s%%zz HTTP/1.1")}, {"half an escape", line("GET %s%%4 HTTP/1.1")}, {"a control character in the target", line("GET %s\x01 HTTP/1.1")}, {"a delete in the target", line("GET %s\x7f HTTP/1.1")},
			{"a method with a colon", line("GE:T %s HTTP/1.1")}, {"a method beyond ASCII", line("G\xc3\x96T %s HTTP/1.1")}, {"no method", line(" %s HTTP/1.1")}, {"no target", "GET  HTTP/1.1\r\nHost: a\r\n\r\n"},
			{"a head over 64 KiB", get + "X: " + long + "\r\n\r\n"}, {"a target over 64 KiB", "GET " + target + "?" + long}, {"a method over 64 KiB", long + long}, {"too many fields", get + strings.Repeat("A: b\r\n", 300) + "\r\n"},
			{"an encrypted greeting", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"}, {"nonsense", "\xff\xfe\xfd\r\n\r\n"}, {"an expectation that nobody meets", get + "Expect: 200-ok\r\n\r\n"},
		} {
			if target == "/invoke/hello" || strings.Contains(c[1], target) {
				rows = append(rows, bad{name: target + " " + c[0], send: c[1], last: true, plain: strings.Contains(c[1], "Expect:")})
			}
		}
	}
	return rows
}

// badControl are requests that are HTTP, and that the API does not have.
func badControl() (rows []bad) {
	add := func(name, send string) { rows = append(rows, bad{name: name, send: send}) }
	for _, r := range []struct {
		path    string
		methods string // that it has
	}{
		{"/upload", "POST"}, {"/v1/functions", "GET HEAD"}, {"/v1/functions/hello", "GET HEAD PUT PATCH DELETE"}, {"/v1/functions/hello/revisions", "GET HEAD"}, {"/v1/functions/hello/rollback", "POST"},
		{"/v1/functions/hello/logs", "GET HEAD"}, {"/v1/functions/hello/instances", "GET HEAD"}, {"/v1/templates", "GET HEAD"}, {"/v1/templates/python", "GET HEAD"}, {"/v1/templates/python/scaffold", "GET HEAD"},
		{"/v1/version", "GET HEAD"}, {"/healthz", "GET HEAD"}, {"/readyz", "GET HEAD"}, {"/metrics", "GET HEAD"}, {"/openapi.yaml", "GET HEAD"},
	} {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get"} {
			if !strings.Contains(" "+r.methods+" ", " "+method+" ") {
				add(method+" "+r.path, request(method, r.path, ""))
			}
		}
	}
	for _, path := range []string{"/", "/v1", "/v1/", "/v2/functions", "/v1/functions/", "/v1/functions/hello/", "/v1/functions/hello/x", "//v1/functions", "/v1/./functions", "/v1/../v1/functions", "/v1//functions", "/V1/functions", "/v1/functions%2fhello",
		"/invoke", "/invoke/", "/invoke//hello", "/invokehello", "/Invoke/hello", "/.git/config", "/favicon.ico", "/upload/", "/healthz/x", "/_kiln/load", "/_kiln/ready", "/%2e%2e/etc/passwd", "/\xff", "/?", "*"} {
		add("GET "+fmt.Sprintf("%q", path), request("GET", path, ""))
	}
	for _, name := range []string{"POST http://kiln.test/v1/functions", "CONNECT kiln.test:443", "POST /v1/functions?x=1"} {
		method, target, _ := strings.Cut(name, " ")
		add(name, request(method, target, ""))
	}
	for _, media := range []string{"text/plain", "application/json", "application/x-ndjson", "image/png", "a/b/c", ";", "/", "multipart/form-data; boundary", "multipart/mixed; boundary=b", "application/zip; =", "text/html; charset=\xff"} {
		add("PUT of "+fmt.Sprintf("%q", media), request("PUT", "/v1/functions/x", "x", "Content-Type", media))
	}
	for _, media := range []string{"", "text/plain", "application/zip", "multipart/form-data; boundary=b", "application/json;;;=", "application/json-patch+json"} {
		add("PATCH of "+fmt.Sprintf("%q", media), request("PATCH", "/v1/functions/hello", "{}", "Content-Type", media))
	}
	for _, accept := range []string{"text/html", "application/json;q=0", "nonsense", "*/*, application/json;q=0, application/x-ndjson;q=0", "application/json;q=2", "application/json;q=x", "image/*", ", ,"} {
		for _, r := range []string{"GET /v1/functions", "GET /v1/functions/hello", "PUT /v1/functions/x", "PATCH /v1/functions/hello"} {
			method, target, _ := strings.Cut(r, " ")
			add(r+" accepting "+fmt.Sprintf("%q", accept), request(method, target, "{}", "Accept", accept, "Content-Type", map[string]string{"PATCH": "application/json"}[method]))
		}
	}
	for _, query := range []string{"tail=-1", "tail=x", "tail=", "tail=99999999999999999999", "tail=1&tail=2", "follow=perhaps", "follow=", "since=yesterday", "since=-5m", "since=2026-13-01T00:00:00Z", "lines=3", "%zz", "a;b", "tail=1;follow=1"} {
		add("logs?"+query, request("GET", "/v1/functions/hello/logs?"+query, ""))
	}
	for _, query := range []string{"name=Bad_Name", "name=", "name=a&name=b", "nam=a", "name=" + strings.Repeat("a", 64), "name=..%2f..%2fx", "name=%ff", "name=%22%0d%0aX:y", "%", "name=a;x=b"} {
		add(fmt.Sprintf("scaffold?%.30s", query), request("GET", "/v1/templates/python/scaffold?"+query, ""))
	}
	for _, body := range []string{"x", "[]", "42", "null x", `"1"`, "{", `{"revision":1}`, `{"revision":["1"]}`, `{"revison":"1"}`, `{"revision":"1"}{}`, `{"revision":"1"} x`, `{"revision":"9"}`, `{"revision":"r1-"}`, `{"revision":"../x"}`, "{\"revision\":\"\xff\"}",
		`{"revision":"` + strings.Repeat("1", 5000) + `"}`, strings.Repeat("[", 4000), strings.Repeat(" ", 5000), "\x00", `{"revision":"-1"}`, `{"revision":"r"}`} {
		add(fmt.Sprintf("a rollback to %.40q", body), request("POST", "/v1/functions/hello/rollback", body, "Content-Type", "application/json"))
	}
	add("a rollback without an earlier revision", request("POST", "/v1/functions/hello/rollback", ""))
	add("a rollback of text", request("POST", "/v1/functions/hello/rollback", "{}", "Content-Type", "text/plain"))
	for _, deadline := range []string{"x", "-1", "0", "1", "1.5", "99999999999999999999", "2026-01-01", "2026-13-01T00:00:00Z", "1970-01-01T00:00:01Z", strings.Repeat("9", 300), "\xff"} {
		add(fmt.Sprintf("a deadline of %.30q", deadline), request("POST", "/invoke/hello", "x", "Kiln-Deadline", deadline))
	}
	add("a deadline twice", request("GET", "/invoke/hello", "", "Kiln-Deadline", "x", "Kiln-Deadline", "y"))
	for _, headers := range [][]string{{"Origin", "https://evil.example"}, {"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "null"}} {
		for _, r := range []string{"POST /upload", "PUT /v1/functions/x", "PATCH /v1/functions/hello", "DELETE /v1/functions/hello", "POST /v1/functions/hello/rollback"} {
			method, target, _ := strings.Cut(r, " ")
			add(fmt.Sprintf("%s from %s %s", r, headers[0], headers[1]), request(method, target, "x", headers...))
		}
	}
	for _, c := range [][2]string{
		{"a chunk that is no number", "x\r\n"}, {"a negative chunk", "-1\r\n"}, {"a chunk beyond 64 bits", "fffffffffffffffff\r\n"}, {"a chunk that is too long", "1\r\nabc\r\n0\r\n\r\n"}, {"a chunk in 0x", "0x1\r\na\r\n0\r\n\r\n"}, {"an extension without end", "1;" + strings.Repeat("a", 20<<10) + "\r\n"},
	} {
		for _, target := range []string{"PUT /v1/functions/x", "POST /v1/functions/hello/rollback"} {
			add(target+" with "+c[0], target+" HTTP/1.1\r\nHost: a\r\nContent-Type: application/"+map[bool]string{true: "zip", false: "json"}[target[1] == 'U']+"\r\nTransfer-Encoding: chunked\r\n\r\n"+c[1])
		}
		rows = append(rows, bad{name: "POST /invoke/hello with " + c[0], send: "POST /invoke/hello HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + c[1], last: true, called: true})
	}
	const huge = 1 << 62
	add("an invocation of exabytes", fmt.Sprintf("POST /invoke/hello HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", huge/16))
	add("a deploy of exabytes", fmt.Sprintf("PUT /v1/functions/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\nPK\x03\x04%s", huge/16, strings.Repeat("x", 3<<20)))
	add("a deploy without end", "PUT /v1/functions/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nPK\x03\x04\r\n"+strings.Repeat("10000\r\n"+strings.Repeat("x", 1<<16)+"\r\n", 50))
	add("a change over its bound", request("PATCH", "/v1/functions/hello", strings.Repeat(" ", gateway.MaxSpec+1), "Content-Type", "application/json"))
	return rows
}

// badNames are names that no function has or can have.
func badNames() (rows []bad) {
	for _, name := range []string{"Hello", "a_b", "a.b", "-a", "a-", "a%20b", "%20", "%2e%2e", "..", ".", "a%00b", "%00", "a%2fb", "..%2f..%2fetc", "a%0d%0ab", "a%1b%5b2J", "%ff", "%c3%bc", "\xc3\xbc", "%7bname%7d", "{name}", "a:b", "a;b", "a,b", "a'b", "%22", "%3cscript%3e", "$(id)", "%25s%25n",
		strings.Repeat("a", 64), strings.Repeat("a", 60<<10), strings.Repeat("%2e%2e%2f", 1000)} {
		for _, r := range []string{"PUT /v1/functions/%s", "PATCH /v1/functions/%s", "DELETE /v1/functions/%s", "GET /v1/functions/%s/logs", "GET /v1/templates/%s/scaffold", "POST /invoke/%s/x"} {
			method, target, _ := strings.Cut(fmt.Sprintf(r, name), " ")
			body, media := "", ""
			switch method {
			case "PATCH":
				body, media = "{}", "application/json"
			case "PUT":
				body = "x"
			}
			shown := name
			if len(shown) > 40 {
				shown = fmt.Sprintf("%s… (%d bytes)", name[:20], len(name))
			}
			rows = append(rows, bad{name: strings.Replace(r, "%s", fmt.Sprintf("%q", shown), 1), send: request(method, target, body, "Content-Type", media)})
		}
	}
	return rows
}

// badForms are forms that cannot be read or are not as they should be.
func badForms(t *testing.T) (rows []bad) {
	code := part{"file", "f", "x"}
	var media string
	add := func(name, body, media string) {
		rows = append(rows, bad{name: name, send: request("POST", "/upload", body, "Content-Type", media)})
	}
	parts := func(name string, parts ...part) {
		body, media := formOf(t, parts...)
		add(name, body, media)
		// The same form for the other route, whose file has another name.
		for i := range parts {
			if parts[i].name == "file" {
				parts[i].name = api.FieldArchive
			}
		}
		body, media = formOf(t, parts...)
		rows = append(rows, bad{name: "PUT: " + name, send: request("PUT", "/v1/functions/x", body, "Content-Type", media)})
	}
	parts("no file", part{"spec", "", "{}"})
	parts("nothing", []part{}...)
	parts("an unknown field", code, part{"tempalte", "", "go"})
	parts("a field of a name without end", code, part{strings.Repeat("n", 5000), "", "x"})
	parts("a file as settings", part{"other", "f", "x"})
	parts("two files", code, part{"file", "g", "y"})
	parts("two settings", code, part{"spec", "", "{}"}, part{"spec", "", "{}"})
	parts("settings without end", code, part{"spec", "", strings.Repeat("#", gateway.MaxSpec+1)})
	parts("a field without a name", part{"", "f", "x"})
	parts("a file over all bounds", part{"file", "f", strings.Repeat("a", 3<<20)})
	parts("thousands of fields", append(make([]part, 5000), code)...)
	add("two names", mustForm(t, &media, code, part{"name", "", "a"}, part{"name", "", "b"}), media)
	add("a name without end", mustForm(t, &media, code, part{"name", "", strings.Repeat("a", gateway.MaxField+1)}), media)
	add("a template without end", mustForm(t, &media, code, part{"template", "", strings.Repeat("a", gateway.MaxField+1)}), media)
	for _, name := range []string{"Bad_Name", "../x", "a b", "-", strings.Repeat("a", 64), "a\x00", "\xff", "a\r\nb"} {
		add(fmt.Sprintf("the name %.20q", name), mustForm(t, &media, part{"file", "handler.py", goodHandler}, part{"name", "", name}), media)
	}
	for _, template := range []string{"cobol", "../python", "Python", "\x00", strings.Repeat("a", 64)} {
		add(fmt.Sprintf("the template %.20q", template), mustForm(t, &media, part{"file", "handler.py", goodHandler}, part{"name", "", "x"}, part{"template", "", template}), media)
	}
	whole, media := formOf(t, part{"name", "", "x"}, code)
	boundary := boundaryOf(whole)
	add("empty", "", media)
	add("cut off in its end", whole[:len(whole)-10], media)
	add("cut off in a boundary", whole[:len(whole)-len(boundary)], media)
	add("cut off in a value", boundary+"\r\nContent-Disposition: form-data; name=\"name\"\r\n\r\nx", media)
	add("cut off in a head", boundary+"\r\nContent-Disposition: form-data; na", media)
	add("cut off behind a head", boundary+"\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n", media)
	add("another boundary", whole, "multipart/form-data; boundary=zzz")
	add("no boundary", whole, "multipart/form-data")
	add("an empty boundary", whole, `multipart/form-data; boundary=""`)
	add("a boundary that is too long", whole, "multipart/form-data; boundary="+strings.Repeat("b", 1000))
	add("a boundary twice", whole, "multipart/form-data; boundary=a; boundary=b")
	add("a boundary of control characters", whole, "multipart/form-data; boundary=\"a\tb\"")
	add("no form", "x", media)
	add("JSON", `{"file":"x"}`, "application/json")
	add("the form of a browser without files", "file=x&name=y", "application/x-www-form-urlencoded")
	add("no type", whole, "")
	add("a mixed one", whole, strings.Replace(media, "form-data", "mixed", 1))
	raw := func(name, head string) {
		add(name, "--b\r\n"+head+"\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b")
	}
	raw("a part without a head", "")
	raw("a part without a disposition", "Content-Type: text/plain")
	raw("a part of another disposition", `Content-Disposition: attachment; name="file"`)
	raw("a part whose disposition is broken", `Content-Disposition: form-data; name="file`)
	raw("a part with a line that is no field", "Content-Disposition: form-data; name=\"file\"\r\nnonsense")
	raw("a part with a folded line", "Content-Disposition: form-data;\r\n name=\"other\"")
	raw("a part with a zero byte", "Content-Disposition: form-data; name=\"fi\x00le\"")
	raw("a part with two names", `Content-Disposition: form-data; name="file"; name="name"`)
	raw("a part with a head without end", `Content-Disposition: form-data; name="file"; x="`+strings.Repeat("x", 1<<20))
	raw("a part with thousands of fields", "Content-Disposition: form-data; name=\"file\""+strings.Repeat("\r\nX: y", 20_000))
	return rows
}

func mustForm(t *testing.T, media *string, parts ...part) (body string) {
	t.Helper()
	body, *media = formOf(t, parts...)
	return body
}

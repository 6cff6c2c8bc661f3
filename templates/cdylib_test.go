package templates_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/kilnfaas/kiln/templates"
)

// libraryKit has functions of both ABIs; the handler setting chooses one.
const libraryKit = `
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int32_t (*kiln_write)(void *, const uint8_t *, size_t);

int32_t answer(void) { return -42; }

const int32_t newer_kiln_abi = 3;
int32_t newer(void) { return 0; }

const int32_t kit_kiln_abi = 2;
static int calls;

static int32_t barrier(int want)
{
	char name[] = "/tmp/barrier-XXXXXX", line[16] = "";
	close(mkstemp(name));
	while (atoi(line) < want) {
		FILE *count = popen("ls /tmp | grep -c barrier-", "r");
		if (fgets(line, sizeof line, count) == NULL)
			return 1;
		pclose(count);
	}
	return 0;
}

static int32_t await_file(const char *name)
{
	while (access(name, F_OK) != 0)
		usleep(5000);
	return 0;
}

int32_t kit(const uint8_t *body, size_t len, kiln_write write, void *context)
{
	char word[32] = "", text[64];
	int n = 0;
	calls++;
	memcpy(word, body, len < 31 ? len : 31);
	if (sscanf(word, "status %d", &n) == 1)
		return write(context, (const uint8_t *)"status", 6), n;
	if (strcmp(word, "crash") == 0)
		return *(volatile int *)NULL;
	if (strcmp(word, "exit") == 0)
		exit(7);
	if (strcmp(word, "crash-late") == 0) {
		static uint8_t much[2 << 20];
		write(context, much, sizeof much);
		abort();
	}
	if (sscanf(word, "zeros %d", &n) == 1) {
		uint8_t part[1000] = {0};
		for (; n > 0; n -= 1000)
			write(context, part, n < 1000 ? n : 1000);
		return 0;
	}
	if (strcmp(word, "print") == 0)
		return puts("a-line-of-log"), 0;
	if (sscanf(word, "barrier %d", &n) == 1)
		return barrier(n);
	if (strcmp(word, "wait") == 0)
		return await_file("/tmp/wait-end");
	if (strcmp(word, "calls") == 0)
		return write(context, (const uint8_t *)text, snprintf(text, sizeof text, "%d", calls)), 0;
	write(context, body, len);
	return 0;
}
`

func libraryImage(t *testing.T, c *templates.Catalogue) string {
	t.Helper()
	return functionImage(t, c, "cdylib", map[string]templates.File{"kit.c": text(libraryKit)}, buildOptions{})
}

// forEachOrigin runs a test against an instance from the image and one from a
// cell.
func forEachOrigin(t *testing.T, c *templates.Catalogue, template, image string, env map[string]string, test func(*testing.T, *instance)) {
	t.Run("image", func(t *testing.T) {
		i := runImage(t, image, nil, env)
		i.waitReady()
		test(t, i)
	})
	t.Run("cell", func(t *testing.T) {
		tmpl, err := c.Template(template)
		if err != nil {
			t.Fatal(err)
		}
		i := runCell(t, c, tmpl)
		i.mustLoad(env, functionTar(t, image))
		test(t, i)
	})
}

func (i *instance) post(body string) answer {
	i.t.Helper()
	return i.send(http.MethodPost, "/", nil, strings.NewReader(body))
}

func TestCdylib_number(t *testing.T) {
	requireDocker(t)
	c := embedded(t)
	env := map[string]string{"KILN_FUNCTION": "answer"}
	forEachOrigin(t, c, "cdylib", libraryImage(t, c), env, func(t *testing.T, i *instance) {
		got := i.post("ignored")
		if got.status != 200 || got.body != "-42" || got.header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("got %d %q %q, want 200 -42 as text", got.status, got.body, got.header.Get("Content-Type"))
		}
	})
}

func TestCdylib_body(t *testing.T) {
	requireDocker(t)
	c := embedded(t)
	env := map[string]string{"KILN_FUNCTION": "other", "KILN_HANDLER": ":kit", "KILN_CONCURRENCY": "4"}
	forEachOrigin(t, c, "cdylib", libraryImage(t, c), env, func(t *testing.T, i *instance) {
		t.Run("calls", func(t *testing.T) { libraryCalls(t, i) })
		t.Run("failures", func(t *testing.T) { libraryFailures(t, i) })
		t.Run("concurrency", func(t *testing.T) { libraryConcurrency(t, i) })
		t.Run("drain", func(t *testing.T) { libraryDrain(t, i) })
	})
}

func libraryCalls(t *testing.T, i *instance) {
	big := strings.Repeat("0123456789", 800_000)
	for name, test := range map[string]struct {
		body   string
		status int
		want   string
		kind   string
	}{
		"echo":     {"hällo", 200, "hällo", "text/plain; charset=utf-8"},
		"empty":    {"", 200, "", "text/plain; charset=utf-8"},
		"binary":   {"\xff\x00", 200, "\xff\x00", "application/octet-stream"},
		"large":    {big, 200, big, "application/octet-stream"},
		"streamed": {"zeros 3000000", 200, strings.Repeat("\x00", 3_000_000), "application/octet-stream"},
		"status":   {"status 404", 404, "status", "text/plain; charset=utf-8"},
	} {
		got := i.post(test.body)
		if got.status != test.status || got.body != test.want || got.header.Get("Content-Type") != test.kind {
			t.Errorf("%s: got %d %.40q (%d bytes) %s, want %d %.40q (%d bytes) %s", name, got.status, got.body,
				len(got.body), got.header.Get("Content-Type"), test.status, test.want, len(test.want), test.kind)
		}
	}
	i.post("print")
	until(t, "the line is in the log", func() bool { return strings.Contains(i.logs(), "a-line-of-log") })
}

func libraryFailures(t *testing.T, i *instance) {
	for body, reason := range map[string]string{
		"crash":      "segmentation fault",
		"exit":       "exit status 7",
		"status 1":   "returned 1",
		"status -5":  "returned -5",
		"status 600": "returned 600",
	} {
		got := i.post(body)
		checkProblem(t, got, 500, "handler-failed")
		if !strings.Contains(got.body, reason) {
			t.Errorf("%s: got %s, want it to say %q", body, got.body, reason)
		}
		if got := i.post("still there"); got.body != "still there" {
			t.Errorf("after %s: got %d %q", body, got.status, got.body)
		}
	}
	conn, r := i.dial()
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\ncrash-late")
	if response, err := http.ReadResponse(r, nil); err == nil {
		n, err := response.Body.Read(make([]byte, 4<<20))
		for err == nil {
			n, err = response.Body.Read(make([]byte, 4<<20))
		}
		if err.Error() == "EOF" {
			t.Errorf("got a complete response after %d bytes, want a broken one", n)
		}
	}
}

func libraryConcurrency(t *testing.T, i *instance) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			response, err := http.Post(i.base, "text/plain", strings.NewReader("barrier 4"))
			if err != nil {
				t.Error(err)
				return
			}
			response.Body.Close()
			if response.StatusCode != 200 {
				t.Errorf("got %d, want 200", response.StatusCode)
			}
		})
	}
	wg.Wait()
}

func libraryDrain(t *testing.T, i *instance) {
	conn, r := i.dial()
	fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nwait")
	// A second request is answered meanwhile, so the first has been taken.
	i.post("x")
	docker(t, "kill", "--signal", "TERM", i.id)
	until(t, "the port refuses", func() bool { return !i.accepts() })
	i.touch("wait-end")
	if got := readResponse(t, r, http.MethodPost); got.status != 200 {
		t.Errorf("got %d %s, want 200", got.status, got.body)
	}
	if code := docker(t, "wait", i.id); code != "0" {
		t.Errorf("the instance ended with %s, want 0", code)
	}
}

// TestCdylib_unusable proves that what cannot be served never gets ready, and
// that the log says why.
func TestCdylib_unusable(t *testing.T) {
	requireDocker(t)
	c := embedded(t)
	image := libraryImage(t, c)
	for handler, reason := range map[string]string{
		":absent":      "undefined symbol: absent",
		":newer":       "neither 1 nor 2",
		"other.so:kit": "other.so",
	} {
		t.Run(handler, func(t *testing.T) {
			i := runImage(t, image, nil, map[string]string{"KILN_HANDLER": handler})
			until(t, "the instance ends", func() bool { return !i.running() })
			if !strings.Contains(i.logs(), reason) {
				t.Errorf("the log is %q, want %q in it", i.logs(), reason)
			}
		})
	}
}

// TestCdylib_uploadedLibrary deploys one compiled .so, as most will.
func TestCdylib_uploadedLibrary(t *testing.T) {
	requireDocker(t)
	c := embedded(t)
	image := libraryImage(t, c)
	library := fileOf(t, functionTar(t, image), "function/function.so")
	i := runImage(t, functionImage(t, c, "cdylib", map[string]templates.File{"libany.so": library}, buildOptions{}), nil,
		map[string]string{"KILN_FUNCTION": "answer"})
	i.waitReady()
	if got := i.get("/"); got.body != "-42" {
		t.Errorf("got %d %q, want -42", got.status, got.body)
	}
}

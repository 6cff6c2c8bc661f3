package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

// call is the flags of invoke.
type call struct {
	data    string
	method  string
	headers []string
	path    string
	include bool

	async    bool
	wait     time.Duration
	delay    time.Duration
	key      string // idempotency
	order    string // ordering key
	callback string
}

func (t *tool) invokeCommand() *cobra.Command {
	var c call
	cmd := &cobra.Command{
		Use:   "invoke NAME[,NAME...]",
		Short: "Call a function and print its answer",
		Long: `Call a function and print its answer. The body comes from -d: the text itself,
@FILE for a file's contents, or - for the standard input. An answer of 400 and
above gives the exit code 1; what Kiln itself has to say goes to the standard
error.

Several names are a sequence: each function gets the answer of the one before, the
last one's is printed, and the first that fails ends it.

With --async the call is queued: it is on disk when its id is printed, and is
tried again when it fails. kiln invocations get ID tells what became of it.`,
		Example: `  kiln invoke hello -d '{"name": "Ada"}'
  kiln invoke thumbnails -d @cat.png -H 'Accept: image/webp' > cat.webp
  kiln invoke shop -X DELETE --path '/orders/7?force=1'
  kiln invoke resize,watermark,store -d @cat.png
  kiln invoke report --async -d @input.csv --delay 1h --key report-7
  kiln invoke report --async --wait 1m -d @input.csv`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: t.functionNames(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			header, err := c.header(cmd)
			if err != nil {
				return err
			}
			body, media, closeBody, err := c.body(cmd, t.in)
			if err != nil {
				return err
			}
			defer closeBody()
			if media != "" && header.Get("Content-Type") == "" {
				header.Set("Content-Type", media)
			}
			if c.async {
				return t.invokeAsync(cmd, c, api.Invocation{Function: args[0], Path: c.path, Header: header, Body: body})
			}
			if flag := c.asyncOnly(cmd); flag != "" {
				return usagef(cmd, "--%s is for calls with --async", flag)
			}
			return t.invoke(cmd, api.Invocation{Function: args[0], Method: strings.ToUpper(c.method), Path: c.path, Header: header, Body: body}, c.include)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&c.data, "data", "d", "", "body: text, @FILE, or - for the standard input")
	flags.StringVarP(&c.method, "request", "X", "", "method (default POST with a body, else GET)")
	flags.StringArrayVarP(&c.headers, "header", "H", nil, "header 'Name: value'; may be repeated")
	flags.StringVar(&c.path, "path", "", "path and query below the function, for example '/orders?page=2'")
	flags.BoolVarP(&c.include, "include", "i", false, "print the status and the headers before the body")
	flags.BoolVar(&c.async, "async", false, "queue the call and print its id")
	flags.DurationVar(&c.wait, "wait", 0, "with --async: wait for the end of the call, at most so long")
	flags.DurationVar(&c.delay, "delay", 0, "with --async: make the call not before this time has passed")
	flags.StringVar(&c.key, "key", "", "with --async: idempotency key; of calls with one key one is made")
	flags.StringVar(&c.order, "order", "", "with --async: ordering key; calls of one key are made one after another")
	flags.StringVar(&c.callback, "callback", "", "with --async: URL that gets the result")
	return cmd
}

// asyncOnly returns a flag that was given and makes sense with --async alone.
func (c call) asyncOnly(cmd *cobra.Command) string {
	for _, name := range []string{"wait", "delay", "key", "order", "callback"} {
		if cmd.Flags().Changed(name) {
			return name
		}
	}
	return ""
}

// invokeAsync queues a call, and waits for its end if asked to.
func (t *tool) invokeAsync(cmd *cobra.Command, c call, invocation api.Invocation) error {
	if c.method != "" && !strings.EqualFold(c.method, http.MethodPost) {
		return usagef(cmd, "--request is %s; asynchronous calls are made with POST", c.method)
	}
	for key, value := range map[string]string{api.HeaderIdempotencyKey: c.key, api.HeaderOrderingKey: c.order, api.HeaderCallback: c.callback} {
		if value != "" {
			invocation.Header.Set(key, value)
		}
	}
	if c.delay > 0 {
		invocation.Header.Set(api.HeaderDelay, c.delay.String())
	}
	client, err := t.client()
	if err != nil {
		return err
	}
	inv, err := client.InvokeAsync(cmd.Context(), invocation)
	if err != nil {
		return err
	}
	if c.wait > 0 {
		if inv, err = awaitInvocation(cmd.Context(), client, inv.ID, c.wait); err != nil {
			return err
		}
	}
	switch {
	case t.format == formatJSON || c.wait > 0:
		err = t.showInvocation(inv)
	default:
		_, err = fmt.Fprintln(t.out, inv.ID)
	}
	if err == nil && inv.Status == orchestrator.InvocationFailed {
		return errShown
	}
	return err
}

func (c call) header(cmd *cobra.Command) (http.Header, error) {
	header := http.Header{}
	for _, text := range c.headers {
		key, value, ok := strings.Cut(text, ":")
		if !ok || strings.TrimSpace(key) == "" {
			return nil, usagef(cmd, "--header is %q; the form is 'Name: value'", text)
		}
		header.Add(strings.TrimSpace(key), strings.TrimSpace(value))
	}
	return header, nil
}

// body returns the request's body, nil for none, and its media type.
func (c call) body(cmd *cobra.Command, stdin io.Reader) (body io.Reader, media string, closeBody func(), err error) {
	closeBody = func() {}
	switch {
	case !cmd.Flags().Changed("data"):
		return nil, "", closeBody, nil
	case c.data == "-":
		return stdin, "application/octet-stream", closeBody, nil
	case strings.HasPrefix(c.data, "@"):
		path := strings.TrimPrefix(c.data, "@")
		file, err := os.Open(path)
		if err != nil {
			return nil, "", closeBody, usagef(cmd, "--data: %w", err)
		}
		// What reading the file gives was checked; closing it tells nothing more.
		closeBody = func() { _ = file.Close() }
		return file, firstOf(mime.TypeByExtension(filepath.Ext(path)), "application/octet-stream"), closeBody, nil
	}
	return strings.NewReader(c.data), mediaOf(c.data), closeBody, nil
}

// mediaOf takes text for JSON when it is an object or an array.
func mediaOf(data string) string {
	if trimmed := strings.TrimSpace(data); strings.HasPrefix(trimmed, "{") || strings.HasPrefix(trimmed, "[") {
		if json.Valid([]byte(trimmed)) {
			return "application/json"
		}
	}
	return "text/plain; charset=utf-8"
}

func (t *tool) invoke(cmd *cobra.Command, invocation api.Invocation, include bool) error {
	client, err := t.client()
	if err != nil {
		return err
	}
	response, err := client.Invoke(cmd.Context(), invocation)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if include {
		fmt.Fprintf(t.out, "%s %s\n", response.Proto, response.Status)
		for _, key := range slices.Sorted(maps.Keys(response.Header)) {
			for _, value := range response.Header[key] {
				fmt.Fprintf(t.out, "%s: %s\n", key, value)
			}
		}
		fmt.Fprintln(t.out)
	}
	if response.Header.Get(api.HeaderError) != "" {
		return api.ReadError(response) // Kiln's answer, not the function's
	}
	last := &lastByte{w: t.out}
	if _, err := io.Copy(last, response.Body); err != nil {
		return fmt.Errorf("read the answer of %s: %w", invocation.Function, err)
	}
	if _, ok := terminal(t.out); ok && last.seen && last.b != '\n' {
		fmt.Fprintln(t.out) // so that the prompt begins a line
	}
	if response.StatusCode >= http.StatusBadRequest {
		function, stage := invocation.Function, ""
		if at, name, ok := strings.Cut(response.Header.Get(api.HeaderStage), " "); ok {
			function, stage = name, "stage "+at+", "
		}
		fmt.Fprintf(t.err, "error: %s%s answered %s\n  next: kiln logs %s shows what it printed\n", stage, function, response.Status, function)
		return errShown
	}
	return nil
}

// lastByte remembers the last byte that was written.
type lastByte struct {
	w    io.Writer
	b    byte
	seen bool
}

// Write writes through.
func (l *lastByte) Write(p []byte) (int, error) {
	if len(p) > 0 {
		l.b, l.seen = p[len(p)-1], true
	}
	return l.w.Write(p)
}

var _ io.Writer = (*lastByte)(nil)

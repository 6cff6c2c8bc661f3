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

	"github.com/spf13/cobra"

	"github.com/kilnfaas/kiln/gateway/api"
)

// call is the flags of invoke.
type call struct {
	data    string
	method  string
	headers []string
	path    string
	include bool
}

func (t *tool) invokeCommand() *cobra.Command {
	var c call
	cmd := &cobra.Command{
		Use:   "invoke NAME",
		Short: "Call a function and print its answer",
		Long: `Call a function and print its answer. The body comes from -d: the text itself,
@FILE for a file's contents, or - for the standard input. An answer of 400 and
above gives the exit code 1; what Kiln itself has to say goes to the standard
error.`,
		Example: `  kiln invoke hello -d '{"name": "Ada"}'
  kiln invoke thumbnails -d @cat.png -H 'Accept: image/webp' > cat.webp
  kiln invoke shop -X DELETE --path '/orders/7?force=1'`,
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
			return t.invoke(cmd, api.Invocation{Function: args[0], Method: strings.ToUpper(c.method), Path: c.path, Header: header, Body: body}, c.include)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&c.data, "data", "d", "", "body: text, @FILE, or - for the standard input")
	flags.StringVarP(&c.method, "request", "X", "", "method (default POST with a body, else GET)")
	flags.StringArrayVarP(&c.headers, "header", "H", nil, "header 'Name: value'; may be repeated")
	flags.StringVar(&c.path, "path", "", "path and query below the function, for example '/orders?page=2'")
	flags.BoolVarP(&c.include, "include", "i", false, "print the status and the headers before the body")
	return cmd
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
		fmt.Fprintf(t.err, "error: %s answered %s\n  next: kiln logs %s shows what it printed\n", invocation.Function, response.Status, invocation.Function)
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

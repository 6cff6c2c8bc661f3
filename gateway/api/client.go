package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/kilnfaas/kiln/orchestrator"
)

// DefaultBaseURL is where `kiln serve` listens unless told otherwise.
const DefaultBaseURL = "http://127.0.0.1:8080"

// Client calls a gateway. The zero value calls DefaultBaseURL. It is safe for
// concurrent use as long as its fields are left alone.
//
// Methods return an *Error when the gateway said no, and the transport's error
// when it did not answer, of the class ErrUnavailable. No method has a timeout
// of its own: the context has.
type Client struct {
	BaseURL   string       // scheme, host and optional path prefix
	Token     string       // sent as a bearer token unless empty
	UserAgent string       // "" for Go's own
	HTTP      *http.Client // nil for http.DefaultClient
}

// maxAnswer bounds what is read of a JSON answer: thousands of functions.
const maxAnswer = 64 << 20

// functionPath returns the path of a function's resource.
func functionPath(name string, rest ...string) string {
	return "/v1/functions/" + url.PathEscape(name) + strings.Join(rest, "")
}

// Function returns one function.
func (c *Client) Function(ctx context.Context, name string) (f Function, err error) {
	err = c.call(ctx, http.MethodGet, functionPath(name), nil, "", &f)
	return f, err
}

// Functions returns all functions, by name.
func (c *Client) Functions(ctx context.Context) ([]Function, error) {
	var list FunctionList
	err := c.call(ctx, http.MethodGet, "/v1/functions", nil, "", &list)
	return list.Functions, err
}

// Configure changes settings: patch is encoded as JSON and merged into the
// function's spec (RFC 7396: null removes a key).
func (c *Client) Configure(ctx context.Context, name string, patch any) (d Deployment, err error) {
	body, err := json.Marshal(patch)
	if err != nil {
		return d, fmt.Errorf("encode the change of %s: %w", name, err)
	}
	err = c.call(ctx, http.MethodPatch, functionPath(name), bytes.NewReader(body), MediaPatch, &d)
	return d, err
}

// Remove deletes a function, its revisions and its instances.
func (c *Client) Remove(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, functionPath(name), nil, "", nil)
}

// Revisions returns the revisions of a function, newest first.
func (c *Client) Revisions(ctx context.Context, name string) ([]Revision, error) {
	var list RevisionList
	err := c.call(ctx, http.MethodGet, functionPath(name, "/revisions"), nil, "", &list)
	return list.Revisions, err
}

// Rollback makes an earlier revision live; "" is the one before the live one.
func (c *Client) Rollback(ctx context.Context, name, revision string) (d Deployment, err error) {
	body, err := json.Marshal(Rollback{Revision: revision})
	if err != nil {
		return d, fmt.Errorf("encode the rollback of %s: %w", name, err)
	}
	err = c.call(ctx, http.MethodPost, functionPath(name, "/rollback"), bytes.NewReader(body), "application/json", &d)
	return d, err
}

// Instances returns what runs for a function.
func (c *Client) Instances(ctx context.Context, name string) (s orchestrator.FunctionStatus, err error) {
	err = c.call(ctx, http.MethodGet, functionPath(name, "/instances"), nil, "", &s)
	return s, err
}

// Templates returns the templates, by name.
func (c *Client) Templates(ctx context.Context) ([]orchestrator.Template, error) {
	var list TemplateList
	err := c.call(ctx, http.MethodGet, "/v1/templates", nil, "", &list)
	return list.Templates, err
}

// Scaffold returns the first files of a function in a template as a tar.gz,
// named as function; "" leaves the template's own name for it. The caller
// closes it.
func (c *Client) Scaffold(ctx context.Context, template, function string) (io.ReadCloser, error) {
	path := "/v1/templates/" + url.PathEscape(template) + "/scaffold"
	if function != "" {
		path += "?name=" + url.QueryEscape(function)
	}
	response, err := c.do(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}

// Secrets returns all secrets, by name, without what they hold.
func (c *Client) Secrets(ctx context.Context) ([]Secret, error) {
	var list SecretList
	err := c.call(ctx, http.MethodGet, "/v1/secrets", nil, "", &list)
	return list.Secrets, err
}

// SetSecret creates or changes a secret. It returns when the functions that use
// it have started anew. functions are patterns of who may use it; none = all.
func (c *Client) SetSecret(ctx context.Context, name string, functions []string, value io.Reader) (s ChangedSecret, err error) {
	path := "/v1/secrets/" + url.PathEscape(name)
	if len(functions) > 0 {
		path += "?" + url.Values{"function": functions}.Encode()
	}
	err = c.call(ctx, http.MethodPut, path, value, "application/octet-stream", &s)
	return s, err
}

// RemoveSecret removes a secret that no function uses.
func (c *Client) RemoveSecret(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/secrets/"+url.PathEscape(name), nil, "", nil)
}

// Tokens returns all tokens, by name.
func (c *Client) Tokens(ctx context.Context) ([]Token, error) {
	var list TokenList
	err := c.call(ctx, http.MethodGet, "/v1/tokens", nil, "", &list)
	return list.Tokens, err
}

// CreateToken makes a token. What its holder shows is told this once.
func (c *Client) CreateToken(ctx context.Context, want NewToken) (t CreatedToken, err error) {
	body, err := json.Marshal(want)
	if err != nil {
		return t, fmt.Errorf("encode the token: %w", err)
	}
	err = c.call(ctx, http.MethodPost, "/v1/tokens", bytes.NewReader(body), "application/json", &t)
	return t, err
}

// RemoveToken removes the token of a name: it is refused from then on.
func (c *Client) RemoveToken(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/tokens/"+url.PathEscape(name), nil, "", nil)
}

// Version says what the gateway runs.
func (c *Client) Version(ctx context.Context) (v Version, err error) {
	err = c.call(ctx, http.MethodGet, "/v1/version", nil, "", &v)
	return v, err
}

// Ready returns nil once the gateway can deploy and invoke.
func (c *Client) Ready(ctx context.Context) error {
	return c.call(ctx, http.MethodGet, "/readyz", nil, "", nil)
}

// Invocation is a call of a function.
type Invocation struct {
	Function string // or several, "a,b,c": each gets the answer of the one before
	Method   string // "" for POST with a body and GET without
	Path     string // below the function, with an optional query; "" or "/x?y=1"
	Header   http.Header
	Body     io.Reader
}

// Invoke calls a function and returns its answer whatever the status is: the
// answer is the function's unless HeaderError is set, for which ReadError is
// there. The caller closes the body.
func (c *Client) Invoke(ctx context.Context, call Invocation) (*http.Response, error) {
	method := call.Method
	if method == "" {
		method = http.MethodGet
		if call.Body != nil {
			method = http.MethodPost
		}
	}
	path := "/invoke/" + url.PathEscape(call.Function)
	if strings.Contains(call.Function, ",") { // a sequence
		method, path = http.MethodPost, "/sequence/"+url.PathEscape(call.Function)
	}
	if call.Path != "" && !strings.HasPrefix(call.Path, "/") && !strings.HasPrefix(call.Path, "?") {
		path += "/"
	}
	request, err := c.request(ctx, method, path+call.Path, call.Body, call.Header)
	if err != nil {
		return nil, err
	}
	return c.send(request)
}

// call sends a request and decodes the answer into result unless that is nil.
func (c *Client) call(ctx context.Context, method, path string, body io.Reader, media string, result any) error {
	header := http.Header{"Accept": {"application/json"}}
	if media != "" {
		header.Set("Content-Type", media)
	}
	response, err := c.do(ctx, method, path, body, header)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if result == nil {
		_, err := io.Copy(io.Discard, io.LimitReader(response.Body, maxAnswer)) // so that the connection is reused
		return err
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(result); err != nil {
		return unreadable(request(response), err)
	}
	return nil
}

// do sends a request and returns the answer if it is a success.
func (c *Client) do(ctx context.Context, method, path string, body io.Reader, header http.Header) (*http.Response, error) {
	request, err := c.request(ctx, method, path, body, header)
	if err != nil {
		return nil, err
	}
	response, err := c.send(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode < 200 || response.StatusCode > 299 {
		defer response.Body.Close()
		return nil, ReadError(response)
	}
	return response, nil
}

// request makes a request to the gateway.
func (c *Client) request(ctx context.Context, method, path string, body io.Reader, header http.Header) (*http.Request, error) {
	base := c.BaseURL
	if base == "" {
		base = DefaultBaseURL
	}
	request, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(base, "/")+path, body)
	if err != nil {
		return nil, orchestrator.Errorf(orchestrator.ErrInvalid, "gateway-address-invalid", "call the gateway: %w", err).
			WithHint("give the gateway as a URL, for example %s", DefaultBaseURL)
	}
	for key, values := range header {
		request.Header[http.CanonicalHeaderKey(key)] = values
	}
	if host := request.Header.Get("Host"); host != "" {
		request.Host = host // net/http takes it from here only
		request.Header.Del("Host")
	}
	if c.Token != "" && request.Header.Get("Authorization") == "" {
		request.Header.Set("Authorization", "Bearer "+c.Token)
	}
	if c.UserAgent != "" && request.Header.Get("User-Agent") == "" {
		request.Header.Set("User-Agent", c.UserAgent)
	}
	return request, nil
}

// send sends a request.
func (c *Client) send(request *http.Request) (*http.Response, error) {
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	response, err := client.Do(request)
	if err == nil {
		return response, nil
	}
	if cause := request.Context().Err(); cause != nil {
		return nil, cause
	}
	return nil, orchestrator.Errorf(orchestrator.ErrUnavailable, "gateway-unreachable", "call the gateway: %w", err).
		WithHint("start it with `kiln serve` or `make up`, or name another one with --gateway or KILN_GATEWAY")
}

// request names what an answer answers.
func request(response *http.Response) string {
	return response.Request.Method + " " + response.Request.URL.Path
}

// unreadable is the error of an answer that ended early or makes no sense.
func unreadable(what string, err error) error {
	return orchestrator.Errorf(orchestrator.ErrUnavailable, "answer-unreadable", "read the answer to %s: %w", what, err).
		WithHint("the connection broke, or client and gateway are of different versions; try again")
}

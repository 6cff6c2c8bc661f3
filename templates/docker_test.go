package templates_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/templates"
)

// ownerLabel marks everything these tests leave in the engine for a moment.
const ownerLabel = "dev.kiln.owner=templates-test"

// Time limits of single engine operations: generous for a slow, shared machine.
const (
	buildTimeout  = 8 * time.Minute // a first build installs compilers
	dockerTimeout = time.Minute
)

// requireDocker skips, loudly, on a machine without an engine.
func requireDocker(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED: -short leaves out what needs Docker")
	}
	ctx, cancel := context.WithTimeout(t.Context(), dockerTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "docker", "version", "--format", "{{.Server.Version}}").CombinedOutput()
	if err == nil {
		return
	}
	if os.Getenv("KILN_REQUIRE_DOCKER") == "1" || os.Getenv("CI") == "true" {
		t.Fatalf("no Docker engine: %v\n%s", err, out)
	}
	t.Skipf("SKIPPED: no Docker engine: %v\n%s", err, out)
}

func docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := dockerErr(args...)
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// dockerErr has its own context: it is also used while a test cleans up.
func dockerErr(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dockerTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "docker", args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// engineClient speaks the engine's API: the CLI cannot use BuildKit without a
// plugin.
var engineClient = &http.Client{Transport: &http.Transport{
	DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		host := strings.TrimPrefix(os.Getenv("DOCKER_HOST"), "unix://")
		if host == "" {
			host = "/var/run/docker.sock"
		}
		return new(net.Dialer).DialContext(ctx, "unix", host)
	},
}}

// builder is one of the engine's two builders.
type builder string

const (
	buildKit builder = "2"
	classic  builder = "1"
)

type buildOptions struct {
	builder builder
	tag     string
	target  string
	args    map[string]string
}

// buildImage builds a context and returns the builder's output as text.
func buildImage(t *testing.T, files map[string]templates.File, options buildOptions) (string, error) {
	t.Helper()
	if options.builder == classic {
		for name, f := range files {
			if strings.HasSuffix(name, "Dockerfile") {
				files[name] = templates.File{Data: templates.ForClassic(f.Data), Mode: f.Mode}
			}
		}
	}
	args, err := json.Marshal(options.args)
	if err != nil {
		t.Fatal(err)
	}
	query := url.Values{
		"t": {options.tag}, "target": {options.target}, "buildargs": {string(args)},
		"version": {string(options.builder)}, "rm": {"1"}, "forcerm": {"1"},
		"labels": {`{"dev.kiln.owner":"templates-test"}`},
	}
	ctx, cancel := context.WithTimeout(t.Context(), buildTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://docker/v1.41/build?"+query.Encode(), bytes.NewReader(tarOf(t, files)))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-tar")
	response, err := engineClient.Do(request)
	if err != nil {
		t.Fatalf("build %s: %v", options.tag, err)
	}
	defer response.Body.Close()
	return readBuild(response.Body)
}

func readBuild(r io.Reader) (string, error) {
	var output strings.Builder
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var message struct {
			Stream, Error string
			ID            string
			Aux           json.RawMessage
		}
		if err := json.Unmarshal(lines.Bytes(), &message); err != nil {
			return output.String(), fmt.Errorf("read the build's output %q: %w", lines.Bytes(), err)
		}
		output.WriteString(message.Stream)
		if message.ID == "moby.buildkit.trace" {
			// Protobuf, whose strings are readable enough for a failure's message.
			var data []byte
			if json.Unmarshal(message.Aux, &data) == nil {
				output.Write(bytes.ToValidUTF8(data, nil))
			}
		}
		if message.Error != "" {
			return output.String(), fmt.Errorf("build: %s", message.Error)
		}
	}
	return output.String(), lines.Err()
}

func tarOf(t *testing.T, files map[string]templates.File) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	writeFiles(t, w, "", files)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func writeFiles(t *testing.T, w *tar.Writer, prefix string, files map[string]templates.File) {
	t.Helper()
	for name, f := range files {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: prefix + name, Size: int64(len(f.Data)), Mode: int64(f.Mode)}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.Data); err != nil {
			t.Fatal(err)
		}
	}
}

// hostCA is what the extra_ca_file of the machine would be: where TLS is
// re-signed, build stages need the host's certificates.
func hostCA() templates.File {
	data, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	if err != nil {
		data = nil
	}
	return templates.File{Data: data, Mode: 0o644}
}

var (
	baseMu   sync.Mutex // guards baseRefs, and lets one fallback be built at a time
	baseRefs = map[string]string{}
)

// resolveBases returns the build arguments for a template's bases. Fallbacks
// that are absent are built and stay: they are a cache.
func resolveBases(t *testing.T, c *templates.Catalogue, tmpl orchestrator.Template) map[string]string {
	t.Helper()
	baseMu.Lock()
	defer baseMu.Unlock()
	args := map[string]string{}
	for _, base := range tmpl.Bases {
		ref, ok := baseRefs[base.Image]
		if !ok {
			ref = resolveBase(t, c, base)
			baseRefs[base.Image] = ref
		}
		args[base.Arg] = ref
	}
	return args
}

func resolveBase(t *testing.T, c *templates.Catalogue, base orchestrator.Base) string {
	t.Helper()
	for _, ref := range []string{base.Image, base.Fallback} {
		if ref == "" {
			continue
		}
		if _, err := dockerErr("image", "inspect", ref); err == nil {
			return ref
		}
	}
	if base.Fallback == "" {
		t.Fatalf("the base image %s is absent and has no fallback", base.Image)
	}
	files, err := c.Fallback(base.Fallback)
	if err != nil {
		t.Fatal(err)
	}
	files[templates.ContextCA] = hostCA()
	t.Logf("building %s", base.Fallback)
	if out, err := buildImage(t, files, buildOptions{builder: classic, tag: base.Fallback}); err != nil {
		t.Fatalf("%v\n%s", err, tail(out, 4000))
	}
	return base.Fallback
}

// composeContext does what the build package does: template, CA, code.
func composeContext(t *testing.T, c *templates.Catalogue, tmpl orchestrator.Template, code map[string]templates.File) map[string]templates.File {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := c.Context(tmpl.Name, w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	files := map[string]templates.File{templates.ContextCA: hostCA()}
	r := tar.NewReader(&out)
	for {
		header, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name] = templates.File{Data: data, Mode: header.FileInfo().Mode()}
	}
	for name, f := range code {
		if tmpl.CodeDir != "." {
			name = tmpl.CodeDir + "/" + name
		}
		files[name] = f
	}
	return files
}

// functionImage builds a function and removes its image after the test.
func functionImage(t *testing.T, c *templates.Catalogue, templateName string, code map[string]templates.File, options buildOptions) string {
	t.Helper()
	tmpl, err := c.Template(templateName)
	if err != nil {
		t.Fatal(err)
	}
	args := resolveBases(t, c, tmpl)
	for name, value := range options.args {
		args[name] = value
	}
	options.args = args
	if options.builder == "" {
		options.builder = buildKit
	}
	options.tag = "kiln-templates-test/" + templateName + ":" + strings.ToLower(rand.Text()[:8])
	out, err := buildImage(t, composeContext(t, c, tmpl, code), options)
	if err != nil {
		t.Fatalf("%v\n%s", err, tail(out, 6000))
	}
	t.Cleanup(func() { dockerErr("image", "rm", "--no-prune", options.tag) })
	return options.tag
}

// instance is a hardened container of an image.
type instance struct {
	t    *testing.T
	id   string
	addr string
	base string // "http://ADDR"
}

// runImage starts a container as the engine adapter would, with further arguments
// to docker run and, other than the image's, a command.
func runImage(t *testing.T, image string, args []string, env map[string]string, command ...string) *instance {
	t.Helper()
	run := []string{"run", "-d", "--label", ownerLabel, "--read-only", "--cap-drop", "ALL",
		"--security-opt", "no-new-privileges", "--tmpfs", "/tmp:rw,nosuid,nodev,noexec,size=64m",
		"--memory", "256m", "--pids-limit", "256"}
	for name, value := range env {
		run = append(run, "--env", name+"="+value)
	}
	run = append(run, args...)
	i := &instance{t: t, id: docker(t, append(append(run, image), command...)...)}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logs of the container:\n%s", tail(i.logs(), 4000))
		}
		dockerErr("rm", "-f", i.id)
	})
	ip := docker(t, "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", i.id)
	i.addr = net.JoinHostPort(ip, "8080")
	i.base = "http://" + i.addr
	return i
}

// cellArgs mounts what a cell is loaded into.
var cellArgs = []string{
	"--tmpfs", templates.CodePath + ":rw,nosuid,nodev,exec,size=128m",
	"--tmpfs", "/run/secrets:rw,nosuid,nodev,noexec,size=5m",
}

func (i *instance) logs() string {
	out, err := dockerErr("logs", i.id)
	if err != nil {
		return err.Error()
	}
	return out
}

// running tells whether the container's process lives.
func (i *instance) running() bool {
	out, err := dockerErr("inspect", "--format", "{{.State.Running}}", i.id)
	return err == nil && out == "true"
}

// waitReady returns once the instance answers; a container that ends instead
// fails the test.
func (i *instance) waitReady() {
	i.t.Helper()
	if err := i.tryReady(); err != nil {
		i.t.Fatalf("%v; logs:\n%s", err, tail(i.logs(), 4000))
	}
}

func (i *instance) tryReady() error {
	ctx, cancel := context.WithTimeout(i.t.Context(), dockerTimeout)
	defer cancel()
	backoff := time.NewTicker(20 * time.Millisecond)
	defer backoff.Stop()
	for n := 0; ; n++ {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, i.base+"/_kiln/ready", nil)
		if err != nil {
			return err
		}
		if response, err := http.DefaultClient.Do(request); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		if n%10 == 9 && !i.running() {
			return fmt.Errorf("the container ended before it was ready")
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", ctx.Err())
		case <-backoff.C:
		}
	}
}

// waitAccepting returns once the port accepts.
func (i *instance) waitAccepting() {
	i.t.Helper()
	until(i.t, "the port accepts", i.accepts)
}

func (i *instance) accepts() bool {
	conn, err := net.DialTimeout("tcp", i.addr, time.Second)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

func embedded(t *testing.T) *templates.Catalogue {
	t.Helper()
	c, err := templates.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// tail returns the last n bytes of s.
func tail(s string, n int) string { return s[max(0, len(s)-n):] }

func text(s string) templates.File   { return templates.File{Data: []byte(s), Mode: 0o644} }
func script(s string) templates.File { return templates.File{Data: []byte(s), Mode: 0o755} }

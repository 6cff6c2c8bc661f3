package cell_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/build"
	"github.com/kilnfaas/kiln/orchestrator/cell"
	"github.com/kilnfaas/kiln/orchestrator/docker"
	"github.com/kilnfaas/kiln/orchestrator/launch"
	"github.com/kilnfaas/kiln/orchestrator/pool"
	"github.com/kilnfaas/kiln/templates"
)

var realCode = map[string]map[string]string{
	"python": {"handler.py": "def handle(request):\n    return 'hello from python'\n"},
	"node":   {"handler.js": "export default async () => new Response('hello from node')\n"},
}

// TestRealCells wakes functions on the real engine with the real runtimes.
func TestRealCells(t *testing.T) {
	client, err := docker.Open(t.Context(), docker.Options{})
	if err != nil {
		skipReal(t, "no engine", err)
	}
	t.Cleanup(func() { client.Close() })
	catalogue, err := templates.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"python", "node"} {
		t.Run(name, func(t *testing.T) {
			template, err := catalogue.Template(name)
			if err != nil {
				t.Fatal(err)
			}
			wakeReal(t, client, catalogue, template)
		})
	}
}

func skipReal(t *testing.T, why string, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" || os.Getenv("KILN_REQUIRE_DOCKER") == "1" {
		t.Fatalf("%s: %v", why, err)
	}
	t.Skipf("%s: %v", why, err)
}

// hostCA is what Debian's packages of certificates keep up to date; builds behind
// a proxy that re-signs TLS need the machine's own.
const hostCA = "/etc/ssl/certs/ca-certificates.crt"

// realImages makes cell images as the gateway does, missing base images included.
func realImages(client *docker.Client, catalogue *templates.Catalogue, owner string) *build.Cells {
	config := build.Config{
		Templates: catalogue, Builder: client, Images: client, Owner: owner,
		Classic: func(ctx context.Context) (bool, error) {
			kind, err := client.BuilderKind(ctx)
			return kind == docker.BuilderClassic, err
		},
	}
	if _, err := os.Stat(hostCA); err == nil {
		config.ExtraCA = hostCA
	}
	return build.NewCells(config)
}

// realCodeStore has the code of one function of each template.
type realCodeStore struct{}

// Size implements cell.CodeStore.
func (realCodeStore) Size(orchestrator.Revision) (orchestrator.Bytes, bool) {
	return orchestrator.KiB, true
}

// Open implements cell.CodeStore.
func (realCodeStore) Open(_ context.Context, revision orchestrator.Revision) (io.ReadCloser, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, text := range realCode[revision.Function] {
		if err := w.WriteHeader(&tar.Header{Name: "function/" + name, Size: int64(len(text)), Mode: 0o644}); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, text); err != nil {
			return nil, err
		}
	}
	return io.NopCloser(&out), w.Close()
}

func wakeReal(t *testing.T, client *docker.Client, catalogue *templates.Catalogue, template orchestrator.Template) {
	const wakes = 3
	id := strings.ToLower(rand.Text()[:8])
	labels := map[string]string{orchestrator.LabelOwner: "cell-test-" + id}
	ctx := t.Context()
	if _, err := client.EnsureNetwork(ctx, orchestrator.NetworkConfig{Name: "bridge"}); err != nil {
		t.Fatal(err)
	}
	images := realImages(client, catalogue, labels[orchestrator.LabelOwner])
	image, err := images.CellImage(ctx, template)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.RemoveImage(context.Background(), image); err != nil {
			t.Error(err)
		}
	})
	l := cell.New(cell.Config{
		Next:   launch.New(launch.Config{Engine: client, Owner: "cell-test-" + id, Network: "bridge"}),
		Engine: client, Images: images, Code: realCodeStore{}, Head: templates.LoadHead,
		Owner: "cell-test-" + id, Network: "bridge", Min: 2, Max: 2, Notes: t.TempDir(),
	})
	if err := l.Open(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		// A start that was called off is tidied up behind Run's back.
		deadline := time.Now().Add(30 * time.Second)
		left, err := client.List(context.Background(), labels)
		for len(left) > 0 && err == nil && time.Now().Before(deadline) {
			time.Sleep(50 * time.Millisecond)
			left, err = client.List(context.Background(), labels)
		}
		for _, c := range left {
			err = errors.Join(err, client.Stop(context.Background(), c.ID, 0))
			t.Errorf("%s is left", c.Name)
		}
		if err != nil {
			t.Error(err)
		}
	})

	spec := orchestrator.DefaultSpec()
	spec.Name, spec.Template = template.Name, template.Name
	rel := orchestrator.Release{
		Spec: spec, Template: template,
		Revision: orchestrator.Revision{ID: "r1", Function: template.Name, Image: "kiln/none:1", TemplateDigest: template.Digest},
	}
	l.Serving(rel)
	var times []time.Duration
	for range wakes {
		awaitLong(t, func() bool { return l.Waiting()[template.Name] == 2 })
		begin := time.Now()
		got, err := l.Launch(ctx, pool.Order{Release: rel})
		if err != nil {
			t.Fatal(err)
		}
		body := getReal(t, got.Addr)
		times = append(times, time.Since(begin))
		if got.Origin != pool.OriginCell || body != "hello from "+template.Name {
			t.Errorf("%+v answered %q", got, body)
		}
		if err := l.Stop(ctx, got.ID, time.Second); err != nil {
			t.Error(err)
		}
	}
	slices.Sort(times)
	t.Logf("wake to first answer: p50 %v, max %v", times[len(times)/2], times[len(times)-1])
}

func awaitLong(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no cell")
		}
	}
}

func getReal(t *testing.T, addr string) string {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get("http://" + addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

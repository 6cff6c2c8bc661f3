package docker_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/volume"
	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/docker"
	"github.com/kilnfaas/kiln/orchestrator/enginetest"
)

// session tells the objects of this run from those of others on the engine.
var session = "kiln-test-" + uuid.NewString()[:8]

func TestMain(m *testing.M) {
	code := m.Run()
	if err := probe.remove(); err != nil {
		fmt.Fprintln(os.Stderr, "remove what the tests made:", err)
		code = 1
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// skip leaves out what this machine cannot do. Under CI nothing may be left out.
func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("CI=true and %s", why)
	}
	t.Skipf("SKIPPED, NOT TESTED: %s", why)
}

// open connects to the engine of this machine. Without one the test is skipped,
// unless CI or KILN_REQUIRE_DOCKER says that there must be one.
func open(t *testing.T, options docker.Options) *docker.Client {
	t.Helper()
	client, err := docker.Open(t.Context(), options)
	if err != nil {
		if os.Getenv("KILN_REQUIRE_DOCKER") == "1" {
			t.Fatalf("KILN_REQUIRE_DOCKER=1 and no Docker engine: %v", err)
		}
		skip(t, fmt.Sprintf("no Docker engine: %v", err))
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return client
}

// owned labels what a test makes.
func owned(t *testing.T) map[string]string {
	return map[string]string{orchestrator.LabelOwner: session, "dev.kiln.test": t.Name()}
}

// probeImage is the image with the probe, built once for all tests.
type probeImage struct {
	once   sync.Once
	err    error
	used   bool
	folder string // of the program
}

var probe probeImage

func (p *probeImage) ref() string     { return session + "/probe:1" }
func (p *probeImage) network() string { return session }

// program is the probe on this machine, once it was built.
func (p *probeImage) program() string { return filepath.Join(p.folder, "probe") }

// probeTimeout bounds building the probe, which compiles parts of the standard
// library on a machine that never did so without cgo.
const probeTimeout = 5 * time.Minute

// require builds the image and makes the network.
func (p *probeImage) require(t *testing.T, client *docker.Client) string {
	t.Helper()
	p.once.Do(func() {
		p.used = true
		p.err = p.make(client)
	})
	if p.err != nil {
		t.Fatalf("make the probe image: %v", p.err)
	}
	return p.ref()
}

func (p *probeImage) make(client *docker.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	if _, err := client.EnsureNetwork(ctx, orchestrator.NetworkConfig{
		Name: p.network(), Labels: map[string]string{orchestrator.LabelOwner: session},
	}); err != nil {
		return err
	}
	var err error
	if p.folder, err = os.MkdirTemp("", session); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w", "-o", p.program(), "../enginetest/testdata/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	program, err := os.ReadFile(p.program())
	if err != nil {
		return err
	}
	_, err = client.Build(ctx, orchestrator.BuildRequest{
		Tags:       []string{p.ref()},
		Dockerfile: "Dockerfile",
		Labels:     map[string]string{orchestrator.LabelOwner: session},
		Context: tarOf(map[string]string{
			"Dockerfile": "FROM scratch\nCOPY probe /probe\nCOPY passwd /etc/passwd\nENTRYPOINT [\"/probe\"]\n",
			"probe":      string(program),
			"passwd":     "root:x:0:0::/:/probe\nfunction:x:1234:1234::/:/probe\nsneaky:x:0:0::/:/probe\n",
		}),
	})
	return err
}

// remove removes the image, the network and all containers of this run.
func (p *probeImage) remove() error {
	if !p.used {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client, err := docker.Open(ctx, docker.Options{})
	if err != nil {
		return err
	}
	var errs []error
	left, err := client.List(ctx, map[string]string{orchestrator.LabelOwner: session})
	errs = append(errs, err)
	for _, c := range left {
		errs = append(errs, fmt.Errorf("container %s was left behind", c.Name), client.Stop(ctx, c.ID, 0))
	}
	errs = append(errs, client.RemoveImage(ctx, p.ref()))
	images, err := client.Images(ctx, map[string]string{orchestrator.LabelOwner: session})
	errs = append(errs, err)
	for _, image := range images {
		if len(image.Tags) > 0 {
			errs = append(errs, fmt.Errorf("image %v was left behind", image.Tags))
		}
		errs = append(errs, client.RemoveImage(ctx, image.ID))
	}
	// The contract has no removal of networks, for nothing in Kiln removes one.
	errs = append(errs, client.API().NetworkRemove(ctx, p.network()), os.RemoveAll(p.folder))
	volumes, err := client.API().VolumeList(ctx, volume.ListOptions{Filters: filters.NewArgs(filters.Arg("label", orchestrator.LabelOwner+"="+session))})
	errs = append(errs, err)
	for _, v := range volumes.Volumes {
		errs = append(errs, client.API().VolumeRemove(ctx, v.Name, false))
	}
	return errors.Join(append(errs, client.Close())...)
}

// tarOf is an archive of files that may be executed.
func tarOf(files map[string]string) *bytes.Buffer {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content)), ModTime: time.Unix(1_700_000_000, 0)}); err != nil {
			panic(err) // a bytes.Buffer does not fail
		}
		if _, err := w.Write([]byte(content)); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return &buffer
}

// subjects is a factory of clients that use a builder.
func subjects(builder docker.BuilderMode) func(t *testing.T) enginetest.Subject {
	serial := 0
	return func(t *testing.T) enginetest.Subject {
		image := probe.require(t, open(t, docker.Options{}))
		client := open(t, docker.Options{Builder: builder, Labels: owned(t), Program: probe.program()})
		serial++
		return enginetest.Subject{
			Engine: client, Images: client, Builder: client,
			Probe:   image,
			Prefix:  fmt.Sprintf("%s-%s-%d", session, builder, serial),
			Labels:  owned(t),
			Network: probe.network(),
		}
	}
}

func TestEngineConforms(t *testing.T) { enginetest.Run(t, subjects(docker.BuilderBuildKit)) }

func TestClassicBuilderConforms(t *testing.T) {
	enginetest.RunBuilds(t, subjects(docker.BuilderClassic))
}

package main

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/docker"
	"github.com/kilnfaas/kiln/orchestrator/nft"
)

// rulesCommand changes the walls of instances on this machine. It is what a
// gateway without the right to do so runs in a container, and `make clean`.
func (t *tool) rulesCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "rules", Short: "Wall instances off on this machine", Hidden: true, Args: cobra.NoArgs}
	walls := func(args []string) (w orchestrator.Walls, err error) {
		if err = json.Unmarshal([]byte(args[0]), &w); err == nil && w.Owner == "" {
			err = errors.New("walls without an owner")
		}
		return w, err
	}
	cmd.AddCommand(&cobra.Command{
		Use: "raise WALLS", Short: "Put walls up", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			w, err := walls(args)
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			return nft.Firewall{}.Raise(cmd.Context(), w)
		},
	}, &cobra.Command{
		Use: "standing WALLS", Short: "Say whether walls are up", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			w, err := walls(args)
			if err != nil {
				return usageError{cmd.CommandPath(), err}
			}
			standing, err := nft.Firewall{}.Standing(cmd.Context(), w)
			fmt.Fprintln(t.out, standing)
			return err
		},
	}, &cobra.Command{
		Use: "raze [OWNER]", Short: "Take walls down", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return nft.Firewall{}.Raze(cmd.Context(), firstOf(args...))
		},
	})
	return cmd
}

// directEvery and helperEvery are how often walls are looked at: a look by
// netlink takes 1 ms, one by a container a second of a core.
const (
	directEvery = 30 * time.Second
	helperEvery = 10 * time.Minute
)

// helperFirewall is a Firewall for a gateway that may use the engine but not
// change the machine's network: a container with this very program does it.
type helperFirewall struct {
	engine *docker.Client
	owner  string

	mu    sync.Mutex
	image string // guarded by mu; empty until it was made
}

var _ orchestrator.Firewall = (*helperFirewall)(nil)

// Raise puts walls up.
func (f *helperFirewall) Raise(ctx context.Context, walls orchestrator.Walls) error {
	_, err := f.run(ctx, "raise", encodeWalls(walls))
	return err
}

// Standing says whether walls are up.
func (f *helperFirewall) Standing(ctx context.Context, walls orchestrator.Walls) (bool, error) {
	out, err := f.run(ctx, "standing", encodeWalls(walls))
	return out == "true", err
}

// Raze takes walls down.
func (f *helperFirewall) Raze(ctx context.Context, owner string) error {
	_, err := f.run(ctx, "raze", owner)
	return err
}

func encodeWalls(walls orchestrator.Walls) string {
	data, err := json.Marshal(walls)
	if err != nil {
		panic(fmt.Sprintf("encode walls: %v", err)) // strings and a number only
	}
	return string(data)
}

func (f *helperFirewall) run(ctx context.Context, args ...string) (string, error) {
	image, err := f.made(ctx)
	if err != nil {
		return "", fmt.Errorf("make the helper's image: %w", err)
	}
	code, output, err := f.engine.Help(ctx, docker.Helper{
		Name: "kiln-rules-" + uuid.NewString()[:8], Image: image, Command: append([]string{"rules"}, args...),
		Labels: f.labels(),
	})
	if err == nil && code != 0 {
		err = orchestrator.Errorf(orchestrator.ErrUnavailable, "firewall-unavailable", "the helper ended with code %d: %s", code, output)
	}
	return output, err
}

// labels are those of the helper and of its image.
func (f *helperFirewall) labels() map[string]string {
	return map[string]string{orchestrator.LabelOwner: f.owner, orchestrator.LabelKind: orchestrator.KindRules}
}

// made returns the image with this program, and makes it when it is not there.
func (f *helperFirewall) made(ctx context.Context) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.image != "" {
		return f.image, nil
	}
	path, err := os.Executable()
	if err != nil {
		return "", err
	}
	digest, size, err := digestOf(path)
	if err != nil {
		return "", err
	}
	image := "kiln-rules:" + digest
	if _, err := f.engine.Image(ctx, image); err == nil {
		f.image = image
		return image, nil
	} else if !errors.Is(err, orchestrator.ErrNotFound) {
		return "", err
	}
	reader, writer := io.Pipe()
	go func() { writer.CloseWithError(helperContext(writer, path, size)) }()
	defer reader.Close()
	_, err = f.engine.Build(ctx, orchestrator.BuildRequest{
		Tags: []string{image}, Context: reader, Dockerfile: "Dockerfile", Network: "none",
		Labels: f.labels(),
	})
	if err == nil {
		f.image = image
	}
	return image, err
}

// helperDigest is how much of the program's digest names its image.
const helperDigest = 12

func digestOf(path string) (string, int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer file.Close()
	hash := sha256.New()
	size, err := io.Copy(hash, file)
	return hex.EncodeToString(hash.Sum(nil))[:helperDigest], size, err
}

const helperDockerfile = "FROM scratch\nCOPY kiln /kiln\nENTRYPOINT [\"/kiln\"]\n"

// helperContext writes the build context of the helper's image.
func helperContext(w io.Writer, path string, size int64) error {
	archive := tar.NewWriter(w)
	if err := archive.WriteHeader(&tar.Header{Name: "Dockerfile", Mode: 0o644, Size: int64(len(helperDockerfile))}); err != nil {
		return err
	}
	if _, err := io.WriteString(archive, helperDockerfile); err != nil {
		return err
	}
	if err := archive.WriteHeader(&tar.Header{Name: "kiln", Mode: 0o755, Size: size}); err != nil {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := io.Copy(archive, io.LimitReader(file, size)); err != nil {
		return err
	}
	return archive.Close()
}

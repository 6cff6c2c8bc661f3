package build_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/build"
)

func TestDiskEndsABuildThatFillsIt(t *testing.T) {
	for _, tt := range []struct {
		name          string
		free, written orchestrator.Bytes
		code          string
	}{
		{"within its limit", 10 * orchestrator.GiB, orchestrator.GiB, ""},
		{"over its limit", 10 * orchestrator.GiB, 1100 * orchestrator.MiB, "build-disk-limit"},
		{"a disk that is nearly full", 600 * orchestrator.MiB, 100 * orchestrator.MiB, "build-disk-limit"},
		{"a full disk", 500 * orchestrator.MiB, 0, "engine-disk-full"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var free atomic.Int64
				free.Store(int64(tt.free))
				var reclaimed time.Time
				next := &fakeBuilder{build: func(ctx context.Context, _ orchestrator.Revision, progress progressFunc) (orchestrator.Image, error) {
					progress(line("writing"))
					time.Sleep(time.Second)
					free.Add(-int64(tt.written))
					select {
					case <-ctx.Done():
						return orchestrator.Image{}, ctx.Err()
					case <-time.After(time.Minute):
						return orchestrator.Image{ID: "whole"}, nil
					}
				}}
				begin := time.Now()
				builder := build.Disk(next, build.DiskWatch{
					Free:    func() (orchestrator.Bytes, error) { return orchestrator.Bytes(free.Load()), nil },
					Limit:   orchestrator.GiB,
					Reclaim: func(_ context.Context, since time.Time) error { reclaimed = since; return nil },
				}, slog.New(slog.DiscardHandler))
				image, err := builder.BuildRevision(t.Context(), revision("f", 1, "sha256:a"), orchestrator.Template{}, nil)
				took := time.Since(begin)
				var failed *orchestrator.Error
				switch {
				case tt.code == "":
					if err != nil || image.ID != "whole" || !reclaimed.IsZero() {
						t.Errorf("got %v, %v; reclaimed since %v", image, err, reclaimed)
					}
				case !errors.As(err, &failed) || failed.Code != tt.code || failed.Hint == "":
					t.Errorf("got %v, want %s", err, tt.code)
				case tt.code == "build-disk-limit" && (took > 2*time.Second || len(failed.Output) != 1 || !reclaimed.Equal(begin)):
					t.Errorf("after %s, with the output %q, reclaimed since %v", took, failed.Output, reclaimed)
				}
			})
		})
	}
}

// TestDiskLeavesOtherErrorsAlone: the failure of a build, and of a look.
func TestDiskLeavesOtherErrorsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		next := &fakeBuilder{build: func(context.Context, orchestrator.Revision, progressFunc) (orchestrator.Image, error) {
			time.Sleep(time.Second)
			return orchestrator.Image{}, broken
		}}
		for _, lookError := range []error{nil, errors.New("no look")} {
			builder := build.Disk(next, build.DiskWatch{Free: func() (orchestrator.Bytes, error) { return orchestrator.GiB, lookError }}, slog.New(slog.DiscardHandler))
			if _, err := builder.BuildRevision(t.Context(), revision("f", 1, "sha256:a"), orchestrator.Template{}, nil); !errors.Is(err, broken) {
				t.Errorf("got %v, want %v", err, broken)
			}
		}
	})
}

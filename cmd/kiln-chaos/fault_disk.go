package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// diskSize is that of the data folder's file system.
	diskSize = "256m"
	// diskFull is how long the disk stays full: several deploys meet it.
	diskFull = 4 * time.Second
)

// fillDisk leaves no space for the data. Calls need none; deploys are refused
// and work again as soon as there is space.
var fillDisk = fault{name: "disk full", full: 3, short: 1, inject: func(ctx context.Context, w *world) error {
	path := filepath.Join(w.gateway.data(), "somebody-elses")
	if err := fill(path); err != nil {
		return err
	}
	pauseErr := w.pause(ctx, diskFull)
	if err := errors.Join(os.Remove(path), pauseErr); err != nil {
		return err
	}
	before := w.deployed.Load()
	return waitFor(ctx, "a deploy after the disk was full", settleTime, func() error {
		if w.deployed.Load() == before {
			return errors.New("none was acknowledged")
		}
		return nil
	})
}}

// fill writes until there is no space left.
func fill(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	for block := make([]byte, 1<<20); len(block) > 0; {
		_, err := file.Write(block)
		switch {
		case errors.Is(err, unix.ENOSPC):
			block = block[:len(block)/2]
		case err != nil:
			return fmt.Errorf("fill the disk: %w", err)
		}
	}
	return nil
}

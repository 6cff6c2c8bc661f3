package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// tornRecord is how much of a record may have been written when the machine
// stopped.
const tornRecord = 400 // bytes: less than one of a function

// tearWrite kills the gateway and leaves half a record at the end of a stream,
// as a write does that was under way when the machine stopped. It was not
// acknowledged; all before it was.
var tearWrite = fault{name: "last write torn", full: 10, short: 1, inject: func(ctx context.Context, w *world) error {
	if err := w.pause(ctx, w.between(0, time.Second)); err != nil {
		return err
	}
	return w.restartGateway(ctx, w.tear)
}}

// tear adds the beginning of the last record once more to each stream's newest
// block.
func (w *world) tear() error {
	streams, err := filepath.Glob(filepath.Join(w.gateway.data(), "jetstream", "*", "streams", "*", "msgs"))
	if err != nil || len(streams) == 0 {
		return fmt.Errorf("no streams in %s: %w", w.gateway.data(), err)
	}
	for _, stream := range streams {
		blocks, err := filepath.Glob(filepath.Join(stream, "*.blk"))
		if err != nil {
			return err
		}
		if len(blocks) == 0 {
			continue
		}
		slices.SortFunc(blocks, func(a, b string) int { return len(a) - len(b) }) // by number
		if err := tearFile(blocks[len(blocks)-1], 1+w.random.Int64N(tornRecord)); err != nil {
			return err
		}
	}
	return nil
}

func tearFile(path string, size int64) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	end, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if end == 0 { // a stream to which nothing was written yet
		return nil
	}
	half := make([]byte, min(size, end))
	if _, err := file.ReadAt(half, end-int64(len(half))); err != nil {
		return err
	}
	// Not the whole record, which would be a valid one.
	_, err = file.Write(half[:max(1, len(half)/2)])
	return err
}

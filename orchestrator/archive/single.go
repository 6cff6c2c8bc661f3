package archive

import (
	"context"
	"io"
	"io/fs"
	"os"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Single writes what it reads as the one file of a tree: path below root, which
// is empty and the caller's. Limits, errors and clean-up are Unpack's.
func Single(ctx context.Context, r io.Reader, root *os.Root, path string, mode fs.FileMode, limits Limits) (Summary, error) {
	u := &unpacker{
		source: &source{ctx: ctx, r: r, limit: int64(limits.Compressed)},
		root:   root,
		limits: limits,
		tree:   newTree(limits),
		buffer: make([]byte, copyBuffer),
	}
	if err := u.single(path, mode); err != nil {
		return Summary{}, classify(err)
	}
	return Summary{
		Files:      u.tree.files,
		Folders:    u.tree.folders,
		Compressed: orchestrator.Bytes(u.source.n),
		Unpacked:   orchestrator.Bytes(u.written),
	}, nil
}

func (u *unpacker) single(path string, mode fs.FileMode) error {
	path, folders, err := u.tree.add(path, false)
	if err != nil {
		return err
	}
	if err := u.folders(folders); err != nil {
		return err
	}
	if err := u.write(path, mode, u.source); err != nil {
		return err
	}
	if u.source.n == 0 {
		return invalid("archive-empty", "the file is empty").WithHint("send the file's contents")
	}
	return nil
}

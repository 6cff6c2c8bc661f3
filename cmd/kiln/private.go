package main

import (
	"errors"
	"os"
	"path/filepath"
)

// writePrivate writes a line to a file that only its owner may read; it is there
// whole or not at all, also after a crash.
func writePrivate(path string, line []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".kiln-*") // made with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // fails once renamed
	_, err = file.Write(append(line, '\n'))
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

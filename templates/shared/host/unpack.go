package host

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// maxEnv bounds env.json in bytes; the kernel takes less.
const maxEnv = 1 << 20

// unpack writes the files of a load below root and returns its environment. A
// load is a tar: first env.json, an object of strings, then the function's
// files under function/.
func unpack(r io.Reader, root string) (map[string]string, error) {
	var env map[string]string
	links := map[string]string{}
	entries := tar.NewReader(r)
	for {
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if header.Name == "env.json" {
			if err := json.NewDecoder(io.LimitReader(entries, maxEnv)).Decode(&env); err != nil {
				return nil, fmt.Errorf("env.json: %w", err)
			}
			continue
		}
		name := path.Clean(header.Name)
		if name != "function" && !strings.HasPrefix(name, "function/") {
			return nil, fmt.Errorf("%q is not below function/", header.Name)
		}
		switch header.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path.Join(root, name), 0o755)
		case tar.TypeReg:
			err = writeFile(path.Join(root, name), entries, header.FileInfo().Mode().Perm())
		case tar.TypeSymlink:
			links[name] = header.Linkname
		default:
			err = fmt.Errorf("%q is neither file nor folder", header.Name)
		}
		if err != nil {
			return nil, err
		}
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return nil, err
	}
	return env, makeLinks(root, links)
}

func writeFile(name string, r io.Reader, mode fs.FileMode) error {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		file, err = os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	}
	if err != nil {
		return err
	}
	if _, err := io.Copy(file, r); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}

// makeLinks comes after all files, so that nothing is written through a link.
func makeLinks(root string, links map[string]string) error {
	for name, target := range links {
		end := path.Join(path.Dir(name), target)
		if path.IsAbs(target) || !strings.HasPrefix(end+"/", "function/") {
			return fmt.Errorf("the link %q leads out of function/", name)
		}
		if err := os.MkdirAll(path.Dir(path.Join(root, name)), 0o755); err != nil {
			return err
		}
		if err := os.Symlink(target, path.Join(root, name)); err != nil {
			return err
		}
	}
	return nil
}

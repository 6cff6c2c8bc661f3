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

// maxSecrets bounds secrets.json in bytes: 64 values of 64 KiB in base64.
const maxSecrets = 8 << 20

const (
	// codeName is the folder of a load that holds the function's files.
	codeName = "function"
	// secretsFolder is where its secrets are written to.
	secretsFolder = "run/secrets"
)

// Unpack writes the files of a load below dir and returns its environment. A
// load is a tar: first env.json, an object of strings, then perhaps
// secrets.json, an object of values in base64, then the function's files under
// function/. Nothing is written elsewhere, whatever the load says.
func Unpack(r io.Reader, dir string) (map[string]string, error) {
	if err := os.MkdirAll(path.Join(dir, codeName), 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path.Join(dir, codeName))
	if err != nil {
		return nil, err
	}
	defer root.Close()
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
		if header.Name == "secrets.json" {
			if err := writeSecrets(path.Join(dir, secretsFolder), io.LimitReader(entries, maxSecrets)); err != nil {
				return nil, fmt.Errorf("secrets.json: %w", err)
			}
			continue
		}
		if err := unpackEntry(root, header, entries, links); err != nil {
			return nil, err
		}
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return nil, err
	}
	return env, makeLinks(root, path.Join(dir, codeName), links)
}

// writeSecrets writes each secret to a file that only this user may read. No
// value is in its errors.
func writeSecrets(dir string, r io.Reader) error {
	var secrets map[string][]byte
	if json.NewDecoder(r).Decode(&secrets) != nil {
		return errors.New("it is not an object of values in base64")
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for name, value := range secrets {
		file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
		if err != nil {
			return err
		}
		_, err = file.Write(value)
		if err := errors.Join(err, file.Close()); err != nil {
			return err
		}
	}
	return nil
}

// unpackEntry writes a file or folder, and notes a link for later.
func unpackEntry(root *os.Root, header *tar.Header, r io.Reader, links map[string]string) error {
	name := path.Clean(header.Name)
	if name != codeName && !strings.HasPrefix(name, codeName+"/") {
		return fmt.Errorf("%q is not below function/", header.Name)
	}
	if name = strings.TrimPrefix(strings.TrimPrefix(name, codeName), "/"); name == "" {
		name = "."
	}
	switch {
	case header.Typeflag == tar.TypeDir:
		return makeFolders(root, name)
	case header.Typeflag == tar.TypeReg && !sparse(header):
		return writeFile(root, name, r, header.FileInfo().Mode().Perm())
	case header.Typeflag == tar.TypeSymlink:
		links[name] = header.Linkname
		return makeFolders(root, path.Dir(name)) // so that none of them is a link
	}
	return fmt.Errorf("%q is neither file nor folder", header.Name)
}

// sparse recognises a file that is larger than what is sent of it.
func sparse(header *tar.Header) bool {
	for key := range header.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

func writeFile(root *os.Root, name string, r io.Reader, mode fs.FileMode) error {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	file, err := root.OpenFile(name, flags, mode)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeFolders(root, path.Dir(name)); err != nil {
			return err
		}
		file, err = root.OpenFile(name, flags, mode)
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

// makeFolders makes a folder and those above it. The compilers of some images
// are too old for os.Root.MkdirAll.
func makeFolders(root *os.Root, name string) error {
	for i := range len(name) + 1 {
		if i < len(name) && name[i] != '/' {
			continue
		}
		if err := root.Mkdir(name[:i], 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// makeLinks comes after all files, so that nothing is written through a link.
// Links may lead through one another, so that only the system can say where one
// leads in the end.
func makeLinks(root *os.Root, dir string, links map[string]string) error {
	for name, target := range links {
		end := path.Join(codeName, path.Dir(name), target)
		if path.IsAbs(target) || !strings.HasPrefix(end+"/", codeName+"/") {
			return leadsOut(name)
		}
		if err := os.Symlink(target, path.Join(dir, name)); err != nil {
			return err
		}
	}
	for name := range links {
		if _, err := root.Stat(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return leadsOut(name)
		}
	}
	return nil
}

func leadsOut(name string) error {
	return fmt.Errorf("the link %q leads out of function/", codeName+"/"+name)
}

// Package entry runs first in a container that has secrets: it takes them from
// its standard input, writes them to the memory file system that is mounted for
// them, and becomes the image's own command. That works for every image, as the
// program comes from outside of it, and it needs nothing of the image.
//
// It imports the standard library only.
package entry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
)

// Verb is the first argument of a program that is to run Main.
const Verb = "container-entry"

// maxInput bounds what is read: 64 values of 64 KiB in base64.
const maxInput = 8 << 20

// Exit codes of what ends before there is a command, as shells have them.
const (
	exitFailed        = 125
	exitNotExecutable = 126
	exitNotFound      = 127
)

// Write writes what Main reads: one document, whose end tells itself.
func Write(w io.Writer, secrets map[string][]byte) error {
	return json.NewEncoder(w).Encode(secrets)
}

// Main writes the secrets below dir and becomes the command. It returns an exit
// code when that cannot be. Nothing of a value is ever in what it says.
func Main(dir string, command []string, stdin io.Reader, stderr io.Writer) int {
	fail := func(code int, what string, err error) int {
		fmt.Fprintf(stderr, "kiln: %s: %v\n", what, err)
		return code
	}
	if len(command) == 0 {
		return fail(exitFailed, "start the function", errors.New("the image has neither command nor entrypoint"))
	}
	if err := Take(stdin, dir); err != nil {
		return fail(exitFailed, "take the secrets", err)
	}
	if err := closeInput(); err != nil {
		return fail(exitFailed, "close the input", err)
	}
	path, err := exec.LookPath(command[0])
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fail(exitNotExecutable, "start "+command[0], err)
	case err != nil:
		return fail(exitNotFound, "start "+command[0], err)
	}
	err = syscall.Exec(path, command, os.Environ())
	return fail(exitNotExecutable, "start "+path, err)
}

// Take reads secrets and writes each to a file below dir that nobody but this
// user may read, and this user not write.
func Take(r io.Reader, dir string) error {
	var secrets map[string][]byte
	if err := json.NewDecoder(io.LimitReader(r, maxInput)).Decode(&secrets); err != nil {
		var kind *json.SyntaxError
		if errors.As(err, &kind) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			return errors.New("they did not come whole")
		}
		return errors.New("they are not understood")
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for name, value := range secrets {
		if err := write(root, name, value); err != nil {
			return err
		}
	}
	return nil
}

func write(root *os.Root, name string, value []byte) error {
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	_, err = file.Write(value)
	return errors.Join(err, file.Close())
}

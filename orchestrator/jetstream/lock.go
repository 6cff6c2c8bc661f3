package jetstream

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/kilnfaas/kiln/orchestrator"
)

// lockFile is the file inside a data folder whose lock marks the folder as in
// use. It holds the process id of the owner and stays behind, unlocked, when
// the owner ends: the kernel lets go of the lock however a process dies.
const lockFile = "kiln.lock"

// folderLock is the exclusive use of a data folder.
type folderLock struct{ file *os.File }

// lockFolder takes dir for this process, or says which process has it.
func lockFolder(dir string) (*folderLock, error) {
	path := filepath.Join(dir, lockFile)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of data folder %s: %w", dir, err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, inUse(dir, file)
		}
		return nil, fmt.Errorf("lock data folder %s: %w", dir, err)
	}
	if err := writePID(file); err != nil {
		file.Close()
		return nil, fmt.Errorf("write the lock of data folder %s: %w", dir, err)
	}
	return &folderLock{file: file}, nil
}

// release gives the folder up.
func (l *folderLock) release() error {
	if l == nil {
		return nil
	}
	return l.file.Close() // closing the only descriptor drops the lock
}

func writePID(file *os.File) error {
	if err := file.Truncate(0); err != nil {
		return err
	}
	_, err := file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// inUse names the owner. Between its locking and its writing the id may be
// missing, which changes the words only.
func inUse(dir string, file *os.File) error {
	var buf [32]byte
	n, _ := file.ReadAt(buf[:], 0)
	owner := "another process"
	if pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n]))); err == nil {
		owner = fmt.Sprintf("process %d", pid)
	}
	return orchestrator.Errorf(orchestrator.ErrConflict, "data-folder-in-use",
		"the data folder %s is in use by %s", dir, owner).
		WithHint("stop that gateway, or give this one a folder of its own with --data")
}

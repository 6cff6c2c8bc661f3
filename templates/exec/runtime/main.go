// The runtime of the exec template: every request runs the function's handler,
// an executable file, as a CGI program would be.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kilnfaas/kiln/templates/shared/host"
)

const (
	defaultHandler     = "handler"
	defaultConcurrency = 16 // processes at once; KILN_CONCURRENCY says otherwise
)

func main() {
	go reapOrphans()
	host.Main(load)
}

// load finds the handler and proves that it can be executed.
func load() (http.Handler, error) {
	name, _, _ := strings.Cut(os.Getenv("KILN_HANDLER"), ":")
	if name == "" {
		name = defaultHandler
	}
	path := filepath.Join(host.Code, name)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the handler %s does not exist", name)
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0:
		return nil, fmt.Errorf("the handler %s is not an executable file", name)
	}
	concurrency, err := strconv.Atoi(os.Getenv("KILN_CONCURRENCY"))
	if err != nil || concurrency < 1 {
		concurrency = defaultConcurrency
	}
	return &program{path: path, slots: make(chan struct{}, concurrency)}, nil
}

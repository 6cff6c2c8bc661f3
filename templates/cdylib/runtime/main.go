// The runtime of the cdylib template: it serves HTTP and hands each request to a
// worker process that holds the library, so that a crash costs one request.
package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kilnfaas/kiln/templates/shared/host"
)

const (
	workerPath         = "/kiln/worker"
	defaultConcurrency = 16 // workers at once; KILN_CONCURRENCY says otherwise
)

func main() { host.Main(load) }

// load finds the library and starts a first worker, which proves that it can be
// loaded and has the symbol.
func load() (http.Handler, error) {
	library, symbol, err := findHandler(host.Code, os.Getenv("KILN_HANDLER"), os.Getenv("KILN_FUNCTION"))
	if err != nil {
		return nil, err
	}
	concurrency, err := strconv.Atoi(os.Getenv("KILN_CONCURRENCY"))
	if err != nil || concurrency < 1 {
		concurrency = defaultConcurrency
	}
	p := &pool{library: library, symbol: symbol, slots: make(chan struct{}, concurrency)}
	first, err := p.start()
	if err != nil {
		return nil, err
	}
	p.idle = append(p.idle, first)
	return &calls{pool: p}, nil
}

// findHandler resolves "FILE", "FILE:SYMBOL" or ":SYMBOL": without a file the
// only *.so of the folder, without a symbol the function's name.
func findHandler(dir, handler, function string) (library, symbol string, err error) {
	file, symbol, _ := strings.Cut(handler, ":")
	if symbol == "" {
		symbol = strings.ReplaceAll(function, "-", "_")
	}
	if symbol == "" {
		return "", "", errors.New("no symbol: neither the handler nor KILN_FUNCTION names one")
	}
	if file != "" && strings.HasSuffix(file, ".so") {
		return filepath.Join(dir, file), symbol, nil
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.so"))
	if err != nil {
		return "", "", err
	}
	if len(found) != 1 {
		return "", "", fmt.Errorf("the function has %d *.so files; one is expected, or a handler that names it", len(found))
	}
	return found[0], symbol, nil
}

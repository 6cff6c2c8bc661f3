// The shim waits in a cell of the go template for a function's binary.
package main

import "github.com/kilnfaas/kiln/templates/shared/host"

func main() { host.MainShim(host.Code + "/handler") }

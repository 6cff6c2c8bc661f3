package main_test

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestCommandLine runs the scripts about the command line against a stub of the
// gateway; no engine is needed.
func TestCommandLine(t *testing.T) {
	bin := binary(t)
	stub := httptest.NewServer(stubGateway())
	t.Cleanup(stub.Close) // after the scripts, which run in parallel
	prepare := setup(bin, nil, false)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/cli",
		Setup: func(env *testscript.Env) error {
			env.Setenv("KILN_GATEWAY", stub.URL)
			env.Setenv("STUB", stub.URL)
			env.Setenv("PORT", stub.URL[strings.LastIndexByte(stub.URL, ':')+1:])
			env.Setenv("TOKEN", stubToken)
			env.Setenv("TZ", "UTC")
			return prepare(env)
		},
		Cmds:               commands,
		Condition:          condition,
		RequireUniqueNames: true,
	})
}

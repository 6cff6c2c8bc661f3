package main_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/kilnfaas/kiln"

// rooms says which packages of Kiln each package may import, tests aside. A
// package that is not listed may import none. "…/" at the end stands for the
// folder and all below it.
var rooms = map[string][]string{
	"orchestrator":             {},
	"orchestrator/archive":     {"orchestrator"},
	"orchestrator/manifest":    {"orchestrator"},
	"orchestrator/intake":      {"orchestrator", "orchestrator/archive", "orchestrator/manifest"},
	"orchestrator/build":       {"orchestrator", "orchestrator/archive", "templates"},
	"orchestrator/docker":      {"orchestrator", "orchestrator/entry"},
	"orchestrator/enginetest/": {},
	"orchestrator/cage":        {"orchestrator"},
	"orchestrator/freezer":     {"orchestrator"},
	"orchestrator/fence":       {"orchestrator"},
	"orchestrator/nft":         {"orchestrator"},
	"orchestrator/jetstream":   {"orchestrator"},
	"orchestrator/enginetest":  {"orchestrator", "orchestrator/enginetest/probe"},
	"orchestrator/storetest":   {"orchestrator"},
	"orchestrator/queuetest":   {"orchestrator"},
	"orchestrator/pgtest":      {"orchestrator/porttest"},
	"orchestrator/natstest":    {"orchestrator/porttest"},
	"orchestrator/porttest":    {},
	"orchestrator/scale":       {"orchestrator"},
	"orchestrator/capacity":    {"orchestrator", "orchestrator/scale"},
	"orchestrator/pool":        {"orchestrator", "orchestrator/scale", "orchestrator/capacity"},
	"orchestrator/launch":      {"orchestrator", "orchestrator/pool", "orchestrator/capacity"},
	"orchestrator/cell":        {"orchestrator", "orchestrator/pool", "orchestrator/launch", "orchestrator/capacity"},
	"orchestrator/route":       {"orchestrator", "orchestrator/pool", "orchestrator/scale", "orchestrator/capacity"},
	"orchestrator/reconcile":   {"orchestrator"},
	"orchestrator/events":      {"orchestrator"},
	"orchestrator/cloudevents": {"orchestrator"},
	"orchestrator/trigger":     {"orchestrator", "orchestrator/events", "orchestrator/cloudevents"},
	"orchestrator/trigger/":    {"orchestrator", "orchestrator/cloudevents"}, // the kinds: never one another, nor the engine
	"orchestrator/triggertest": {"orchestrator", "orchestrator/events", "orchestrator/cloudevents", "orchestrator/trigger", "orchestrator/queuetest", "orchestrator/storetest"},
	"orchestrator/vault":       {"orchestrator"},
	"orchestrator/entry":       {}, // runs inside containers, too
	"templates":                {"orchestrator"},
	"templates/":               {"templates/shared/host"}, // what runs inside containers
	"docs":                     {},
	"gateway/api":              {"orchestrator"},
	"gateway/":                 {"gateway/", "orchestrator", "orchestrator/pool", "orchestrator/route", "orchestrator/manifest", "orchestrator/intake", "orchestrator/archive", "orchestrator/events", "orchestrator/cloudevents", "docs"},
	"cmd/":                     {"cmd/", "gateway/", "orchestrator", "orchestrator/", "templates"},
}

// sole names, for an outside module, the one package that may import it; of
// several, with commas between them.
var sole = map[string]string{
	"github.com/docker/docker/":           "orchestrator/docker",
	"github.com/nats-io/nats-server/":     "orchestrator/jetstream",
	"github.com/nats-io/nats.go":          "orchestrator/jetstream,orchestrator/trigger/nats",
	"github.com/nats-io/nkeys":            "orchestrator/trigger/nats",
	"github.com/prometheus/client_golang": "gateway/metrics",
	"github.com/spf13/cobra":              "cmd/kiln",
	"github.com/google/nftables":          "orchestrator/nft",
	"github.com/mdlayher/netlink":         "orchestrator/nft",
	"github.com/jackc/":                   "orchestrator/trigger/postgres",
	"filippo.io/age":                      "orchestrator/vault",
}

type listed struct {
	ImportPath string
	Imports    []string
	Standard   bool
}

// TestImportDirection fails when a package imports what the house plan does not
// let it import.
func TestImportDirection(t *testing.T) {
	for _, p := range list(t, module+"/...") {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		allowed, ok := lookup(name)
		if !ok {
			t.Errorf("package %s is not in the house plan", name)
		}
		for _, imported := range p.Imports {
			if own, ok := strings.CutPrefix(imported, module+"/"); ok {
				if !allows(allowed, own) {
					t.Errorf("%s imports %s, which the house plan does not allow", name, own)
				}
				continue
			}
			for prefix, only := range sole {
				if strings.HasPrefix(imported, prefix) && !slices.Contains(strings.Split(only, ","), name) {
					t.Errorf("%s imports %s, which is for %s alone", name, imported, only)
				}
			}
			outside := strings.Contains(strings.Split(imported, "/")[0], ".")
			if name == "orchestrator" && outside && imported != "github.com/google/uuid" {
				t.Errorf("the domain imports %s", imported)
			}
		}
	}
}

// lookup prefers the exact name, then the longest folder.
func lookup(name string) ([]string, bool) {
	if allowed, ok := rooms[name]; ok {
		return allowed, true
	}
	best := ""
	for room := range rooms {
		if strings.HasSuffix(room, "/") && strings.HasPrefix(name+"/", room) && len(room) > len(best) {
			best = room
		}
	}
	allowed, ok := rooms[best]
	return allowed, ok
}

func allows(allowed []string, name string) bool {
	return slices.ContainsFunc(allowed, func(room string) bool {
		return room == name || strings.HasSuffix(room, "/") && strings.HasPrefix(name+"/", room)
	})
}

func list(t *testing.T, pattern string) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Standard", pattern).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var packages []listed
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		packages = append(packages, p)
	}
	if len(packages) < 5 {
		t.Fatalf("go list found %d packages only", len(packages))
	}
	return packages
}

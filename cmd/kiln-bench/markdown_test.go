package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestMarkdown has each section told in a table whose rows are as long as its
// head, out of the JSON that a run leaves.
func TestMarkdown(t *testing.T) {
	stats := map[string]Stats{"direct": {Rate: 3}, "nginx": {Rate: 2}, "kiln": {Rate: 2, Failures: 7}}
	r := Report{
		Warm: &Warm{
			Closed: []WarmRow{{Callers: 16, Targets: stats}},
			Open:   []OpenRow{{Callers: 16, Rate: 1, Targets: stats}},
			Random: Random{Functions: 100, Callers: 16, Kiln: OneMany{One: Stats{Rate: 10}, Many: Stats{Rate: 8}}, Nginx: OneMany{One: Stats{Rate: 10}, Many: Stats{Rate: 8}}},
		},
		Cold:    &Cold{Single: []ColdRow{{Template: "go", Way: "cell"}}, Bursts: []BurstRow{{Functions: 8, Way: "cell", Engine: 1}}},
		Deploys: []DeployRow{{Template: "python", Samples: 10, P50: 3100}},
		Memory:  &Memory{Gateway: []GatewayMemory{{Functions: 100}}, Instances: []InstanceMemory{{Template: "go"}}},
		Soak:    &Soak{Seconds: 600, Least: 1, Most: 5, Load: Stats{Requests: 9, Failures: 1}},
	}
	r.Ratios = ratios(r)
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "bench.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := printMarkdown(&out, file); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"### Targets", "### Warm, closed loop", "### Warm, open loop", "### 100 functions at random, 16 callers",
		"### Cold, first answer", "### Bursts", "### Deploy of an edit", "### Memory of the gateway", "### Memory of an idle instance", "### Load while",
		"| deploy of an edit, p50, python | 3.10 s | at most 3 s | **not reached** |",
		"| 100 functions at random / one | 0.80 | at least 0.9 | **not reached** |",
		"| 100 functions at random / one, as a share of what nginx keeps | 1.00 | at least 0.9 | reached |",
		"| 600 s at 50 % load, 1 to 5 instances underneath, failed calls | 1.00 | at most 0 | **not reached** |",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("there is no %q in\n%s", want, out.String())
		}
	}
	columns := 0
	for line := range strings.Lines(out.String()) {
		n := strings.Count(line, "|")
		if n > 0 && columns > 0 && n != columns {
			t.Errorf("%d cell borders, want %d: %s", n, columns, line)
		}
		columns = n
	}
}

// TestEarlierReport has -keep begin anew where nothing was measured, and never
// where what was measured cannot be read.
func TestEarlierReport(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bench")
	if r, err := earlierReport(dir); err != nil || r.Sim != nil {
		t.Errorf("without an earlier run: %v, %v", r.Sim, err)
	}
	if err := (Report{Sim: &Sim{}}).write(dir); err != nil {
		t.Fatal(err)
	}
	if r, err := earlierReport(dir); err != nil || r.Sim == nil {
		t.Errorf("after a run: %v, %v, want its simulation", r.Sim, err)
	}
	if err := os.WriteFile(filepath.Join(dir, reportFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := earlierReport(dir); err == nil {
		t.Error("a broken report is taken for none")
	}
}

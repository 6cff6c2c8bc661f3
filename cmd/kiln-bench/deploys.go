package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// DeployRow is the time from `kiln deploy` of a folder whose handler was edited
// and whose dependencies were not, to its end: the new revision is live.
type DeployRow struct {
	Template string  `json:"template"`
	Samples  int     `json:"samples"`
	P50      float64 `json:"p50_ms"`
	P99      float64 `json:"p99_ms"`
	Max      float64 `json:"max_ms"`
}

// handlers are the files that are edited, and how a comment begins in them.
var handlers = map[string]struct{ file, comment string }{
	"python": {"handler.py", "#"},
	"node":   {"handler.js", "//"},
	"go":     {"handler.go", "//"},
}

func runDeploys(ctx context.Context, p plan, dir string) (rows []DeployRow, err error) {
	g, err := startGateway(ctx, dir, "deploy")
	if err != nil {
		return nil, err
	}
	defer func() { err = joinErr(err, g.stop(ctx)) }()
	for _, template := range p.templates {
		p.say("deploys of an edit, " + template)
		took, err := deployEdits(ctx, p, g, template, filepath.Join(dir, "deploy", template))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", template, err)
		}
		row := coldRow(template, "", took)
		rows = append(rows, DeployRow{Template: template, Samples: row.Samples, P50: row.P50, P99: row.P99, Max: row.Max})
	}
	return rows, nil
}

// deployEdits deploys a function once, and then again after each edit.
func deployEdits(ctx context.Context, p plan, g *gateway, template, dir string) ([]time.Duration, error) {
	tree, err := fs.Sub(functions, "functions/"+template)
	if err != nil {
		return nil, err
	}
	if err := os.CopyFS(dir, tree); err != nil {
		return nil, err
	}
	var took []time.Duration
	for i := range p.deploys + 1 {
		if err := edit(dir, template, i); err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, deployTimeout)
		command := exec.CommandContext(ctx, g.process.Path, "deploy", dir, "--name", "edited-"+template, "--template", template)
		command.Env = append(os.Environ(), "KILN_GATEWAY="+g.client.BaseURL, "KILN_TOKEN="+g.client.Token)
		start := time.Now()
		out, err := command.CombinedOutput()
		cancel()
		if err != nil {
			return nil, fmt.Errorf("kiln deploy: %w\n%s", err, out)
		}
		if i > 0 { // the first builds what all share
			took = append(took, time.Since(start))
		}
	}
	return took, nil
}

// edit appends a line that no earlier deploy had.
func edit(dir, template string, i int) error {
	h, ok := handlers[template]
	if !ok {
		return fmt.Errorf("nobody knows how to edit a function of template %s", template)
	}
	f, err := os.OpenFile(filepath.Join(dir, h.file), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s edit %d of %s\n", h.comment, i, time.Now().Format(time.RFC3339Nano))
	return joinErr(err, f.Close())
}

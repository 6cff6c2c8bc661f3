package cell

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/kilnfaas/kiln/orchestrator"
)

// notes remembers on disk what each loaded cell serves: a container's labels
// cannot be changed, and the next gateway adopts by them. One small file each,
// named after the container. They need not survive a power loss, as containers
// do not either.
type notes struct{ dir string }

// note is a file's content.
type note struct {
	Function string `json:"function"`
	Revision string `json:"revision"`
	Config   string `json:"config"`
}

func (n notes) open() error {
	if n.dir == "" {
		return nil
	}
	return os.MkdirAll(n.dir, 0o700)
}

func (n notes) path(id string) string { return filepath.Join(n.dir, id+".json") }

// valid keeps ids from leading out of the folder.
func (n notes) valid(id string) bool {
	return n.dir != "" && id != "" && !strings.ContainsAny(id, "/.")
}

// write notes what a container serves. It is there whole or not at all.
func (n notes) write(id string, release orchestrator.Release) error {
	if !n.valid(id) {
		return nil
	}
	data, err := json.Marshal(note{Function: release.Spec.Name, Revision: release.Revision.ID, Config: release.ConfigHash()})
	if err != nil {
		return fmt.Errorf("note what a cell serves: %w", err)
	}
	part := n.path(id) + ".part"
	if err := os.WriteFile(part, data, 0o600); err != nil {
		return fmt.Errorf("note what a cell serves: %w", err)
	}
	if err := os.Rename(part, n.path(id)); err != nil {
		return fmt.Errorf("note what a cell serves: %w", err)
	}
	return nil
}

// drop forgets a container. What stays because of an error does no harm: ids are
// not used twice.
func (n notes) drop(id string) {
	if n.valid(id) {
		os.Remove(n.path(id))
	}
}

// prune drops all notes but those of the given containers.
func (n notes) prune(keep map[string]bool) error {
	if n.dir == "" {
		return nil
	}
	files, err := os.ReadDir(n.dir)
	if err != nil {
		return fmt.Errorf("list the notes of loaded cells: %w", err)
	}
	for _, f := range files {
		if id, ok := strings.CutSuffix(f.Name(), ".json"); !ok || !keep[id] {
			if err := os.Remove(filepath.Join(n.dir, f.Name())); err != nil {
				return fmt.Errorf("drop a note: %w", err)
			}
		}
	}
	return nil
}

// read returns what a container serves; false when it is not noted.
func (n notes) read(id string) (note, bool, error) {
	if !n.valid(id) {
		return note{}, false, nil
	}
	data, err := os.ReadFile(n.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return note{}, false, nil
	}
	var found note
	if err == nil {
		err = json.Unmarshal(data, &found)
	}
	if err != nil {
		return note{}, false, fmt.Errorf("read what a cell serves: %w", err)
	}
	return found, true, nil
}

// Recognize adds to the labels of a loaded cell what it serves.
func (l *Launcher) Recognize(c orchestrator.Container) orchestrator.Container {
	if c.Labels[orchestrator.LabelKind] != orchestrator.KindCell {
		return c
	}
	found, ok, err := l.notes.read(c.ID)
	if err != nil {
		l.config.Logger.Warn("recognize a cell", "container_id", c.ID, "error", err)
	}
	if !ok {
		return c
	}
	c.Labels = maps.Clone(c.Labels)
	c.Labels[orchestrator.LabelFunction] = found.Function
	c.Labels[orchestrator.LabelRevision] = found.Revision
	c.Labels[orchestrator.LabelConfig] = found.Config
	return c
}

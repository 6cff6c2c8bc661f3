package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/kilnfaas/kiln/orchestrator/archive"
)

func (t *tool) newCommand() *cobra.Command {
	var template, folder string
	cmd := &cobra.Command{
		Use:   "new NAME --template TEMPLATE",
		Short: "Begin a function: a handler, a test of it and a README",
		Example: `  kiln new hello --template python
  kiln new thumbnails --template go --dir functions/thumbnails`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if err := checkName(cmd, name); err != nil {
				return err
			}
			if template == "" {
				return usagef(cmd, "--template is missing; kiln templates shows what there is")
			}
			return t.scaffold(cmd.Context(), name, template, firstOf(folder, name))
		},
	}
	cmd.Flags().StringVarP(&template, "template", "t", "", "the language; kiln templates shows what there is")
	cmd.Flags().StringVar(&folder, "dir", "", "folder to make (default NAME)")
	complete(cmd, "template", t.templateNames)
	return cmd
}

// created is the answer of `kiln new -o json`.
type created struct {
	Name     string   `json:"name"`
	Template string   `json:"template"`
	Folder   string   `json:"folder"`
	Files    []string `json:"files"`
}

// scaffold writes the first files of a function into a folder that is not there
// yet, or empty.
func (t *tool) scaffold(ctx context.Context, name, template, folder string) error {
	made, err := makeFolder(folder)
	if err != nil {
		return err
	}
	files, err := t.unpackScaffold(ctx, name, template, folder)
	if err != nil {
		if made {
			err = errors.Join(err, os.RemoveAll(folder)) // a second try begins as the first did
		}
		return err
	}
	if t.format == formatJSON {
		return t.writeJSON(created{Name: name, Template: template, Folder: folder, Files: files})
	}
	fmt.Fprintf(t.out, "%s is a %s function now:\n", folder, template)
	for _, file := range files {
		fmt.Fprintf(t.out, "  %s\n", filepath.Join(folder, file))
	}
	fmt.Fprintf(t.out, "\nNext:  %s deploy %s\n", os.Args[0], folder)
	return nil
}

// makeFolder makes a folder and says whether it did; an empty one will do.
func makeFolder(folder string) (made bool, err error) {
	entries, err := os.ReadDir(folder)
	switch {
	case err == nil && len(entries) == 0:
		return false, nil
	case err == nil:
		return false, fmt.Errorf("%s exists and is not empty; give another folder with --dir", folder)
	case !errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("make the folder: %w", err)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return false, fmt.Errorf("make the folder: %w", err)
	}
	return true, nil
}

// unpackScaffold fetches and unpacks a scaffold and returns its files.
func (t *tool) unpackScaffold(ctx context.Context, name, template, folder string) ([]string, error) {
	client, err := t.client()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	stream, err := client.Scaffold(ctx, template, name)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, fmt.Errorf("open the folder: %w", err)
	}
	defer root.Close()
	if _, err := archive.Unpack(ctx, stream, root, archive.DefaultLimits()); err != nil {
		return nil, fmt.Errorf("unpack the scaffold: %w", err)
	}
	var files []string
	err = fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			files = append(files, path)
		}
		return err
	})
	slices.Sort(files)
	return files, err
}

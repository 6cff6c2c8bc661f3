package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/archive"
)

func (t *tool) deployCommand() *cobra.Command {
	var (
		o       overrides
		name    string
		verbose bool
	)
	cmd := &cobra.Command{
		Use:   "deploy [DIR]",
		Short: "Build a function and make it live",
		Long: `Build the function in DIR (default: here) and make it live. The settings are
those of its function.yaml; flags override them. Whatever .kilnignore names and
version control folders are left out.

DIR may also be an archive (tar, tar.gz, tar.zst, zip), or with --template one
source file.

The revision that answers now goes on answering until the new one is ready; when
the deploy fails nothing changes.`,
		Example: `  kiln deploy hello
  kiln deploy --name hello-staging --env STAGE=staging --min 1
  kiln deploy resize.py --template python`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := "."
			if len(args) == 1 {
				path = args[0]
			}
			patch, err := o.patch(cmd)
			if err != nil {
				return err
			}
			what, err := openSource(cmd, path)
			if err != nil {
				return err
			}
			defer what.close()
			what.name = firstOf(name, what.name)
			if err := checkName(cmd, what.name); err != nil {
				return err
			}
			return t.deploy(cmd.Context(), what, patch, verbose)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the function (default: function.yaml's, else the folder's)")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "show what the build prints, too")
	o.specFlags(cmd)
	complete(cmd, "name", t.functionNames(false))
	complete(cmd, "template", t.templateNames)
	return cmd
}

// source is what is deployed: a folder, an archive or a single file.
type source struct {
	name   string // that it has by itself
	folder *os.Root
	file   *os.File
	single string // name of a single source file
}

func (s source) close() {
	// Both were only read.
	if s.folder != nil {
		_ = s.folder.Close()
	}
	if s.file != nil {
		_ = s.file.Close()
	}
}

// openSource opens what a path names.
func openSource(cmd *cobra.Command, path string) (source, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return source{}, usagef(cmd, "%s: %w", path, err)
	}
	info, err := os.Stat(absolute)
	if err != nil {
		return source{}, usagef(cmd, "nothing to deploy: %w", err)
	}
	if info.IsDir() {
		root, err := os.OpenRoot(absolute)
		if err != nil {
			return source{}, fmt.Errorf("open the folder: %w", err)
		}
		return source{name: firstOf(declaredName(root), strings.ToLower(filepath.Base(absolute))), folder: root}, nil
	}
	file, err := os.Open(absolute)
	if err != nil {
		return source{}, fmt.Errorf("open the file: %w", err)
	}
	s := source{file: file, name: strings.ToLower(strings.SplitN(filepath.Base(absolute), ".", 2)[0])}
	head := make([]byte, archive.DetectLen)
	n, err := io.ReadFull(file, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		s.close()
		return source{}, fmt.Errorf("read the file: %w", err)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		s.close()
		return source{}, fmt.Errorf("read the file: %w", err)
	}
	if archive.Detect(head[:n]) == archive.FormatUnknown {
		s.single = filepath.Base(absolute)
	}
	return s, nil
}

// maxManifest bounds what is read of function.yaml to find the name.
const maxManifest = 64 << 10

// declaredName returns the name in a folder's function.yaml. A file that cannot
// be read has none: the gateway says what is wrong with it, line and column.
func declaredName(root *os.Root) string {
	file, err := root.Open("function.yaml")
	if err != nil {
		return ""
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxManifest))
	var manifest struct {
		Name string `yaml:"name"`
	}
	if err != nil || yaml.Unmarshal(data, &manifest) != nil {
		return ""
	}
	return manifest.Name
}

func (t *tool) deploy(ctx context.Context, what source, patch map[string]any, verbose bool) error {
	client, err := t.client()
	if err != nil {
		return err
	}
	var spec []byte
	if len(patch) > 0 {
		if spec, err = json.Marshal(patch); err != nil {
			return fmt.Errorf("encode the settings: %w", err)
		}
	}
	show := newView(t.err, verbose)
	deployment, err := send(ctx, client, what, spec, show.event)
	show.close()
	if err != nil {
		if errors.Is(err, context.Canceled) {
			fmt.Fprintf(t.err, "interrupted; the deploy goes on at the gateway\n  next: kiln revisions %s shows how it ends\n", what.name)
			return errShown
		}
		return err
	}
	if t.format == formatJSON {
		return t.writeJSON(deployment)
	}
	t.deployed(client, deployment, show.elapsed())
	return nil
}

// send sends a source in the way that suits it.
func send(ctx context.Context, client *api.Client, what source, spec []byte, event func(api.Event)) (api.Deployment, error) {
	switch {
	case what.single != "":
		var template struct {
			Template string `json:"template"`
		}
		if len(spec) > 0 {
			if err := json.Unmarshal(spec, &template); err != nil {
				return api.Deployment{}, fmt.Errorf("read the settings: %w", err)
			}
		}
		if template.Template == "" {
			return api.Deployment{}, orchestrator.Errorf(orchestrator.ErrInvalid, "template-missing", "%s is one source file, and its language was not said", what.single).
				WithHint("add --template; kiln templates shows what there is")
		}
		return client.Upload(ctx, api.Upload{Name: what.name, Template: template.Template, Filename: what.single, File: what.file, Spec: spec}, event)
	case what.file != nil:
		return client.Deploy(ctx, api.Deploy{Name: what.name, Archive: what.file, Spec: spec}, event)
	}
	packed, writer := io.Pipe()
	go func() { writer.CloseWithError(pack(ctx, writer, what.folder)) }()
	defer packed.Close() // ends the packing when the gateway answered early
	return client.Deploy(ctx, api.Deploy{Name: what.name, Archive: packed, Spec: spec}, event)
}

// pack writes a folder as tar.zst.
func pack(ctx context.Context, w io.Writer, root *os.Root) error {
	files, err := archive.Sources(root.FS())
	if err != nil {
		return err
	}
	compressed, err := archive.Zstd(w)
	if err != nil {
		return err
	}
	_, err = archive.Pack(ctx, compressed, files, archive.DefaultLimits())
	return errors.Join(err, compressed.Close())
}

// deployed tells what is live and how to call it.
func (t *tool) deployed(client *api.Client, d api.Deployment, elapsed string) {
	style := styleOf(t.out)
	fmt.Fprintf(t.out, "%s %s is live as %s %s\n", style.green("✓"), style.bold(d.Function.Name), d.Revision.ID, style.dim("("+elapsed+")"))
	fmt.Fprintf(t.out, "  %s%s\n", client.BaseURL, d.Function.URL)
	fmt.Fprintf(t.out, "  %s invoke %s\n", os.Args[0], d.Function.Name)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

func (t *tool) bucketCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "bucket",
		Aliases: []string{"buckets"},
		Short:   "Keep files in buckets, whose changes may invoke functions",
		Long: `Keep files in buckets. A bucket exists while it holds something. A key is a path,
such as photos/2026/cat.jpg. Functions with a trigger of the type object are told of
what is put and removed.`,
		Example: `  kiln bucket put photos cat.jpg cat.jpg
  tar c . | kiln bucket put backups today.tar
  kiln bucket ls photos
  kiln bucket get photos cat.jpg > cat.jpg
  kiln bucket rm photos cat.jpg`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	addBelow(cmd, t.bucketLs(), t.bucketPut(), t.bucketGet(), t.bucketRm())
	return cmd
}

func (t *tool) bucketLs() *cobra.Command {
	var filter orchestrator.ObjectFilter
	cmd := &cobra.Command{
		Use:               "ls [BUCKET [PREFIX]]",
		Short:             "List buckets, or what is in one",
		Args:              cobra.MaximumNArgs(2),
		ValidArgsFunction: t.bucketNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return t.withClient(cmd, t.listBuckets)
			}
			if len(args) == 2 {
				filter.Prefix = args[1]
			}
			return t.withClient(cmd, func(ctx context.Context, client *api.Client) error {
				return t.listObjects(ctx, client, args[0], filter)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&filter.After, "after", "", "only those behind this key, for the next page")
	flags.IntVar(&filter.Limit, "limit", orchestrator.MaxObjectList, "at most so many")
	return cmd
}

func (t *tool) listBuckets(ctx context.Context, client *api.Client) error {
	found, err := client.Buckets(ctx)
	if err != nil {
		return err
	}
	if t.format == formatJSON {
		return t.writeJSON(api.BucketList{Buckets: found})
	}
	rows := newTable("BUCKET")
	for _, b := range found {
		rows.add(b.Name)
	}
	return rows.write(t.out)
}

func (t *tool) listObjects(ctx context.Context, client *api.Client, bucket string, filter orchestrator.ObjectFilter) error {
	list, err := client.Objects(ctx, bucket, filter)
	if err != nil {
		return err
	}
	if t.format == formatJSON {
		return t.writeJSON(list)
	}
	rows := newTable("KEY", "SIZE", "TYPE", "MODIFIED")
	now := time.Now()
	for _, o := range list.Objects {
		rows.add(o.Key, units.BytesSize(float64(o.Size)), o.ContentType, ago(o.ModifiedAt, now))
	}
	if err := rows.write(t.out); err != nil || list.Next == "" {
		return err
	}
	fmt.Fprintf(t.err, "there are more: --after %q\n", list.Next)
	return nil
}

func (t *tool) bucketPut() *cobra.Command {
	var media string
	cmd := &cobra.Command{
		Use:   "put BUCKET KEY [FILE]",
		Short: "Put a file, or the standard input, into a bucket",
		Long: `Put a file, or the standard input, into a bucket, in place of what is there. It is
on disk once the command ends without an error; else nothing has changed.`,
		Args:              cobra.RangeArgs(2, 3),
		ValidArgsFunction: t.bucketNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := refusedBy(cmd, errors.Join(orchestrator.ValidateBucket(args[0]), orchestrator.ValidateKey(args[1]))); err != nil {
				return err
			}
			in, size := t.in, int64(0)
			if len(args) == 3 && args[2] != "-" {
				file, err := os.Open(args[2])
				if err != nil {
					return usagef(cmd, "%v", err)
				}
				defer file.Close()
				if info, err := file.Stat(); err == nil {
					size = info.Size()
				}
				in = file
			}
			if media == "" {
				media = mime.TypeByExtension(path.Ext(args[1]))
			}
			client, err := t.client()
			if err != nil {
				return err
			}
			shown := t.progress(size)
			o, err := client.PutObject(cmd.Context(), args[0], args[1], media, io.TeeReader(in, shown))
			shown.end()
			if err != nil {
				return err
			}
			if t.format == formatJSON {
				return t.writeJSON(o)
			}
			fmt.Fprintf(t.err, "%s is in %s: %s, %s\n", o.Key, o.Bucket, units.BytesSize(float64(o.Size)), o.ContentType)
			return nil
		},
	}
	cmd.Flags().StringVar(&media, "type", "", "content type (default by the key's extension)")
	return cmd
}

func (t *tool) bucketGet() *cobra.Command {
	return &cobra.Command{
		Use:               "get BUCKET KEY [FILE]",
		Short:             "Get an object, into a file or to the standard output",
		Long:              `Get an object, into a file or to the standard output. A file appears once it is whole.`,
		Args:              cobra.RangeArgs(2, 3),
		ValidArgsFunction: t.bucketNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := t.client()
			if err != nil {
				return err
			}
			response, err := client.Object(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			defer response.Body.Close()
			shown := t.progress(response.ContentLength)
			defer shown.end()
			content := io.TeeReader(response.Body, shown)
			if len(args) == 3 && args[2] != "-" {
				return writeWhole(args[2], content)
			}
			_, err = io.Copy(t.out, content)
			return cutShort(err)
		},
	}
}

// cutShort is the error of a content that ended early.
func cutShort(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return orchestrator.Errorf(orchestrator.ErrUnavailable, "answer-unreadable", "the object ended early: %w", err).WithHint("try again")
	}
	return err
}

// writeWhole makes a file that is there once its content is whole.
func writeWhole(name string, content io.Reader) error {
	file, err := os.CreateTemp(filepath.Dir(name), ".kiln-get-")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // no longer there when all went well
	if _, err := io.Copy(file, content); err != nil {
		file.Close()
		return cutShort(err)
	}
	const ordinary = 0o644
	if err := errors.Join(file.Chmod(ordinary), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), name)
}

func (t *tool) bucketRm() *cobra.Command {
	return &cobra.Command{
		Use:               "rm BUCKET KEY...",
		Short:             "Remove objects",
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: t.bucketNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			return t.removeEach(cmd, args[1:], callTimeout, func(client *api.Client, ctx context.Context, key string) error {
				return client.DeleteObject(ctx, args[0], key)
			})
		},
	}
}

// bucketNames completes the first argument.
func (t *tool) bucketNames(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault // files
	}
	return candidates(t, cmd, (*api.Client).Buckets, func(b api.Bucket) (string, string) { return b.Name, "" })
}

// progressEvery is how often progress is shown.
const progressEvery = 200 * time.Millisecond

// progress shows on a terminal how much went by; elsewhere nothing.
type progress struct {
	out   io.Writer // nil = nothing is shown
	total int64     // 0 = not known
	done  int64
	last  time.Time
}

func (t *tool) progress(total int64) *progress {
	p := &progress{total: total}
	if _, ok := terminal(t.err); ok {
		p.out, p.last = t.err, time.Now()
	}
	return p
}

// Write implements io.Writer.
func (p *progress) Write(data []byte) (int, error) {
	p.done += int64(len(data))
	if p.out != nil && time.Since(p.last) >= progressEvery {
		p.last = time.Now()
		of := ""
		if p.total > 0 {
			of = " of " + units.BytesSize(float64(p.total))
		}
		fmt.Fprintf(p.out, "\r\x1b[K%s%s", units.BytesSize(float64(p.done)), of)
	}
	return len(data), nil
}

// end takes away what was shown.
func (p *progress) end() {
	if p.out != nil {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

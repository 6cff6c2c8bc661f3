package build_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator/build"
)

func TestReferences(t *testing.T) {
	for _, test := range []struct {
		name, dockerfile string
		args             map[string]string
		want             []string
	}{
		{name: "one", dockerfile: "FROM debian:trixie-slim\nRUN true\n", want: []string{"debian:trixie-slim"}},
		{name: "no newline, lower case, blanks", dockerfile: "\n\t from   a:1  as  x", want: []string{"a:1"}},
		{name: "scratch", dockerfile: "FROM scratch\nCOPY a /\n"},
		{name: "stages", dockerfile: "FROM a AS Build\nFROM build AS test\nFROM b\nCOPY --from=build /x /\nCOPY --from=0 /x /\nCOPY --chown=1:1 --from=TEST /x /\n", want: []string{"a", "b"}},
		{name: "stage named later is an image", dockerfile: "FROM b\nFROM a AS b\n", want: []string{"b", "a"}},
		{name: "platform", dockerfile: "FROM --platform=linux/amd64 a\n", want: []string{"a"}},
		{name: "digest and registry", dockerfile: "FROM r.example.com:5000/x/y@sha256:abc\n", want: []string{"r.example.com:5000/x/y@sha256:abc"}},
		{name: "copied from an image", dockerfile: "FROM a\nCOPY --from=ghcr.io/x/uv:1 /uv /\n", want: []string{"a", "ghcr.io/x/uv:1"}},
		{name: "mounted from an image", dockerfile: "FROM a\nRUN --mount=type=bind,from=b:2,target=/b --mount=type=cache,target=/c cat /b\n", want: []string{"a", "b:2"}},
		{name: "a command's own flag", dockerfile: "FROM a\nRUN tool --from=b\n", want: []string{"a"}},
		{name: "argument with a default", dockerfile: "ARG V=3.13\nFROM python:${V}-slim\n", want: []string{"python:3.13-slim"}},
		{name: "argument given", dockerfile: "ARG V=3.13\nFROM python:$V\n", args: map[string]string{"V": "3.14"}, want: []string{"python:3.14"}},
		{name: "argument of an argument, quoted", dockerfile: "ARG V=3 W=\"x-$V\"\nFROM a:$W\n", want: []string{"a:x-3"}},
		{name: "argument without a value", dockerfile: "ARG V\nFROM a:$V\nFROM b\n", want: []string{"b"}},
		{name: "argument nobody declared", dockerfile: "FROM a:$TARGETARCH\n"},
		{name: "argument not declared but given", dockerfile: "FROM a:$V\n", args: map[string]string{"V": "1"}},
		{name: "default in place", dockerfile: "ARG V\nFROM a:${V:-1}\nARG W=2\nFROM b:${W:+3}\n", want: []string{"a:1", "b:"}},
		{name: "argument of a stage", dockerfile: "FROM a\nARG V=1\nFROM b:$V\n", want: []string{"a"}},
		{name: "comment", dockerfile: "# FROM x\nFROM a # no comment\n  # FROM y\n", want: []string{"a"}},
		{name: "continued", dockerfile: "FROM \\\n  # why\n  a \\\n  AS b\nRUN x \\\n FROM c\nFROM b\n", want: []string{"a"}},
		{name: "windows line ends", dockerfile: "FROM a AS b\r\nFROM b\r\nFROM c\r\n", want: []string{"a", "c"}},
		{name: "escape directive", dockerfile: "# escape=`\nFROM `\n a\n", want: []string{"a"}},
		{name: "here-document", dockerfile: "FROM a\nRUN <<EOF\nFROM x\nEOF\nCOPY <<-'A' <<B /\nFROM y\n\tA\nFROM z\nB\nFROM b\n", want: []string{"a", "b"}},
		{name: "empty"},
		{name: "broken", dockerfile: "FROM\nFROM --platform=x\nFROM \\\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, build.References(test.dockerfile, test.args)); diff != "" {
				t.Errorf("references (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRewrite(t *testing.T) {
	dockerfile := "ARG V=3.13\n# FROM python:3.13\nFROM --platform=linux/amd64 python:${V} AS python\nFROM python\nCOPY --from=node:24 --chown=1 /n /n\nRUN --mount=from=python:3.13,target=/p echo python:3.13\nFROM other\n"
	want := "ARG V=3.13\n# FROM python:3.13\nFROM --platform=linux/amd64 kiln-base/python:3.13 AS python\nFROM python\nCOPY --from=kiln-base/node:20 --chown=1 /n /n\nRUN --mount=from=kiln-base/python:3.13,target=/p echo python:3.13\nFROM other\n"
	by := map[string]string{"python:3.13": "kiln-base/python:3.13", "node:24": "kiln-base/node:20", "other": "other"}
	if diff := cmp.Diff(want, build.Rewrite(dockerfile, by)); diff != "" {
		t.Errorf("rewritten (-want +got):\n%s", diff)
	}
}

func TestWithoutSyntax(t *testing.T) {
	for _, test := range []struct{ name, dockerfile, want, frontend string }{
		{"none", "FROM a\n# syntax=x\n", "FROM a\n# syntax=x\n", ""},
		{"first", "# syntax=docker/dockerfile:1\nFROM a\n", "#\nFROM a\n", "docker/dockerfile:1"},
		{"no blank, upper case", "#SYNTAX=x\r\nFROM a\n", "#\nFROM a\n", "x"},
		{"before another", "# syntax=x\n# escape=`\nFROM a\n", "# escape=`\nFROM a\n", "x"},
		{"after another", "# escape=`\n# syntax=x\nFROM a\n", "# escape=`\n#\nFROM a\n", "x"},
		{"after a comment", "# hello\n# syntax=x\nFROM a\n", "# hello\n# syntax=x\nFROM a\n", ""},
		{"empty", "", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, frontend := build.WithoutSyntax(test.dockerfile)
			if diff := cmp.Diff(test.want, got); diff != "" || frontend != test.frontend {
				t.Errorf("frontend %q, want %q; text (-want +got):\n%s", frontend, test.frontend, diff)
			}
		})
	}
}

// FuzzReferences: no text makes the parser fail, and rewriting by nothing
// changes nothing.
func FuzzReferences(f *testing.F) {
	for _, seed := range []string{
		"FROM a", "ARG V=${X:-1}\nFROM a:$V AS b\nCOPY --from=b x y\n", "RUN <<EOF\nFROM x\nEOF\n",
		"# escape=`\nFROM `\n a", "#\\\n", "FROM \\\n\\\n", "RUN --mount=from=,x\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, dockerfile string) {
		for _, image := range build.References(dockerfile, nil) {
			if strings.ContainsAny(image, " \t\n$") {
				t.Errorf("image %q", image)
			}
		}
		if got := build.Rewrite(dockerfile, nil); got != dockerfile {
			t.Errorf("rewritten to %q", got)
		}
		by := map[string]string{}
		for _, image := range build.References(dockerfile, nil) {
			by[image] = "replaced"
		}
		got := build.References(build.Rewrite(dockerfile, by), nil)
		if len(by) > 0 && !slices.Contains(got, "replaced") {
			t.Errorf("after rewriting the images are %q", got)
		}
		build.WithoutSyntax(dockerfile)
	})
}

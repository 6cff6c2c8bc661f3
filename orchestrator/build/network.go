package build

import (
	"archive/tar"
	"context"
	"io"
	"path"
	"regexp"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Values of orchestrator.BuildRequest.Network.
const (
	networkDefault = ""
	networkNone    = "none"
)

// maxLooked bounds what is read of a file that may ask for a network: manifests
// of dependencies and the beginning of sources, where imports are.
const maxLooked = 1 << 20

// network returns what the steps of a revision's build reach. asks is whether
// its files ask for something from elsewhere.
func network(r orchestrator.Revision, asks bool) string {
	switch r.Spec.Build.Network {
	case orchestrator.BuildNetworkNone:
		return networkNone
	case orchestrator.BuildNetworkInternet:
		return networkDefault
	}
	if asks || len(r.Spec.Build.Packages) > 0 {
		return networkDefault
	}
	return networkNone
}

// asks says whether one of a revision's files is for the sake of which its
// template fetches something.
func (b *Composer) asks(ctx context.Context, r orchestrator.Revision, t orchestrator.Template) (bool, error) {
	var patterns []fetch
	for _, f := range t.Fetches {
		if f.File == "*" && f.Match == "" {
			return true, nil // whatever the files are
		}
		match, err := regexp.Compile(f.Match)
		if err != nil {
			return false, orchestrator.Errorf(orchestrator.ErrInvalid, "template-invalid", "the template %s: %w", t.Name, err)
		}
		patterns = append(patterns, fetch{f.File, match})
	}
	if len(patterns) == 0 || r.ArchiveDigest == "" {
		return false, nil
	}
	code, err := b.config.Archives.Archive(ctx, r.ArchiveDigest)
	if err != nil {
		return false, err
	}
	defer code.Close()
	return fetches(code, patterns)
}

// fetch is an orchestrator.Fetch, compiled.
type fetch struct {
	file  string
	match *regexp.Regexp
}

// fetches says whether one of the files in a tar asks for something from
// elsewhere.
func fetches(r io.Reader, patterns []fetch) (bool, error) {
	for in := tar.NewReader(r); ; {
		header, err := in.Next()
		if err == io.EOF {
			return false, nil
		}
		if err != nil {
			return false, unreadable(err)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		var text []byte
		for _, p := range patterns {
			if ok, err := path.Match(p.file, path.Base(header.Name)); err != nil || !ok {
				continue
			}
			if text == nil {
				if text, err = io.ReadAll(io.LimitReader(in, maxLooked)); err != nil {
					return false, unreadable(err)
				}
			}
			if p.match.Match(text) {
				return true, nil
			}
		}
	}
}

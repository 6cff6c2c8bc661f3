package build

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/kilnfaas/kiln/orchestrator"
)

// digestVersion changes when the same input begins to give another image, so
// that images of before are not used again.
const digestVersion = 1

// Digest identifies everything that decides an image: the code, the template,
// and of the settings those that a build sees. Equal digests mean that an image
// can be used again.
//
// The name does not count: an instance learns it from its environment. Neither
// do base images, which a redeploy of unchanged code does not renew, nor the
// extra CA, which only says how a download is checked.
func Digest(archiveDigest, templateDigest string, spec orchestrator.Spec) string {
	packages := slices.Clone(spec.Build.Packages)
	slices.Sort(packages)
	network := spec.Build.Network
	if network == orchestrator.BuildNetworkAuto {
		network = ""
	}
	data, err := json.Marshal(struct {
		Version           int
		Archive, Template string
		Handler           string
		Packages          []string
		Args              map[string]string
		Test              bool
		// Left out for the default, so that images of before there was a choice serve.
		Network orchestrator.BuildNetwork `json:",omitempty"`
	}{digestVersion, archiveDigest, templateDigest, spec.Handler, slices.Compact(packages), spec.Build.Args, spec.Build.Test, network})
	if err != nil {
		panic(fmt.Sprintf("build: encode what is built: %v", err)) // strings and numbers only
	}
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

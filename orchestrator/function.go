package orchestrator

import (
	"maps"
	"slices"
	"time"
)

// Function is a name, its settings and the revision that is live.
type Function struct {
	Name      string    `json:"name"`
	Spec      Spec      `json:"spec"`
	Live      string    `json:"live"`     // Revision.ID that answers; empty until a first deploy succeeded
	Revision  int       `json:"revision"` // number given to the newest revision
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
	// Version is set by the Store; a write must carry the one that was read.
	// 0 means that the function is to be created.
	Version uint64 `json:"-"`
}

// RevisionStatus is a state of a revision's life:
// building -> ready | failed; ready -> retired when its image is pruned.
type RevisionStatus string

// The states of a revision.
const (
	RevisionBuilding RevisionStatus = "building"
	RevisionReady    RevisionStatus = "ready"
	RevisionFailed   RevisionStatus = "failed"
	RevisionRetired  RevisionStatus = "retired"
)

// Revision is immutable but for Status, Error, Image and the times: an archive,
// a template and build options that give one image, and the settings it was
// deployed with.
type Revision struct {
	ID             string         `json:"id"` // "r7-3fa9c1": number and a short digest
	Function       string         `json:"function"`
	Number         int            `json:"number"` // 1, 2, … within the function
	Spec           Spec           `json:"spec"`
	ArchiveDigest  string         `json:"archive_digest"`        // "sha256:…" of the canonical tar
	TemplateDigest string         `json:"template_digest"`       // "sha256:…" of the template's files
	BuildDigest    string         `json:"build_digest"`          // of everything that decides the image
	Image          string         `json:"image"`                 // "kiln/NAME:REV"
	ImageID        string         `json:"image_id"`              // engine's content id, once built
	CodeDigest     string         `json:"code_digest,omitempty"` // of the code for cells, see CodePath; empty = none kept
	CodeSize       Bytes          `json:"code_size,omitempty"`   // of that code, as a tar
	Status         RevisionStatus `json:"status"`
	Error          string         `json:"error,omitempty"` // why it failed
	CreatedAt      time.Time      `json:"created_at"`
	ReadyAt        time.Time      `json:"ready_at,omitzero"`
}

// Clone returns a copy that shares nothing with s.
func (s Spec) Clone() Spec {
	s.Env = maps.Clone(s.Env)
	s.Secrets = slices.Clone(s.Secrets)
	s.CORS = s.CORS.clone()
	s.Async.RetryOn = slices.Clone(s.Async.RetryOn)
	s.Triggers = cloneTriggers(s.Triggers)
	s.Build.Packages = slices.Clone(s.Build.Packages)
	s.Build.Args = maps.Clone(s.Build.Args)
	return s
}

package orchestrator

import (
	"context"
	"time"
)

// Fleet is the running side as the use cases see it: for each function one
// release that answers, and its instances. The route package implements it.
//
// All methods are safe for concurrent use.
type Fleet interface {
	// Prove starts one instance of a release and returns once it is ready. It is
	// not routed yet; Serve makes use of it, Discard ends it. The error is
	// ErrFunction with the instance's last lines when the function is at fault.
	Prove(ctx context.Context, release Release) error
	// Discard ends what Prove started.
	Discard(release Release)
	// Serve makes the release the one that answers for its function, atomically
	// for callers. When its ConfigHash and revision are those of the release
	// that answers, only settings change; else the old one's instances drain.
	Serve(release Release)
	// Remove stops answering for a function and ends its instances. An unknown
	// function is no error. It returns when no instance is left or ctx ends.
	Remove(ctx context.Context, name string) error
	// Adopt hands over a running or frozen container that an earlier gateway
	// started. It reports false, and leaves the container alone, when no release
	// that answers has its revision and ConfigHash.
	Adopt(container Container) bool
	// Died tells that a container ended.
	Died(id string, exitCode int, oom bool)
	// Owns says whether a container is in use: an instance, or one starting or
	// ending under somebody's care.
	Owns(id string) bool
	// Status describes the instances of a function; false when unknown.
	Status(name string) (FunctionStatus, bool)
}

// FunctionStatus is what runs for a function now.
type FunctionStatus struct {
	Ready     int              `json:"ready"`
	Frozen    int              `json:"frozen"`
	Starting  int              `json:"starting"`
	Draining  int              `json:"draining"`
	Waiting   int              `json:"waiting"`  // requests in the queue
	InFlight  int              `json:"inflight"` // requests at instances
	Instances []InstanceStatus `json:"instances"`
	// CrashLoop is set while starts fail again and again.
	CrashLoop *CrashLoop `json:"crash_loop,omitempty"`
	// Wake says how a cold start happens: "cell" or "image", and WakeReason why.
	Wake       string `json:"wake,omitempty"`
	WakeReason string `json:"wake_reason,omitempty"`
}

// InstanceStatus is one instance.
type InstanceStatus struct {
	ID        string    `json:"id"` // container id
	Revision  string    `json:"revision"`
	State     string    `json:"state"` // starting, ready, frozen, draining
	InFlight  int       `json:"inflight"`
	StartedAt time.Time `json:"started_at"`
	LastUsed  time.Time `json:"last_used,omitzero"`
	Origin    string    `json:"origin"` // "image", "cell" or "adopted"
}

// CrashLoop is a function whose instances end soon after they start.
type CrashLoop struct {
	Failures  int       `json:"failures"`
	NextStart time.Time `json:"next_start"`
	LastError string    `json:"last_error"`
}

// RevisionBuilder makes the image of a revision: base images, build context and
// build, with what is shared between builds. The build package implements it.
//
// The image gets the tag Revision.Image and the build digest as a label; an
// image that exists with this label is tagged again, not built. Errors are
// those of Builder.
type RevisionBuilder interface {
	BuildRevision(ctx context.Context, revision Revision, template Template, progress func(BuildEvent)) (Image, error)
}

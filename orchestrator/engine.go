package orchestrator

import (
	"context"
	"io"
	"iter"
	"slices"
	"strings"
	"time"
)

// Labels that every container, network, volume and image made by Kiln carries.
const (
	LabelOwner    = "dev.kiln.owner"    // id of the installation; two on one engine leave each other alone
	LabelKind     = "dev.kiln.kind"     // what it is; see below
	LabelFunction = "dev.kiln.function" // name
	LabelRevision = "dev.kiln.revision" // Revision.ID
	LabelConfig   = "dev.kiln.config"   // Release.ConfigHash
	LabelTemplate = "dev.kiln.template" // name
	LabelBuild    = "dev.kiln.build"    // Revision.BuildDigest, on images
	LabelToken    = "dev.kiln.token"    // tells the instance's token from others; absent = it has none
)

// Values of LabelKind. A container that anybody starts from an image inherits
// the image's labels, so what Kiln runs has a kind that no image for others has.
const (
	KindInstance = "instance"
	KindCell     = "cell"
	KindImage    = "image"
	KindBase     = "base"
	KindEntry    = "entry" // a volume, and containers that files are copied into or out of
	KindRules    = "rules" // the helper that walls instances off, and its image
)

// InstancePort is where every instance listens, inside its container.
const InstancePort = 8080

// Engine runs containers.
//
// A container is created and started in one step (Run) and from then on is
// running, frozen or exited; it is never restarted, an exited one is only
// removed. Freeze and Thaw are idempotent. Stop sends SIGTERM, waits for grace,
// kills, and removes; stopping or removing what does not exist is no error.
// A frozen container is thawed by Stop.
//
// All methods are safe for concurrent use. Every call honours its context and
// has a deadline of its own besides. Errors are of the class ErrNotFound (no
// such container or image), ErrConflict (the state forbids it), ErrInvalid (the
// engine refuses the configuration) or ErrUnavailable (the engine does not
// answer).
type Engine interface {
	// Run creates and starts a container and returns it with its address. When
	// it fails nothing is left behind.
	Run(ctx context.Context, config ContainerConfig) (Container, error)
	// Stop ends and removes a container.
	Stop(ctx context.Context, id string, grace time.Duration) error
	// Freeze stops a container's processes from being scheduled; its memory stays.
	Freeze(ctx context.Context, id string) error
	// Thaw undoes Freeze.
	Thaw(ctx context.Context, id string) error
	// Limit changes the limits of a running container.
	Limit(ctx context.Context, id string, limits Limits) error
	// Inspect returns one container.
	Inspect(ctx context.Context, id string) (Container, error)
	// List returns the containers that carry all of labels, in any state.
	List(ctx context.Context, labels map[string]string) ([]Container, error)
	// Events calls f, from one goroutine, for each change of a container that
	// carries all of labels. It reconnects by itself with back-off, calling f
	// with EventResync after each gap, first of all once it is connected, and
	// returns only when ctx ends.
	Events(ctx context.Context, labels map[string]string, f func(Event)) error
	// Logs yields lines of a container, those of each stream oldest first; stdout
	// and stderr are read independently, so lines of about the same moment may
	// change places between the two. With follow it goes on until the container
	// ends or ctx does.
	Logs(ctx context.Context, id string, options LogOptions) iter.Seq2[LogLine, error]
	// EnsureNetwork makes a bridge network unless one of that name exists, and
	// returns it as it is: one that somebody else made may differ from config.
	// One that carries the labels, differs, and has no containers is made anew.
	EnsureNetwork(ctx context.Context, config NetworkConfig) (Network, error)
	// Networks returns those that carry all of labels.
	Networks(ctx context.Context, labels map[string]string) ([]Network, error)
	// Info describes the engine.
	Info(ctx context.Context) (EngineInfo, error)
}

// Limits bound what one container uses.
type Limits struct {
	Memory Bytes   // swap is not added to it
	CPU    float64 // cores
	Pids   int64
}

// ContainerConfig says what to run. The adapter adds the hardening that all
// containers share: read-only root, no capabilities, no-new-privileges, an
// unprivileged user, rotated logs, no restart.
type ContainerConfig struct {
	Name    string // unique on the engine
	Image   string
	Command []string          // replaces the image's command; nil = the image's
	Env     map[string]string // beside the image's
	Labels  map[string]string
	Limits  Limits
	Tmpfs   []Tmpfs
	// Secrets are files at SecretsPath, on a Tmpfs of their own, that only the
	// container's user may read. They are there before the command runs, and are
	// nowhere else: not in what the engine tells of the container, nor on disk.
	Secrets map[string][]byte
	Network string
	Runtime string // one of the engine's (EngineInfo.Runtimes); empty = its default
	// Sealed keeps names from being looked up outside the network: queries, too,
	// carry data.
	Sealed bool
	// Marked gives it a hardware address with MACPrefix. Others have one that
	// follows from their IP address, so that whoever knew an address's last owner
	// finds its next.
	Marked bool
}

// Tmpfs is a memory file system inside a container.
type Tmpfs struct {
	Path string
	Size Bytes
	Exec bool // files on it may be executed
}

// ContainerState is what a container does.
type ContainerState string

// The states of a container.
const (
	ContainerRunning ContainerState = "running"
	ContainerFrozen  ContainerState = "frozen"
	ContainerExited  ContainerState = "exited" // ended, created only, or being removed
)

// Container is a container as the engine reports it.
type Container struct {
	ID        string
	Name      string
	Image     string // as it was asked for: a name, or an id, as steps of builds have it; List gives the id once the name is another's
	ImageID   string
	Labels    map[string]string
	State     ContainerState
	Addr      string // IP address, no port; empty unless running or frozen
	PID       int    // of the first process, on the engine's machine; 0 unless running or frozen; may be 0 from List
	ExitCode  int
	OOMKilled bool
	CreatedAt time.Time
}

// EventKind says what happened to a container.
type EventKind string

// The kinds of events.
const (
	EventDied   EventKind = "died"   // the container ended, for whatever reason
	EventOOM    EventKind = "oom"    // the kernel killed a process of it for memory
	EventResync EventKind = "resync" // events may have been missed: list again
)

// Event is a change of a container.
type Event struct {
	Kind     EventKind
	ID       string
	Labels   map[string]string
	ExitCode int
	Time     time.Time
}

// LogOptions select log lines.
type LogOptions struct {
	Follow bool
	Tail   int // last lines to begin with; negative = all
	Since  time.Time
}

// LogLine is one line that a container wrote.
type LogLine struct {
	Time   time.Time
	Stderr bool
	Text   string // without the line end; at most 64 KiB
}

// EngineInfo describes an engine.
type EngineInfo struct {
	Version       string
	APIVersion    string
	StorageDriver string
	CgroupVersion string // "1" or "2"
	CgroupDriver  string
	Runtimes      []string // that containers may name
	Runtime       string   // of containers that name none
	CPUs          int
	Memory        Bytes
	RootDir       string // the engine's data folder, on its machine
	Rootless      bool
	Remapped      bool   // ids in containers are other ids on the machine (a user namespace)
	Seccomp       string // profile that containers run with; empty = none, every system call is let through
	SwapCounted   bool   // the kernel counts swap, so that a limit of memory is one of both
}

// CheckRuntime refuses a runtime that the engine does not have.
func (i EngineInfo) CheckRuntime(name string) error {
	if name == "" || slices.Contains(i.Runtimes, name) {
		return nil
	}
	return Errorf(ErrInvalid, "runtime-unknown", "the engine has no runtime %q", name).
		WithHint("it has %s; add others to its configuration (daemon.json, runtimes), or leave runtime out", strings.Join(i.Runtimes, ", "))
}

// Image is an image as the engine reports it.
type Image struct {
	ID        string
	Tags      []string
	Labels    map[string]string
	Size      Bytes
	CreatedAt time.Time
	User      string
	Ports     []int // exposed TCP ports
}

// Images keeps images. Errors are classed as Engine's are.
type Images interface {
	// Image returns one image by reference or id; ErrNotFound when absent.
	Image(ctx context.Context, ref string) (Image, error)
	// Images returns those that carry all of labels.
	Images(ctx context.Context, labels map[string]string) ([]Image, error)
	// Pull fetches an image; progress may be nil.
	Pull(ctx context.Context, ref string, progress func(BuildEvent)) error
	// Tag gives an image another reference.
	Tag(ctx context.Context, ref, as string) error
	// RemoveImage removes a reference, and the image with its last one. Absent is
	// no error; in use by a container is ErrConflict.
	RemoveImage(ctx context.Context, ref string) error
}

// Builder turns a build context into an image.
//
// A build ends when its context does; nothing of it goes on afterwards. A
// failed step is ErrFunction with the last lines in Error.Output; an engine
// that does not answer is ErrUnavailable.
type Builder interface {
	Build(ctx context.Context, request BuildRequest) (Image, error)
}

// BuildRequest is one build.
type BuildRequest struct {
	Tags       []string
	Context    io.Reader // tar; read to its end or until the build fails, closed by the caller
	Dockerfile string    // path inside the context
	Target     string    // stage; empty = the last
	Args       map[string]string
	Labels     map[string]string
	// Network is "none", or "" for the builder's default.
	Network string
	// Limits bound each step, as far as the builder can: the classic one does,
	// BuildKit does not. CPU is not looked at; 0 is no limit.
	Limits Limits
	// Output is how much the steps may print; a build that prints more is
	// ErrFunction, code "build-output-limit". 0 is no limit.
	Output Bytes
	// Progress is called from one goroutine at a time; may be nil.
	Progress func(BuildEvent)
}

// BuildEventKind says what a BuildEvent carries.
type BuildEventKind string

// The kinds of build events.
const (
	BuildStep BuildEventKind = "step" // a step changed its state
	BuildLog  BuildEventKind = "log"  // a line of output of a step
)

// StepState is a state of a build step: started -> done | cached | failed.
type StepState string

// The states of a step.
const (
	StepStarted StepState = "started"
	StepDone    StepState = "done"
	StepCached  StepState = "cached"
	StepFailed  StepState = "failed"
)

// BuildEvent is progress of a deploy: of its build and of the steps around it.
type BuildEvent struct {
	Kind  BuildEventKind `json:"kind"`
	Time  time.Time      `json:"time"`
	Step  string         `json:"step"`            // id, unique within the deploy
	Name  string         `json:"name,omitempty"`  // "[build 3/7] RUN pip install …"
	State StepState      `json:"state,omitempty"` // of a step event
	Line  string         `json:"line,omitempty"`  // of a log event
	// Duration is how long the step took, once it has ended.
	Duration Duration `json:"duration,omitzero"`
}

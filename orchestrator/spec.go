package orchestrator

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Spec is the settings of a function: what function.yaml says, completed with
// defaults. Its JSON form is the wire form. A Spec is a value; whoever changes
// its maps or slices owns a copy (Clone).
type Spec struct {
	Name     string            `json:"name" yaml:"name"`
	Template string            `json:"template" yaml:"template"`
	Handler  string            `json:"handler,omitempty" yaml:"handler,omitempty"` // file or symbol; the template's own when empty
	Env      map[string]string `json:"env,omitempty" yaml:"env,omitempty"`
	Secrets  []string          `json:"secrets,omitempty" yaml:"secrets,omitempty"`

	Access Access `json:"access,omitempty" yaml:"access"`      // who may invoke it
	Rate   Rate   `json:"rate,omitzero" yaml:"rate,omitempty"` // of its invocations
	CORS   CORS   `json:"cors,omitzero" yaml:"cors,omitempty"` // pages of other sites that may invoke it

	Resources   Resources `json:"resources" yaml:"resources"`
	Timeout     Duration  `json:"timeout" yaml:"timeout"`         // of one invocation, waiting included
	Concurrency int       `json:"concurrency" yaml:"concurrency"` // slots per instance
	MaxRequest  Bytes     `json:"max_request" yaml:"max_request"` // largest request body; 0 = no limit
	Scale       Scale     `json:"scale" yaml:"scale"`
	// Network is whom its instances may talk to.
	Network NetworkMode `json:"network,omitempty" yaml:"network,omitempty"`
	// Runtime is what runs its containers, by the name that the engine has for it
	// (runc, runsc, kata); empty = the gateway's default.
	Runtime string `json:"runtime,omitempty" yaml:"runtime,omitempty"`
	Async   Async  `json:"async" yaml:"async"`
	// Triggers are what invokes it, besides callers.
	Triggers []Trigger `json:"triggers,omitempty" yaml:"triggers,omitempty"`
	Build    Build     `json:"build,omitzero" yaml:"build,omitempty"`
}

// Resources are the limits of one instance.
type Resources struct {
	Memory Bytes   `json:"memory" yaml:"memory"`
	CPU    float64 `json:"cpu" yaml:"cpu"` // cores
	Tmp    Bytes   `json:"tmp" yaml:"tmp"` // size of the tmpfs at /tmp
}

// Scale bounds and times the instances of a function.
type Scale struct {
	Min         int      `json:"min" yaml:"min"`                   // instances kept warm
	Max         int      `json:"max" yaml:"max"`                   // instances at most
	FreezeAfter Duration `json:"freeze_after" yaml:"freeze_after"` // idle time before an instance is frozen; 0 = never
	KeepAlive   Duration `json:"keep_alive" yaml:"keep_alive"`     // idle time before an instance is removed
}

// Async says how asynchronous calls of a function are tried, and where their
// results go.
type Async struct {
	Attempts   int      `json:"attempts" yaml:"attempts"`       // at most
	Backoff    Duration `json:"backoff" yaml:"backoff"`         // pause after the first failure; each further one doubles it
	BackoffMax Duration `json:"backoff_max" yaml:"backoff_max"` // longest pause
	MaxAge     Duration `json:"max_age" yaml:"max_age"`         // no attempt begins later than this after the call
	// RetryOn are the statuses that are tried again: "503", "5xx"; empty = 408,
	// 425 and 5xx, "none" = none.
	RetryOn   []string `json:"retry_on,omitempty" yaml:"retry_on,omitempty"`
	OnSuccess string   `json:"on_success,omitempty" yaml:"on_success,omitempty"` // destination: "function:NAME", "nats:SUBJECT" or a URL
	OnFailure string   `json:"on_failure,omitempty" yaml:"on_failure,omitempty"` // the same for calls that failed for good
}

// Completed returns the settings with defaults for what says nothing: those of
// functions that were deployed before there were asynchronous calls.
func (a Async) Completed() Async {
	d := DefaultSpec().Async
	if a.Attempts == 0 {
		a.Attempts, a.Backoff, a.BackoffMax, a.MaxAge = d.Attempts, d.Backoff, d.BackoffMax, d.MaxAge
	}
	return a
}

// Build are the options that become part of the image.
type Build struct {
	Packages []string          `json:"packages,omitempty" yaml:"packages,omitempty"` // Debian packages
	Args     map[string]string `json:"args,omitempty" yaml:"args,omitempty"`
	Test     bool              `json:"test,omitempty" yaml:"test,omitempty"` // run the function's own tests while building
	// Network is what steps of the build reach; empty = BuildNetworkAuto.
	Network BuildNetwork `json:"network,omitempty" yaml:"network,omitempty"`
}

// BuildNetwork says what the steps of a build reach.
type BuildNetwork string

// What the steps of a build may reach.
const (
	BuildNetworkAuto     BuildNetwork = "auto"     // the outside if the template has to fetch something for these files, else nothing
	BuildNetworkNone     BuildNetwork = "none"     // nothing
	BuildNetworkInternet BuildNetwork = "internet" // the outside
)

// Defaults of a Spec, and their reasons.
const (
	DefaultMemory      = 128 * MiB        // a Python or Node runtime with room for a small handler
	DefaultCPU         = 1.0              // one core: bursts are fast, one function cannot take a machine
	DefaultTmp         = 64 * MiB         // counted against memory by the kernel
	DefaultTimeout     = 60 * time.Second // what browsers and load balancers commonly wait
	DefaultConcurrency = 16
	DefaultMaxRequest  = 10 * MiB
	DefaultMax         = 10
	DefaultFreezeAfter = 5 * time.Second // 50 ms, as Fn has it, halves throughput
	DefaultKeepAlive   = 10 * time.Minute
	DefaultAttempts    = 5
	DefaultBackoff     = time.Second     // with DefaultAttempts, calls outlast a restart of what they need
	DefaultBackoffMax  = 5 * time.Minute // soon enough to be noticed once the cause is gone
	DefaultMaxAge      = 6 * time.Hour
)

// DefaultSpec returns the settings a function has when nothing says otherwise.
func DefaultSpec() Spec {
	return Spec{
		Access:      AccessPublic,
		Resources:   Resources{Memory: DefaultMemory, CPU: DefaultCPU, Tmp: DefaultTmp},
		Timeout:     Duration(DefaultTimeout),
		Concurrency: DefaultConcurrency,
		MaxRequest:  DefaultMaxRequest,
		Network:     NetworkInternet,
		Scale: Scale{
			Max:         DefaultMax,
			FreezeAfter: Duration(DefaultFreezeAfter),
			KeepAlive:   Duration(DefaultKeepAlive),
		},
		Async: Async{
			Attempts:   DefaultAttempts,
			Backoff:    Duration(DefaultBackoff),
			BackoffMax: Duration(DefaultBackoffMax),
			MaxAge:     Duration(DefaultMaxAge),
		},
	}
}

// Bytes is a size in bytes. Its text form is a number with a binary unit, such
// as "128MiB"; read are also "128M" and "128Mi" (both binary) and plain bytes.
type Bytes int64

// Binary units.
const (
	KiB Bytes = 1 << 10
	MiB Bytes = 1 << 20
	GiB Bytes = 1 << 30
)

// ParseBytes reads the text form. The error is ErrInvalid.
func ParseBytes(s string) (Bytes, error) {
	text := strings.TrimSpace(s)
	unit := strings.TrimLeft(text, "0123456789.")
	digits := strings.TrimSuffix(text, unit)
	unit = strings.TrimSpace(unit)
	var scale Bytes
	switch strings.ToLower(unit) {
	case "", "b":
		scale = 1
	case "k", "kb", "ki", "kib":
		scale = KiB
	case "m", "mb", "mi", "mib":
		scale = MiB
	case "g", "gb", "gi", "gib":
		scale = GiB
	}
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || scale == 0 || n < 0 || n*float64(scale) > math.MaxInt64/2 {
		return 0, Errorf(ErrInvalid, "size-invalid", "%q is not a size", s).WithHint("write a number with a unit, for example 128MiB")
	}
	return Bytes(n * float64(scale)), nil
}

// String returns the text form with the largest unit that divides b.
func (b Bytes) String() string {
	switch {
	case b != 0 && b%GiB == 0:
		return fmt.Sprintf("%dGiB", b/GiB)
	case b != 0 && b%MiB == 0:
		return fmt.Sprintf("%dMiB", b/MiB)
	case b != 0 && b%KiB == 0:
		return fmt.Sprintf("%dKiB", b/KiB)
	}
	return strconv.FormatInt(int64(b), 10)
}

// MarshalText returns the text form.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads the text form.
func (b *Bytes) UnmarshalText(text []byte) (err error) {
	*b, err = ParseBytes(string(text))
	return err
}

// UnmarshalJSON reads the text form or a number of bytes.
func (b *Bytes) UnmarshalJSON(data []byte) error { return unmarshalScalar(data, b.UnmarshalText) }

// Duration is a time span whose text form is Go's, such as "1m30s".
type Duration time.Duration

// Seconds returns the span in seconds.
func (d Duration) Seconds() float64 { return time.Duration(d).Seconds() }

// String returns the text form.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText returns the text form.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads the text form; "0" needs no unit, and nothing is negative.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return Errorf(ErrInvalid, "duration-invalid", "%q is not a duration", text).WithHint("write a number with a unit, for example 30s, 5m or 250ms")
	}
	*d = Duration(v)
	return nil
}

// UnmarshalJSON reads the text form.
func (d *Duration) UnmarshalJSON(data []byte) error { return unmarshalScalar(data, d.UnmarshalText) }

func unmarshalScalar(data []byte, read func([]byte) error) error {
	if len(data) > 0 && data[0] == '"' {
		var s string
		if err := json.Unmarshal(data, &s); err != nil {
			return err
		}
		data = []byte(s)
	}
	return read(data)
}

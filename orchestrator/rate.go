package orchestrator

import (
	"math"
)

// Rate bounds how often something may happen: PerSecond on average, Burst at
// once. The zero Rate is no bound.
type Rate struct {
	PerSecond float64 `json:"per_second" yaml:"per_second"`
	Burst     int     `json:"burst,omitempty" yaml:"burst,omitempty"` // 0 = what a second allows, at least 1
}

// Limited says whether there is a bound.
func (r Rate) Limited() bool { return r.PerSecond > 0 }

// AtOnce returns the burst in effect.
func (r Rate) AtOnce() int {
	if r.Burst > 0 {
		return r.Burst
	}
	return max(1, int(math.Ceil(r.PerSecond)))
}

// Bounds of a Rate: the least is one an hour, the most is beyond what one
// gateway answers.
const (
	MinRate  = 1.0 / 3600
	MaxRate  = 1e6
	MaxBurst = 1_000_000
)

// Validate checks a rate. The error is ErrInvalid.
func (r Rate) Validate() error {
	switch {
	case r.PerSecond != 0 && !(r.PerSecond >= MinRate && r.PerSecond <= MaxRate): // a NaN is neither
		return Errorf(ErrInvalid, "rate-invalid", "%v per second is out of range", r.PerSecond).
			WithHint("give a number from one an hour (0.00028) to %d; 0 = no bound", int(MaxRate))
	case r.Burst < 0 || r.Burst > MaxBurst:
		return Errorf(ErrInvalid, "rate-invalid", "a burst of %d is out of range", r.Burst).WithHint("give a number from 1 to %d", MaxBurst)
	case r.Burst > 0 && r.PerSecond == 0:
		return Errorf(ErrInvalid, "rate-invalid", "there is a burst and no rate").WithHint("say how many per second, too")
	}
	return nil
}

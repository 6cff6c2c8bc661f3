package proxy

import (
	"errors"

	"github.com/kilnfaas/kiln/gateway/auth"
	"github.com/kilnfaas/kiln/orchestrator"
)

// Gate decides who may invoke a function that not everybody may, or not as often
// as they like (orchestrator.Spec.Guarded); auth.Guard is the one in use.
type Gate interface {
	// Admit returns why an invocation is refused, or nil. It must not wait, nor
	// keep the authorization, which is the value of the header or empty.
	Admit(spec *orchestrator.Spec, authorization string) error
}

var _ Gate = (*auth.Guard)(nil)

// errNoGate is a data plane that was wired without a gate: it admits nobody to
// what is guarded.
var errNoGate = errors.New("the data plane has no gate")

// admit asks the gate if there is anything to ask.
func (h *Handler) admit(spec *orchestrator.Spec, authorization string) error {
	if h.Gate == nil {
		return errNoGate
	}
	return h.Gate.Admit(spec, authorization)
}

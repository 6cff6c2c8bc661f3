package main

import (
	"context"
	"errors"
	"testing"

	"github.com/kilnfaas/kiln/orchestrator"
)

// standIn is an engine with one instance of an owner and its networks.
type standIn struct{ networks []orchestrator.Network }

func (s standIn) List(_ context.Context, labels map[string]string) ([]orchestrator.Container, error) {
	if labels[orchestrator.LabelKind] != orchestrator.KindInstance {
		return nil, nil
	}
	return []orchestrator.Container{{Labels: map[string]string{orchestrator.LabelOwner: "one"}}}, nil
}

func (s standIn) Networks(context.Context, map[string]string) ([]orchestrator.Network, error) {
	return s.networks, nil
}

func TestDoctorSeesMissingWalls(t *testing.T) {
	owned := map[string]string{orchestrator.LabelOwner: "one"}
	good := []orchestrator.Network{{Name: "kiln", Labels: owned}, {Name: "kiln-services", Labels: owned, Shared: true}, {Name: "bridge", Shared: true}}
	forbidden := orchestrator.Errorf(orchestrator.ErrUnavailable, "firewall-forbidden", "not root")
	for name, tt := range map[string]struct {
		networks []orchestrator.Network
		owners   []string
		err      error
		want     verdict
	}{
		"all well":         {good, []string{"two", "one"}, nil, verdictGood},
		"rules missing":    {good, []string{"two"}, nil, verdictDoubt},
		"rules not seen":   {good, nil, forbidden, verdictSkipped},
		"netlink fails":    {good, nil, errors.New("no netlink"), verdictBad},
		"a shared network": {[]orchestrator.Network{{Name: "kiln", Labels: owned, Shared: true}}, []string{"one"}, nil, verdictDoubt},
	} {
		got := checkWalls(t.Context(), standIn{tt.networks}, func(context.Context) ([]string, error) { return tt.owners, tt.err })
		if got.Verdict != tt.want {
			t.Errorf("%s: got %+v, want %s", name, got, tt.want)
		}
	}
}

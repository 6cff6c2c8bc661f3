package cell

import (
	"fmt"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/pool"
)

// codeShare is the part of its memory limit that a function's code may take:
// in a cell it is on a tmpfs, which the kernel counts as memory.
const codeShare = 4

// Wake says how a release is woken from zero, pool.OriginCell or
// pool.OriginImage, and why.
func (l *Launcher) Wake(release orchestrator.Release) (how, reason string) {
	if reason := l.unfit(release); reason != "" {
		return pool.OriginImage, reason
	}
	return pool.OriginCell, "its code is loaded into a waiting " + release.Template.Name + " container"
}

// unfit says why a release cannot be loaded into a cell; empty if it can.
func (l *Launcher) unfit(release orchestrator.Release) string {
	spec, template := release.Spec, release.Template
	switch {
	case l.config.Min <= 0:
		return "cells are off"
	case !template.Cells:
		return fmt.Sprintf("the template %s has no cells", template.Name)
	case len(spec.Build.Packages) > 0:
		return "it has system packages of its own"
	case release.Revision.TemplateDigest != template.Digest:
		return fmt.Sprintf("it was built with another version of the template %s; a new deploy changes that", template.Name)
	case orchestrator.InstanceNetwork(l.config.Network, spec.Network) != l.config.Network:
		return fmt.Sprintf("its network is %s, and cells are on that of internet", spec.Network)
	case spec.Runtime != "":
		return fmt.Sprintf("it names the runtime %s, and cells have the default one", spec.Runtime)
	case spec.Resources.Tmp != orchestrator.DefaultTmp:
		return fmt.Sprintf("its /tmp has %s, and a cell's %s", spec.Resources.Tmp, orchestrator.DefaultTmp)
	}
	size, kept := l.config.Code.Size(release.Revision)
	room := min(codeRoom, spec.Resources.Memory/codeShare)
	switch {
	case !kept:
		return "its code has not been kept; a new deploy changes that"
	case size > room:
		return fmt.Sprintf("its code has %d KiB, and %d KiB can be loaded with its memory limit", size/orchestrator.KiB, room/orchestrator.KiB)
	}
	return ""
}

package build

import (
	"strings"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Bounds of a Dockerfile that a function brings, so that what cannot become an
// image is not built for an hour first.
const (
	// maxInstructions is over all stages; the longest in use have some 150.
	maxInstructions = 500
	// maxLayers is of a stage with those it builds on. An engine stacks 125 layers,
	// of which the base image needs some: Debian's has 1, a language's 5 to 10.
	maxLayers = 100
)

// refuse says why a Dockerfile of a function's own is not built, or nil. What is
// merely wrong is the builder's to say.
func refuse(name string, dockerfile []byte) error {
	list := instructions(dockerfile)
	if len(list) > maxInstructions {
		return orchestrator.Errorf(orchestrator.ErrInvalid, "dockerfile-too-long", "%s has %d instructions, %d are allowed", name, len(list), maxInstructions).
			WithHint("join commands with && or a here-document in fewer RUN instructions")
	}
	layers := map[string]int{} // by stage
	stage := ""
	for _, words := range list {
		if strings.EqualFold(words[0].text, "ONBUILD") && len(words) > 1 {
			words = words[1:]
		}
		switch strings.ToUpper(words[0].text) {
		case "FROM":
			parent, alias := stageOf(words[1:])
			stage = alias
			layers[stage] = layers[parent]
			continue
		case "ADD":
			if remote(words[1:]) {
				return orchestrator.Errorf(orchestrator.ErrInvalid, "dockerfile-add-remote", "%s adds something that is no file of the folder: the engine would fetch it with the machine's own network", name).
					WithHint("fetch it in a RUN instruction, and COPY the folder's files")
			}
		case "RUN", "COPY", "WORKDIR":
		default:
			continue
		}
		if layers[stage]++; layers[stage] > maxLayers {
			return orchestrator.Errorf(orchestrator.ErrInvalid, "dockerfile-too-deep", "%s makes more than %d layers in one stage", name, maxLayers).
				WithHint("join commands with && or a here-document in fewer RUN instructions, and copy folders instead of files")
		}
	}
	return nil
}

// stageOf returns what a FROM builds on and how the stage is called, in lower
// case.
func stageOf(words []word) (parent, alias string) {
	for len(words) > 0 && strings.HasPrefix(words[0].text, "--") {
		words = words[1:]
	}
	if len(words) > 0 {
		parent = strings.ToLower(words[0].text)
	}
	if len(words) > 2 && strings.EqualFold(words[1].text, "AS") {
		alias = strings.ToLower(words[2].text)
	}
	return parent, alias
}

// remote says whether an ADD may fetch something: from an URL, a repository, or
// what a variable holds. Words are joined, for a line may end within one. The
// last of them belongs to the destination, unless the list is one of JSON.
func remote(words []word) bool {
	for len(words) > 0 && strings.HasPrefix(words[0].text, "--") {
		words = words[1:]
	}
	var sources strings.Builder
	for i, w := range words {
		if i < len(words)-1 || strings.HasPrefix(words[0].text, "[") {
			sources.WriteString(w.text)
		}
	}
	text := strings.ToLower(sources.String())
	return strings.ContainsAny(text, `:@$\\`) || strings.Contains(text, "github.com/")
}

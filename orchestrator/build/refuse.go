package build

import (
	"regexp"
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
	if addsRemote(dockerfile) {
		return orchestrator.Errorf(orchestrator.ErrInvalid, "dockerfile-add-remote", "%s adds something that is no file of the folder: the engine would fetch it with the machine's own network", name).
			WithHint("fetch it in a RUN instruction, and COPY the folder's files; any line that begins with ADD counts, also one of a RUN or a here-document")
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
		case "ADD", "RUN", "COPY", "WORKDIR":
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

// goneOn stands for the end of a line that goes on; blank is what builders skip
// at the beginning of a line.
const (
	goneOn = `\x00`
	blank  = `[\s\v\p{Z}\x{85}\x00]`
)

// continuation is the end of a line that goes on, by either escape, with the
// comments and empty lines after it, which builders skip.
var continuation = regexp.MustCompile("[\\\\`][ \\t\\r]*\\n(?:" + blank + "*(?:#[^\\n]*)?\\n)*")

// addLine is an ADD wherever a line begins, and what follows it.
var addLine = regexp.MustCompile(`(?im)(?:^|` + goneOn + `)` + blank + `*(?:` + spelled("ONBUILD") + blank + `+)?` + spelled("ADD") + `([\t\v\f\r \x00][^\n]*)`)

// spelled matches a word within which lines may end.
func spelled(word string) string { return strings.Join(strings.Split(word, ""), goneOn+"*") }

// addsRemote says whether an ADD may fetch something. Builders differ in where a
// line goes on and in which text belongs to a here-document (old ones have none),
// so every line counts as one that may begin an instruction.
func addsRemote(dockerfile []byte) bool {
	for _, match := range addLine.FindAllSubmatch(continuation.ReplaceAll(dockerfile, []byte{0}), -1) {
		if remote(strings.Fields(strings.ReplaceAll(string(match[1]), "\x00", ""))) {
			return true
		}
	}
	return false
}

// remote says whether the words of an ADD may name something to fetch: a URL, a
// repository, or what a variable holds. The last of them is the destination,
// unless the list is one of JSON.
func remote(words []string) bool {
	for len(words) > 0 && strings.HasPrefix(words[0], "--") {
		words = words[1:]
	}
	if len(words) > 0 && !strings.HasPrefix(words[0], "[") {
		words = words[:len(words)-1]
	}
	text := strings.ToLower(strings.Join(words, ""))
	return strings.ContainsAny(text, `:@$\`) || strings.Contains(text, "github.com/")
}

package docker

import (
	"regexp"
	"slices"
	"strings"

	"github.com/kilnfaas/kiln/orchestrator"
)

// maxBuildReason bounds the engine's reason in an error, which repeats a whole
// RUN script.
const maxBuildReason = 600

// maxStepName bounds the name of a step in an error.
const maxStepName = 200

// The engine tells why a build failed in words only. These are of engines 20.10
// to 29, of both builders.
var (
	networkWords    = []string{"dial tcp", "no such host", "i/o timeout", "connection refused", "TLS handshake", "network is unreachable", "failed to do request", "x509:", "Client.Timeout"}
	absentWords     = []string{"manifest unknown", "manifest for ", "pull access denied", "repository does not exist", "does not exist or may require", ": not found", "insufficient_scope"}
	crowdedWords    = []string{"annot fork", "fork: retry", "Resource temporarily unavailable"}
	dockerfileWords = []string{"dockerfile parse error", "unknown instruction", "failed to read dockerfile", "Cannot locate specified Dockerfile", "failed to create LLB definition", "file with no instructions", "no build stage in current context", "target stage", "invalid reference format"}
)

// exitCode is how the builders report that a command of a step failed.
var exitCode = regexp.MustCompile(`(?:exit code|non-zero code): (\d+)$`)

// killedReason is the plain reason of a step that got SIGKILL.
const killedReason = "exit code 137"

// wrappings are what the engine puts before the reason, and which tells a reader
// nothing.
var wrappings = []string{
	"Error response from daemon: ", "failed to solve with frontend dockerfile.v0: ", "failed to solve: ",
	"failed to create LLB definition: ", "rpc error: code = Unknown desc = ",
}

// plainReason shortens an engine's reason to what its reader needs.
func plainReason(reason string) string {
	for _, wrapping := range wrappings {
		reason = strings.TrimPrefix(reason, wrapping)
	}
	if m := exitCode.FindStringSubmatch(reason); m != nil {
		return "exit code " + m[1] // the rest repeats the command
	}
	return clip(reason, maxBuildReason)
}

func clip(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + " …"
}

func containsAny(text string, words []string) bool {
	return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(text, word) })
}

func isDockerfileError(text string) bool { return containsAny(text, dockerfileWords) }

// buildError gives the reason of a failed build a class and a code: the
// function's fault (ErrFunction) unless something outside was missing.
func buildError(reason string, log *buildLog) *orchestrator.Error {
	step, name := log.broken, ""
	if step != nil {
		name = clip(step.name, maxStepName)
	}
	full, reason := reason, plainReason(reason)
	fail := func(class error, code, format string, args ...any) *orchestrator.Error {
		err := orchestrator.Errorf(class, code, format, args...)
		err.Output = log.output()
		return err
	}
	// A step that runs commands may print any of the words above.
	fromStep := step == nil || strings.Contains(name, "load metadata for") || strings.Contains(name, "FROM ")
	switch {
	case strings.Contains(reason, "no space left on device"):
		return fail(orchestrator.ErrUnavailable, "engine-disk-full", "the build failed: %s", reason).
			WithHint("free space on the engine's disk, see docker system df")
	case strings.Contains(reason, "requires BuildKit"):
		return fail(orchestrator.ErrFunction, "buildkit-required", "the Dockerfile needs BuildKit: %s", reason).
			WithHint("set the gateway's builder to buildkit, or leave out RUN --mount")
	case fromStep && containsAny(reason, networkWords):
		return fail(orchestrator.ErrUnavailable, "base-missing", "a base image is not on the engine and its registry cannot be reached: %s", reason).
			WithHint("connect the engine to the registry, or load the image with docker load")
	case fromStep && containsAny(reason, absentWords) && !strings.Contains(reason, "failed to read dockerfile"):
		return fail(orchestrator.ErrFunction, "base-missing", "a base image does not exist: %s", reason).
			WithHint("check the names in the Dockerfile's FROM lines")
	case step == nil && isDockerfileError(full):
		return fail(orchestrator.ErrFunction, "dockerfile-invalid", "the Dockerfile is invalid: %s", reason)
	case reason == killedReason:
		return fail(orchestrator.ErrFunction, "build-failed", "the build failed at %s: it was killed", name).
			WithHint("a step that needs more memory than build_memory in the gateway's configuration is killed, and so is one that keeps starting processes beyond build_pids")
	case step != nil && slices.ContainsFunc(step.last, func(line string) bool { return containsAny(line, crowdedWords) }):
		return fail(orchestrator.ErrFunction, "build-failed", "the build failed at %s: %s", name, reason).
			WithHint("it could not start all the processes that it wanted to: build_pids in the gateway's configuration allows more")
	case step != nil:
		return fail(orchestrator.ErrFunction, "build-failed", "the build failed at %s: %s", name, reason)
	}
	return fail(orchestrator.ErrFunction, "build-failed", "the build failed: %s", reason)
}

package manifest

import (
	"net/url"
	"regexp"
	"strings"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// maxDestination bounds a destination: the longest URL that all software takes.
	maxDestination = 2000

	functionScheme = "function:"
	natsScheme     = "nats:"
)

// statusSyntax is what retry_on takes: a status that tells of an error, or all
// of a class.
var statusSyntax = regexp.MustCompile(`^([45][0-9][0-9]|[45]xx|none)$`)

func checkRetryOn(all []string) error {
	return checkEach(all, maxRetryOn, "retry-on", statusSyntax, `write statuses in quotes, for example ["429", "5xx"], or ["none"]`)
}

// subjectSyntax is a NATS subject without wildcards that is not the server's own.
var subjectSyntax = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)

// checkDestination takes "function:NAME", "nats:SUBJECT" and URLs.
func checkDestination(destination string) error {
	const hint = "write function:NAME, nats:SUBJECT or a URL"
	refused := invalid("destination-invalid", "%q is no destination", shorten(destination)).WithHint(hint)
	switch {
	case destination == "":
		return nil
	case len(destination) > maxDestination:
		return invalid("destination-invalid", "the destination has %d characters, %d are allowed", len(destination), maxDestination).WithHint(hint)
	case strings.HasPrefix(destination, functionScheme):
		return orchestrator.ValidateName(strings.TrimPrefix(destination, functionScheme))
	case strings.HasPrefix(destination, natsScheme):
		subject := strings.TrimPrefix(destination, natsScheme)
		if !subjectSyntax.MatchString(subject) || strings.HasPrefix(strings.ToLower(subject), "kiln.") {
			return refused
		}
		return nil
	}
	u, err := url.Parse(destination)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		return refused
	}
	return nil
}

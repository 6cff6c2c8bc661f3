package manifest

import (
	"regexp"
	"slices"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	maxOrigins   = 64
	maxMethods   = 16
	maxFields    = 64
	maxPreflight = 24 * 60 * 60 * orchestrator.Duration(1e9) // a day; browsers keep an answer for two hours at most
)

func checkAccess(access string) error {
	switch orchestrator.Access(access) {
	case orchestrator.AccessPublic, orchestrator.AccessToken, orchestrator.AccessInternal, "": // empty: of before there was a choice
		return nil
	}
	return invalid("access-invalid", "%q is no kind of access", shorten(access)).WithHint("write public, token or internal")
}

func checkPerSecond(v float64) error { return orchestrator.Rate{PerSecond: v}.Validate() }

// originSyntax is that of the fetch standard's serialised origin, and "*".
var originSyntax = regexp.MustCompile(`^(\*|https?://([a-z0-9-]+(\.[a-z0-9-]+)*|\[[0-9a-f:.]+\])(:[0-9]{1,5})?)$`)

func checkOrigins(all []string) error {
	if len(all) > 1 && slices.Contains(all, "*") {
		return invalid("cors-invalid", `"*" stands for every origin, and has to stand alone`).WithHint("leave the others out, or it")
	}
	return checkEach(all, maxOrigins, "origin", originSyntax, "write scheme, host and port in lower case, without a path, for example https://app.example")
}

// tokenSyntax is that of RFC 9110, section 5.6.2.
var tokenSyntax = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$")

func checkMethods(all []string) error {
	return checkEach(all, maxMethods, "method", regexp.MustCompile("^[A-Z]{1,32}$"), "write methods in capitals, for example PUT")
}

func checkFields(all []string) error {
	return checkEach(all, maxFields, "header", tokenSyntax, "write the name alone, for example X-Request-Id")
}

// checkCORS checks what the keys say together.
func checkCORS(c orchestrator.CORS) error {
	switch {
	case !c.On() && (len(c.Methods) > 0 || len(c.Headers) > 0 || len(c.Expose) > 0 || c.Credentials || c.MaxAge != 0):
		return invalid("cors-invalid", "cors: there are settings and no origins").WithHint("name the origins that they are for")
	case c.Credentials && c.Allows("*"):
		return invalid("cors-invalid", "cors: credentials are not for every origin").WithHint("name the origins, or leave credentials out")
	}
	return nil
}

package manifest

import (
	"cmp"
	"errors"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Ranges of the settings, and their reasons.
const (
	minMemory      = 6 * orchestrator.MiB       // the engine's own minimum
	maxMemory      = 1 << 10 * orchestrator.GiB // beyond is a slip of the unit; the machine's own limit is the capacity's affair
	minTmp         = 64 * orchestrator.KiB      // 0 would be no limit to the engine
	minCPU         = 0.01                       // the engine's own minimum
	maxCPU         = 512.0
	minTimeout     = orchestrator.Duration(time.Millisecond)
	maxTimeout     = orchestrator.Duration(24 * time.Hour)
	maxConcurrency = 10_000
	maxRequest     = 1 << 10 * orchestrator.GiB
	maxInstances   = 1_000
	minKeepAlive   = orchestrator.Duration(time.Millisecond)
	maxIdle        = orchestrator.Duration(30 * 24 * time.Hour)
	maxAttempts    = 100
	maxBackoff     = orchestrator.Duration(24 * time.Hour)
	minMaxAge      = orchestrator.Duration(time.Second)
	maxRetryOn     = 32
	maxHandler     = 1024
	// maxEnv and maxEnvBytes keep an environment far below what the kernel
	// takes (128 KiB for one variable, 2 MiB for all).
	maxEnv      = 256
	maxEnvBytes = 48 << 10
	maxPackages = 128
)

// Validate checks a complete spec, each value and all together, for a template.
// The error is ErrInvalid.
func Validate(spec orchestrator.Spec, template orchestrator.Template) error {
	err := each(keys, "", func(path string, k key) error {
		err := k.check(spec)
		if classed, ok := errors.AsType[*orchestrator.Error](err); ok {
			copied := *classed
			copied.Detail = path + ": " + copied.Detail
			return &copied
		}
		return err
	})
	if err != nil {
		return err
	}
	if spec.Template != template.Name {
		return invalid("template-mismatch", "the function is of the template %q, not %q", spec.Template, template.Name).WithHint("deploy it again")
	}
	if err := spec.Rate.Validate(); err != nil {
		return err
	}
	if err := checkCORS(spec.CORS); err != nil {
		return err
	}
	if spec.Scale.Min > spec.Scale.Max {
		return invalid("scale-invalid", "scale.min is %d, more than scale.max, which is %d", spec.Scale.Min, spec.Scale.Max).
			WithHint("raise scale.max or lower scale.min")
	}
	for _, base := range template.Bases {
		if _, ok := spec.Build.Args[base.Arg]; ok {
			return invalid("build-arg-reserved", "build.args: %s is the template's own", base.Arg).WithHint("leave it out")
		}
	}
	return nil
}

func invalid(code, format string, args ...any) *orchestrator.Error {
	return orchestrator.Errorf(orchestrator.ErrInvalid, code, format, args...)
}

// between checks a size.
func between(code string, least, most orchestrator.Bytes) func(orchestrator.Bytes) error {
	return func(v orchestrator.Bytes) error { return inRange(code, v, least, most) }
}

// within checks a duration.
func within(code string, least, most orchestrator.Duration) func(orchestrator.Duration) error {
	return func(v orchestrator.Duration) error { return inRange(code, v, least, most) }
}

// count checks a whole number.
func count(code string, least, most int) func(int) error {
	return func(v int) error { return inRange(code, v, least, most) }
}

func checkCPU(v float64) error { return inRange("cpu-invalid", v, minCPU, maxCPU) }

func inRange[T cmp.Ordered](code string, v, least, most T) error {
	if v >= least && v <= most { // false for a NaN
		return nil
	}
	return invalid(code, "%v is out of range", v).WithHint("give %v to %v", least, most)
}

func checkName(name string) error { return orchestrator.ValidateName(name) }

func checkTemplate(name string) error {
	if name == "" {
		return invalid("template-missing", "the function has no template").WithHint("name one with --template or in function.yaml; kiln templates lists them")
	}
	if err := orchestrator.ValidateName(name); err != nil {
		return invalid("template-invalid", "%q is not the name of a template", shorten(name)).WithHint("kiln templates lists them")
	}
	return nil
}

// checkNetwork takes the empty mode: it is in records of before there was a choice.
func checkNetwork(mode string) error {
	if mode == "" || slices.Contains(orchestrator.NetworkModes, orchestrator.NetworkMode(mode)) {
		return nil
	}
	return invalid("network-invalid", "there is no network %q", shorten(mode)).WithHint("write internet, services or none")
}

func checkBuildNetwork(mode string) error {
	switch orchestrator.BuildNetwork(mode) {
	case orchestrator.BuildNetworkAuto, orchestrator.BuildNetworkNone, orchestrator.BuildNetworkInternet, "":
		return nil
	}
	return invalid("build-network-invalid", "there is no network %q for builds", shorten(mode)).WithHint("write auto, none or internet")
}

// runtimeSyntax is what engines take for the name of a runtime.
var runtimeSyntax = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// checkRuntime takes any name: which there are, the engine knows.
func checkRuntime(name string) error {
	if name == "" || runtimeSyntax.MatchString(name) {
		return nil
	}
	return invalid("runtime-invalid", "%q cannot be the name of a runtime", shorten(name)).WithHint("write a name such as runc or runsc; kiln doctor shows those that the engine has")
}

var symbolSyntax = regexp.MustCompile(`^[A-Za-z_$][A-Za-z0-9_$.]*$`)

// checkHandler takes "FILE", "FILE:NAME" and ":NAME".
func checkHandler(handler string) error {
	const hint = "write FILE, FILE:NAME or :NAME, where FILE is a path inside the folder, for example src/app.py:main"
	if handler == "" {
		return nil
	}
	file, name, named := strings.Cut(handler, ":")
	switch {
	case len(handler) > maxHandler:
		return invalid("handler-invalid", "the handler has %d characters, %d are allowed", len(handler), maxHandler).WithHint(hint)
	case named && !symbolSyntax.MatchString(name):
		return invalid("handler-invalid", "%q is not a name", name).WithHint(hint)
	case file == "" && named:
		return nil
	case !fs.ValidPath(file) || strings.ContainsFunc(file, unfit):
		return invalid("handler-invalid", "%q is not a path inside the folder", file).WithHint(hint)
	}
	return nil
}

// unfit are characters that the file of a handler may not have: it is also
// used as a pattern.
func unfit(r rune) bool { return strings.ContainsRune(`\*?[`, r) || unicode.IsControl(r) }

var envSyntax = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// reserved says whether a variable is Kiln's own.
func reserved(name string) bool { return name == "PORT" || strings.HasPrefix(name, "KILN_") }

func checkEnv(name, value string) error {
	switch {
	case !envSyntax.MatchString(name):
		return invalid("env-invalid", "%q cannot be the name of a variable", shorten(name)).WithHint("use letters, digits and '_', not beginning with a digit")
	case reserved(name):
		return invalid("env-reserved", "%s is set by Kiln", shorten(name)).WithHint("choose another name; PORT and names that begin with KILN_ are reserved")
	case strings.IndexByte(value, 0) >= 0:
		return invalid("env-invalid", "the value of %s holds a zero byte", shorten(name)).WithHint("encode it, for example with base64")
	}
	return nil
}

func checkArgs(name, value string) error {
	switch {
	case !envSyntax.MatchString(name):
		return invalid("build-arg-invalid", "%q cannot be the name of an argument", shorten(name)).WithHint("use letters, digits and '_', not beginning with a digit")
	case strings.HasPrefix(name, "KILN_"), strings.HasPrefix(name, "BUILDKIT_"): // the latter can replace what reads the Dockerfile
		return invalid("build-arg-reserved", "%s is set by Kiln", shorten(name)).WithHint("choose another name; names that begin with KILN_ or BUILDKIT_ are reserved")
	case strings.IndexByte(value, 0) >= 0:
		return invalid("build-arg-invalid", "the value of %s holds a zero byte", shorten(name)).WithHint("encode it, for example with base64")
	}
	return nil
}

// checkAll checks a whole map with the check for one entry.
func checkAll(what string, all map[string]string, check func(name, value string) error) error {
	if len(all) > maxEnv {
		return invalid(what+"-too-many", "there are %d, %d are allowed", len(all), maxEnv).WithHint("keep settings in a file beside the code")
	}
	bytes := 0
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if err := check(name, all[name]); err != nil {
			return err
		}
		bytes += len(name) + len(all[name])
	}
	if bytes > maxEnvBytes {
		return invalid(what+"-too-large", "they have %d bytes, %d are allowed", bytes, maxEnvBytes).WithHint("keep data in a file beside the code")
	}
	return nil
}

func checkSecrets(all []string) error {
	return checkList(all, orchestrator.MaxFunctionSecrets, "secret", orchestrator.ValidateSecretName)
}

// packageSyntax is that of Debian's policy, section 5.6.7.
var packageSyntax = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{1,127}$`)

func checkPackages(all []string) error {
	return checkEach(all, maxPackages, "package", packageSyntax, "name Debian packages without version, for example libpq5")
}

func checkEach(all []string, most int, what string, syntax *regexp.Regexp, hint string) error {
	return checkList(all, most, what, func(item string) error {
		if syntax.MatchString(item) {
			return nil
		}
		return invalid(what+"-invalid", "%q cannot be the name of a %s", shorten(item), what).WithHint("%s", hint)
	})
}

// checkList checks the items of a list, and that none is there twice.
func checkList(all []string, most int, what string, check func(string) error) error {
	if len(all) > most {
		return invalid(what+"-too-many", "there are more than %d", most).WithHint("leave some out")
	}
	seen := map[string]bool{}
	for _, item := range all {
		if err := check(item); err != nil {
			return err
		}
		if seen[item] {
			return invalid(what+"-twice", "%s is there twice", item).WithHint("remove one of them")
		}
		seen[item] = true
	}
	return nil
}

// shorten keeps messages short whatever was sent.
func shorten(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

package manifest

import (
	"strings"

	"github.com/kilnfaas/kiln/orchestrator"
)

// key is a setting of function.yaml: a section of more keys, or a value.
type key struct {
	name string
	keys []key // of a section

	// read takes a value from a document; path names the key in messages.
	read func(spec *orchestrator.Spec, n *node, path string) error
	// check says whether the value can be, by itself.
	check func(spec orchestrator.Spec) error
	// write returns what stands behind "name:" in a document: one line, several
	// that are indented below it, or nothing when the key is left out.
	write func(spec orchestrator.Spec) (inline string, block []string)
}

// keys is everything that function.yaml may say, in the order in which it is
// written.
var keys = []key{
	text("name", func(s *orchestrator.Spec) *string { return &s.Name }, checkName),
	text("template", func(s *orchestrator.Spec) *string { return &s.Template }, checkTemplate),
	text("handler", func(s *orchestrator.Spec) *string { return &s.Handler }, checkHandler),
	dictionary("env", func(s *orchestrator.Spec) *map[string]string { return &s.Env }, checkEnv),
	list("secrets", func(s *orchestrator.Spec) *[]string { return &s.Secrets }, checkSecrets),
	text("access", func(s *orchestrator.Spec) *string { return (*string)(&s.Access) }, checkAccess),
	section("rate",
		optional(number("per_second", func(s *orchestrator.Spec) *float64 { return &s.Rate.PerSecond }, checkPerSecond), func(s orchestrator.Spec) bool { return s.Rate.PerSecond != 0 }),
		optional(integer("burst", func(s *orchestrator.Spec) *int { return &s.Rate.Burst }, count("rate-invalid", 0, orchestrator.MaxBurst)), func(s orchestrator.Spec) bool { return s.Rate.Burst != 0 }),
	),
	section("cors",
		list("origins", func(s *orchestrator.Spec) *[]string { return &s.CORS.Origins }, checkOrigins),
		list("methods", func(s *orchestrator.Spec) *[]string { return &s.CORS.Methods }, checkMethods),
		list("headers", func(s *orchestrator.Spec) *[]string { return &s.CORS.Headers }, checkFields),
		list("expose", func(s *orchestrator.Spec) *[]string { return &s.CORS.Expose }, checkFields),
		flag("credentials", func(s *orchestrator.Spec) *bool { return &s.CORS.Credentials }),
		optional(duration("max_age", func(s *orchestrator.Spec) *orchestrator.Duration { return &s.CORS.MaxAge }, within("cors-invalid", 0, maxPreflight)), func(s orchestrator.Spec) bool { return s.CORS.MaxAge != 0 }),
	),
	section("resources",
		size("memory", func(s *orchestrator.Spec) *orchestrator.Bytes { return &s.Resources.Memory }, between("memory-invalid", minMemory, maxMemory)),
		number("cpu", func(s *orchestrator.Spec) *float64 { return &s.Resources.CPU }, checkCPU),
		size("tmp", func(s *orchestrator.Spec) *orchestrator.Bytes { return &s.Resources.Tmp }, between("tmp-invalid", minTmp, maxMemory)),
	),
	duration("timeout", func(s *orchestrator.Spec) *orchestrator.Duration { return &s.Timeout }, within("timeout-invalid", minTimeout, maxTimeout)),
	integer("concurrency", func(s *orchestrator.Spec) *int { return &s.Concurrency }, count("concurrency-invalid", 1, maxConcurrency)),
	size("max_request", func(s *orchestrator.Spec) *orchestrator.Bytes { return &s.MaxRequest }, between("max-request-invalid", 0, maxRequest)),
	section("scale",
		integer("min", func(s *orchestrator.Spec) *int { return &s.Scale.Min }, count("scale-invalid", 0, maxInstances)),
		integer("max", func(s *orchestrator.Spec) *int { return &s.Scale.Max }, count("scale-invalid", 1, maxInstances)),
		duration("freeze_after", func(s *orchestrator.Spec) *orchestrator.Duration { return &s.Scale.FreezeAfter }, within("scale-invalid", 0, maxIdle)),
		duration("keep_alive", func(s *orchestrator.Spec) *orchestrator.Duration { return &s.Scale.KeepAlive }, within("scale-invalid", minKeepAlive, maxIdle)),
	),
	text("network", func(s *orchestrator.Spec) *string { return (*string)(&s.Network) }, checkNetwork),
	text("runtime", func(s *orchestrator.Spec) *string { return &s.Runtime }, checkRuntime),
	section("async",
		integer("attempts", func(s *orchestrator.Spec) *int { return &s.Async.Attempts }, count("async-invalid", 1, maxAttempts)),
		duration("backoff", func(s *orchestrator.Spec) *orchestrator.Duration { return &s.Async.Backoff }, within("async-invalid", 0, maxBackoff)),
		duration("backoff_max", func(s *orchestrator.Spec) *orchestrator.Duration { return &s.Async.BackoffMax }, within("async-invalid", 0, maxBackoff)),
		duration("max_age", func(s *orchestrator.Spec) *orchestrator.Duration { return &s.Async.MaxAge }, within("async-invalid", minMaxAge, maxIdle)),
		list("retry_on", func(s *orchestrator.Spec) *[]string { return &s.Async.RetryOn }, checkRetryOn),
		text("on_success", func(s *orchestrator.Spec) *string { return &s.Async.OnSuccess }, checkDestination),
		text("on_failure", func(s *orchestrator.Spec) *string { return &s.Async.OnFailure }, checkDestination),
	),
	triggers("triggers"),
	section("build",
		list("packages", func(s *orchestrator.Spec) *[]string { return &s.Build.Packages }, checkPackages),
		dictionary("args", func(s *orchestrator.Spec) *map[string]string { return &s.Build.Args }, checkArgs),
		flag("test", func(s *orchestrator.Spec) *bool { return &s.Build.Test }),
		text("network", func(s *orchestrator.Spec) *string { return (*string)(&s.Build.Network) }, checkBuildNetwork),
	),
}

// optional leaves a key out of what is written unless it is set.
func optional(k key, set func(orchestrator.Spec) bool) key {
	write := k.write
	k.write = func(spec orchestrator.Spec) (string, []string) {
		if !set(spec) {
			return "", nil
		}
		return write(spec)
	}
	return k
}

func section(name string, keys ...key) key { return key{name: name, keys: keys} }

func find(table []key, name string) (key, bool) {
	for _, k := range table {
		if k.name == name {
			return k, true
		}
	}
	return key{}, false
}

func names(table []key) string {
	all := make([]string, 0, len(table))
	for _, k := range table {
		all = append(all, k.name)
	}
	return strings.Join(all, ", ")
}

// each calls f for every value key of a table with its path, in order, until an
// error.
func each(table []key, path string, f func(path string, k key) error) error {
	for _, k := range table {
		var err error
		if at := join(path, k.name); k.keys != nil {
			err = each(k.keys, at, f)
		} else {
			err = f(at, k)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unknown is the error for a key that the table does not have. It hints at the
// key that may have been meant.
func unknown(e entry, path string, table []key) error {
	err := e.at.errorf("manifest-unknown-key", "unknown key %q", join(path, shorten(e.key)))
	if meant := suggest(e.key, path, table); meant != "" {
		return err.WithHint("did you mean %s? Allowed keys here are %s", meant, names(table))
	}
	return err.WithHint("allowed keys are %s", names(table))
}

// suggest returns the key that is most likely meant: the same one of another
// section, one like it here, one like it elsewhere; or nothing.
func suggest(got, path string, table []key) string {
	if len(got) > maxSuggest {
		return ""
	}
	got = strings.ReplaceAll(strings.ToLower(got), "-", "_")
	var same, like string
	_ = each(keys, "", func(at string, k key) error { // f gives no error
		if same == "" && k.name == got {
			same = at
		}
		if like == "" && similar(got, k.name) {
			like = at
		}
		return nil
	})
	if same != "" {
		return same
	}
	for _, k := range table {
		if similar(got, k.name) {
			return join(path, k.name)
		}
	}
	return like
}

// maxSuggest is the longest key for which a similar one is looked for.
const maxSuggest = 40

// similar says whether somebody who wrote got may have meant want: a slip or
// two, another spelling of the separator, or the word in full.
func similar(got, want string) bool {
	if got == want || strings.ReplaceAll(want, "_", "") == got {
		return true
	}
	if len(want) >= 3 && strings.HasPrefix(got, want) || len(got) >= 3 && strings.HasPrefix(want, got) {
		return true
	}
	return distance(got, want) <= min(2, len(want)/3)
}

// distance is the number of insertions, deletions, replacements and swaps of
// neighbours between two words (optimal string alignment).
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

package orchestrator

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Settings are what one kind of trigger is told in function.yaml, besides the
// trigger's name and type. Values are strings, float64, bool, []any and
// map[string]any, as encoding/json reads them.
type Settings map[string]any

// SettingError is an error about one setting. Setting is its path, such as
// "cron" or "filter.prefix"; who read the document adds line and column.
type SettingError struct {
	Setting string
	Cause   *Error
}

// Error returns the path and the cause.
func (e *SettingError) Error() string { return e.Setting + ": " + e.Cause.Error() }

// Unwrap returns the cause.
func (e *SettingError) Unwrap() error { return e.Cause }

// codeSetting is the code of errors about settings of triggers.
const codeSetting = "trigger-setting-invalid"

// SettingsReader takes settings apart: one call for each that the kind knows,
// and Err in the end, which also refuses those that nobody asked for. After an
// error further calls return fallbacks, so a kind reads all and asks once:
//
//	r := trigger.Settings.Reader()
//	s := spec{Cron: r.Required("cron", `cron: "0 3 * * *"`), CatchUp: r.Choice("catch_up", "none", "last", "all")}
//	return s, r.Err()
type SettingsReader struct {
	values Settings
	path   string
	known  []string
	below  []*SettingsReader
	err    *SettingError
	slip   bool // err is that something is missing, perhaps for a slip in its name
}

// Reader returns a reader of the settings.
func (s Settings) Reader() *SettingsReader { return &SettingsReader{values: s} }

// Refuse notes that a setting is wrong, with what to do; the first error counts.
func (r *SettingsReader) Refuse(name, hint, format string, args ...any) {
	if r.err == nil {
		r.err = &SettingError{r.at(name), Errorf(ErrInvalid, codeSetting, format, args...).WithHint("%s", hint)}
	}
}

func (r *SettingsReader) at(name string) string {
	if r.path == "" {
		return name
	}
	return r.path + "." + name
}

// take returns a value and whether it is there; null counts as absent.
func (r *SettingsReader) take(name string) (any, bool) {
	r.known = append(r.known, name)
	v, ok := r.values[name]
	return v, ok && v != nil
}

// Has says whether a setting is there.
func (r *SettingsReader) Has(name string) bool {
	v, ok := r.values[name]
	return ok && v != nil
}

// Text returns a text, or fallback when there is none.
func (r *SettingsReader) Text(name, fallback string) string {
	v, ok := r.take(name)
	if !ok {
		return fallback
	}
	s, ok := v.(string)
	if !ok {
		r.Refuse(name, "put it in quotes", "must be text")
		return fallback
	}
	return s
}

// Required returns a text that must be there and not empty; example shows how to
// write it.
func (r *SettingsReader) Required(name, example string) string {
	s := r.Text(name, "")
	if s == "" && r.err == nil {
		r.slip = true
		r.Refuse(name, "add "+example, "is missing")
	}
	return s
}

// Choice returns one of several texts; the first is the fallback.
func (r *SettingsReader) Choice(name string, allowed ...string) string {
	s := r.Text(name, allowed[0])
	if !slices.Contains(allowed, s) {
		r.Refuse(name, "write "+strings.Join(allowed, ", "), "cannot be %.80q", s)
		return allowed[0]
	}
	return s
}

// Flag returns true or false; false when absent.
func (r *SettingsReader) Flag(name string) bool {
	v, ok := r.take(name)
	if !ok {
		return false
	}
	b, ok := v.(bool)
	if !ok {
		r.Refuse(name, "write true or false", "must be true or false")
	}
	return b
}

// Int returns a whole number from low to high.
func (r *SettingsReader) Int(name string, fallback, low, high int) int {
	v, ok := r.take(name)
	if !ok {
		return fallback
	}
	n, ok := v.(float64)
	if !ok || n != float64(int(n)) {
		r.Refuse(name, "write it without quotes, for example 5", "must be a whole number")
		return fallback
	}
	if int(n) < low || int(n) > high {
		r.Refuse(name, fmt.Sprintf("give %d to %d", low, high), "%d is out of range", int(n))
		return fallback
	}
	return int(n)
}

// Duration returns a time span from low to high.
func (r *SettingsReader) Duration(name string, fallback, low, high time.Duration) time.Duration {
	v, ok := r.take(name)
	if !ok {
		return fallback
	}
	text, _ := v.(string)
	if v == float64(0) {
		text = "0" // the one duration that needs no unit
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		r.Refuse(name, "write a number with a unit, for example 30s or 5m", "must be a duration")
		return fallback
	}
	if d < low || d > high {
		r.Refuse(name, fmt.Sprintf("give %s to %s", low, high), "%s is out of range", d)
		return fallback
	}
	return d
}

// Texts returns a list of texts, at most so many; nil when absent.
func (r *SettingsReader) Texts(name string, most int) []string {
	v, ok := r.take(name)
	if !ok {
		return nil
	}
	items, ok := v.([]any)
	if !ok {
		r.Refuse(name, "write "+name+": [one, two]", "must be a list of texts")
		return nil
	}
	if len(items) > most {
		r.Refuse(name, "leave some out", "there are more than %d", most)
		return nil
	}
	var all []string
	for _, item := range items {
		s, ok := item.(string)
		if !ok {
			r.Refuse(name, "write "+name+": [one, two]", "must be a list of texts")
			return nil
		}
		all = append(all, s)
	}
	return all
}

// Section returns a reader of the settings below a name; of none when absent.
// Its errors are those of r.
func (r *SettingsReader) Section(name string) *SettingsReader {
	section := &SettingsReader{path: r.at(name)}
	r.below = append(r.below, section)
	if v, ok := r.take(name); ok {
		values, isMap := v.(map[string]any)
		if !isMap {
			r.Refuse(name, "write keys below it", "must be keys with values")
		}
		section.values = values
	}
	return section
}

// Err returns the first error, or that there are settings nobody asked for. It is
// a *SettingError of the class ErrInvalid.
func (r *SettingsReader) Err() error {
	if r.err != nil && !r.slip {
		return r.err
	}
	for _, section := range r.below {
		if err := section.Err(); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.values)) {
		if !slices.Contains(r.known, name) {
			return &SettingError{r.at(name), Errorf(ErrInvalid, "trigger-setting-unknown", "is no setting of this kind of trigger").
				WithHint("allowed are %s", strings.Join(r.known, ", "))}
		}
	}
	if r.err != nil {
		return r.err
	}
	return nil
}

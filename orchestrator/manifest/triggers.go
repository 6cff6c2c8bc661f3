package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/kilnfaas/kiln/orchestrator"
)

// triggers is the key of a list of triggers, which replaces the list. Each has a
// name, a type, and settings that only its kind knows: those are read as they are,
// and CheckTriggers has them checked.
func triggers(name string) key {
	return key{
		name: name,
		read: func(spec *orchestrator.Spec, n *node, path string) error {
			if n.kind != kindList && n.kind != kindNull {
				return n.want(path, kindList, path+": [{name: nightly, type: schedule, cron: \"0 3 * * *\"}]")
			}
			var all []orchestrator.Trigger
			for i, item := range n.items {
				t, err := readTrigger(item, fmt.Sprintf("%s[%d]", path, i))
				if err != nil {
					return err
				}
				all = append(all, t)
				if err := checkTriggers(all); err != nil {
					return item.wrap(path, err)
				}
			}
			spec.Triggers = all
			return nil
		},
		check: func(spec orchestrator.Spec) error { return checkTriggers(spec.Triggers) },
		write: func(spec orchestrator.Spec) (string, []string) {
			var lines []string
			for _, t := range spec.Triggers {
				lines = append(lines, "- name: "+quote(t.Name), "  type: "+quote(t.Type))
				for _, setting := range slices.Sorted(maps.Keys(t.Settings)) {
					lines = append(lines, "  "+quote(setting)+": "+writeValue(t.Settings[setting]))
				}
			}
			return "", lines
		},
	}
}

func readTrigger(n *node, path string) (t orchestrator.Trigger, err error) {
	if n.kind != kindMap {
		return t, n.want(path, kindMap, "{name: nightly, type: schedule}")
	}
	for _, e := range n.entries {
		at := join(path, e.key)
		switch e.key {
		case "name", "type":
			if e.value.kind != kindText {
				return t, e.value.want(at, kindText, e.key+`: "`+exampleText(e.value)+`"`)
			}
			if e.key == "name" {
				t.Name = e.value.text
			} else {
				t.Type = e.value.text
			}
		default:
			if t.Settings == nil {
				t.Settings = orchestrator.Settings{}
			}
			if t.Settings[e.key], err = value(e.value, at); err != nil {
				return t, err
			}
		}
	}
	for _, required := range []struct{ key, value, example string }{{"name", t.Name, "nightly"}, {"type", t.Type, "schedule"}} {
		if required.value == "" {
			return t, n.errorf("trigger-incomplete", "%s: the trigger has no %s", path, required.key).WithHint("add %s: %s", required.key, required.example)
		}
	}
	if err := t.Validate(); err != nil {
		return t, n.wrap(path, err)
	}
	return t, nil
}

// maxExact bounds numbers: up to here a float64, and so JSON, holds all whole ones.
const maxExact = 1 << 53

// value returns what a node holds, as encoding/json would.
func value(n *node, path string) (any, error) {
	switch n.kind {
	case kindNull:
		return nil, n.want(path, kindText, path+": text")
	case kindBool:
		return strings.EqualFold(n.text, "true"), nil
	case kindInt, kindReal:
		v, err := strconv.ParseFloat(n.text, 64)
		if err != nil || math.IsNaN(v) || math.Abs(v) >= maxExact || strings.ContainsAny(n.text, "xX_oO") {
			return nil, n.errorf("manifest-type", "%s: %s is no plain number", path, shorten(n.text)).WithHint(hintQuote)
		}
		return v + 0, nil // no negative zero: it would come back as another one
	case kindList:
		all := []any{}
		for i, item := range n.items {
			v, err := value(item, fmt.Sprintf("%s[%d]", path, i))
			if err != nil {
				return nil, err
			}
			all = append(all, v)
		}
		return all, nil
	case kindMap:
		all := map[string]any{}
		for _, e := range n.entries {
			v, err := value(e.value, join(path, e.key))
			if err != nil {
				return nil, err
			}
			all[e.key] = v
		}
		return all, nil
	}
	return n.text, nil
}

// writeValue writes a setting on one line. What has parts is JSON, which is YAML
// too.
func writeValue(v any) string {
	if text, ok := v.(string); ok {
		return quote(text)
	}
	encoded, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("manifest: write a setting: %v", err)) // what value returns always encodes
	}
	return string(encoded)
}

func checkTriggers(all []orchestrator.Trigger) error {
	if len(all) > orchestrator.MaxTriggers {
		return invalid("triggers-too-many", "there are more than %d", orchestrator.MaxTriggers).WithHint("spread them over several functions")
	}
	seen := map[string]bool{}
	for _, t := range all {
		if err := t.Validate(); err != nil {
			return err
		}
		if seen[t.Name] {
			return invalid("trigger-twice", "the trigger %s is there twice", t.Name).WithHint("give one of them another name")
		}
		seen[t.Name] = true
	}
	return nil
}

// CheckTriggers has the triggers of a spec checked, each by its kind. An error
// gets the line and column of the setting that is to blame in the document that
// says it, which is the last of docs that has triggers. check is nil where there
// are no triggers.
func CheckTriggers(spec orchestrator.Spec, check func(orchestrator.Trigger) error, docs ...Document) error {
	for i, t := range spec.Triggers {
		err := error(noTriggers)
		if check != nil {
			err = check(t)
		}
		if err == nil {
			continue
		}
		classed, ok := errors.AsType[*orchestrator.Error](err)
		if !ok {
			return err
		}
		path, below := fmt.Sprintf("triggers[%d]", i), ""
		if setting, ok := errors.AsType[*orchestrator.SettingError](err); ok {
			below = setting.Setting
		}
		if n, name := place(docs, i, below); n != nil {
			return locate(name, n.wrap(dotted(path, below), classed))
		}
		copied := *classed
		copied.Detail = dotted(path, below) + ": " + copied.Detail
		return &copied
	}
	return nil
}

var noTriggers = invalid("triggers-unsupported", "this gateway runs no triggers").WithHint("leave the key out")

// dotted is the path of a setting; an empty one is the trigger itself.
func dotted(path, setting string) string { return strings.TrimSuffix(path+"."+setting, ".") }

// place finds where a setting of trigger i is said, or where the trigger is when
// it is said nowhere; nil when no document has the triggers.
func place(docs []Document, i int, setting string) (*node, string) {
	for _, doc := range slices.Backward(docs) {
		root, err := read(doc)
		if err != nil {
			continue // Apply has told of it
		}
		list := root.child("triggers")
		if list == nil {
			continue
		}
		if i >= len(list.items) {
			return nil, ""
		}
		at := list.items[i]
		for name := range strings.SplitSeq(setting, ".") {
			if below := at.child(name); below != nil {
				at = below
			}
		}
		return at, doc.Name
	}
	return nil, ""
}

// child returns the value of a key, or nil.
func (n *node) child(name string) *node {
	for _, e := range n.entries {
		if e.key == name {
			return e.value
		}
	}
	return nil
}

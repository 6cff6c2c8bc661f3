package manifest

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/kilnfaas/kiln/orchestrator"
)

// The functions of this file make keys of each type: at returns the place of
// the value in a spec, check says whether a value can be.

func text(name string, at func(*orchestrator.Spec) *string, check func(string) error) key {
	return key{
		name: name,
		read: func(spec *orchestrator.Spec, n *node, path string) error {
			if n.kind != kindText {
				return n.want(path, kindText, path+`: "`+exampleText(n)+`"`)
			}
			*at(spec) = n.text
			return nil
		},
		check: func(spec orchestrator.Spec) error { return check(*at(&spec)) },
		write: func(spec orchestrator.Spec) (string, []string) {
			if *at(&spec) == "" {
				return "", nil
			}
			return quote(*at(&spec)), nil
		},
	}
}

// exampleText quotes what was written, if it was a scalar.
func exampleText(n *node) string {
	if n.text == "" {
		return "text"
	}
	return n.text
}

func size(name string, at func(*orchestrator.Spec) *orchestrator.Bytes, check func(orchestrator.Bytes) error) key {
	return key{
		name: name,
		read: func(spec *orchestrator.Spec, n *node, path string) error {
			if n.kind != kindText && n.kind != kindInt {
				return n.want(path, "a size", path+": 128MiB")
			}
			v, err := orchestrator.ParseBytes(n.text)
			if err != nil {
				return n.wrap(path, err)
			}
			*at(spec) = v
			return nil
		},
		check: func(spec orchestrator.Spec) error { return check(*at(&spec)) },
		write: func(spec orchestrator.Spec) (string, []string) { return at(&spec).String(), nil },
	}
}

func duration(name string, at func(*orchestrator.Spec) *orchestrator.Duration, check func(orchestrator.Duration) error) key {
	return key{
		name: name,
		read: func(spec *orchestrator.Spec, n *node, path string) error {
			if n.kind != kindText && n.kind != kindInt {
				return n.want(path, "a duration", path+": 30s")
			}
			var v orchestrator.Duration
			if err := v.UnmarshalText([]byte(n.text)); err != nil {
				return n.wrap(path, err)
			}
			*at(spec) = v
			return nil
		},
		check: func(spec orchestrator.Spec) error { return check(*at(&spec)) },
		write: func(spec orchestrator.Spec) (string, []string) {
			v := at(&spec).String()
			if short, ok := strings.CutSuffix(v, "m0s"); ok {
				v = short + "m"
			}
			if short, ok := strings.CutSuffix(v, "h0m"); ok {
				v = short + "h"
			}
			return v, nil
		},
	}
}

func integer(name string, at func(*orchestrator.Spec) *int, check func(int) error) key {
	return key{
		name: name,
		read: func(spec *orchestrator.Spec, n *node, path string) error {
			v, err := strconv.Atoi(n.text)
			if n.kind != kindInt || err != nil {
				return n.want(path, kindInt, path+": 5")
			}
			*at(spec) = v
			return nil
		},
		check: func(spec orchestrator.Spec) error { return check(*at(&spec)) },
		write: func(spec orchestrator.Spec) (string, []string) { return strconv.Itoa(*at(&spec)), nil },
	}
}

func number(name string, at func(*orchestrator.Spec) *float64, check func(float64) error) key {
	return key{
		name: name,
		read: func(spec *orchestrator.Spec, n *node, path string) error {
			v, err := strconv.ParseFloat(n.text, 64)
			if n.kind != kindInt && n.kind != kindReal || err != nil || math.IsNaN(v) || math.IsInf(v, 0) || strings.ContainsAny(n.text, "xX_") {
				return n.want(path, kindReal, path+": 0.5")
			}
			*at(spec) = v
			return nil
		},
		check: func(spec orchestrator.Spec) error { return check(*at(&spec)) },
		write: func(spec orchestrator.Spec) (string, []string) {
			return strconv.FormatFloat(*at(&spec), 'f', -1, 64), nil
		},
	}
}

func flag(name string, at func(*orchestrator.Spec) *bool) key {
	return key{
		name: name,
		read: func(spec *orchestrator.Spec, n *node, path string) error {
			if n.kind != kindBool {
				return n.want(path, kindBool, path+": true")
			}
			*at(spec) = strings.EqualFold(n.text, "true")
			return nil
		},
		check: func(orchestrator.Spec) error { return nil },
		write: func(spec orchestrator.Spec) (string, []string) {
			if !*at(&spec) {
				return "", nil
			}
			return "true", nil
		},
	}
}

// list replaces the list.
func list(name string, at func(*orchestrator.Spec) *[]string, check func([]string) error) key {
	return key{
		name: name,
		read: func(spec *orchestrator.Spec, n *node, path string) error {
			if n.kind != kindList && n.kind != kindNull {
				return n.want(path, kindList, path+": [one, two]")
			}
			var all []string
			for _, item := range n.items {
				if item.kind != kindText {
					return item.want(path, "a list of texts", path+": [one, two]")
				}
				all = append(all, item.text)
				if err := check(all); err != nil {
					return item.wrap(path, err)
				}
			}
			*at(spec) = all
			return nil
		},
		check: func(spec orchestrator.Spec) error { return check(*at(&spec)) },
		write: func(spec orchestrator.Spec) (string, []string) {
			var lines []string
			for _, item := range *at(&spec) {
				lines = append(lines, "- "+quote(item))
			}
			return "", lines
		},
	}
}

// dictionary merges into the map, as RFC 7396 says.
func dictionary(name string, at func(*orchestrator.Spec) *map[string]string, check func(key, value string) error) key {
	return key{
		name: name,
		read: func(spec *orchestrator.Spec, n *node, path string) error {
			if n.kind == kindNull {
				*at(spec) = nil
				return nil
			}
			if n.kind != kindMap {
				return n.want(path, kindMap, path+": {KEY: value}")
			}
			merged := maps.Clone(*at(spec))
			if merged == nil {
				merged = map[string]string{}
			}
			for _, e := range n.entries {
				if err := mergeInto(merged, e, path, check); err != nil {
					return err
				}
			}
			*at(spec) = merged
			if len(merged) == 0 {
				*at(spec) = nil
			}
			return nil
		},
		check: func(spec orchestrator.Spec) error { return checkAll(name, *at(&spec), check) },
		write: func(spec orchestrator.Spec) (string, []string) {
			var lines []string
			for _, k := range slices.Sorted(maps.Keys(*at(&spec))) {
				lines = append(lines, quote(k)+": "+quote((*at(&spec))[k]))
			}
			return "", lines
		},
	}
}

func mergeInto(merged map[string]string, e entry, path string, check func(key, value string) error) error {
	switch e.value.kind {
	case kindNull:
		delete(merged, e.key)
		return nil
	case kindList, kindMap:
		return e.value.want(join(path, e.key), kindText, e.key+": text")
	}
	if err := check(e.key, e.value.text); err != nil {
		return (&node{at: e.at}).wrap(join(path, e.key), err)
	}
	merged[e.key] = e.value.text
	return nil
}

package manifest

import (
	"errors"
	"fmt"

	"github.com/kilnfaas/kiln/orchestrator"
)

// kind is what a node is.
type kind string

const (
	kindNull kind = "nothing"
	kindText kind = "text"
	kindInt  kind = "a whole number"
	kindReal kind = "a number"
	kindBool kind = "true or false"
	kindList kind = "a list"
	kindMap  kind = "keys with values"
)

// node is a value of a document, whatever language the document is in.
type node struct {
	kind    kind
	text    string  // of a scalar, as it was written (quotes and escapes resolved)
	items   []*node // of a list
	entries []entry // of a map, in order, each key once
	at      position
}

type entry struct {
	key   string
	at    position // of the key
	value *node
}

// position counts lines and columns from 1.
type position struct{ line, column int }

// maxDepth bounds nesting; settings need four levels.
const maxDepth = 16

// located is an error at a place of a document.
type located struct {
	at    position
	cause *orchestrator.Error
}

func (l *located) Error() string { return l.cause.Error() }

// locate names the document and the place in the error's detail.
func locate(document string, err error) error {
	place, ok := errors.AsType[*located](err)
	if !ok {
		return err
	}
	copied := *place.cause
	copied.Detail = fmt.Sprintf("%s:%d:%d: %s", document, place.at.line, place.at.column, copied.Detail)
	return &copied
}

func (p position) errorf(code, format string, args ...any) *located {
	return &located{p, orchestrator.Errorf(orchestrator.ErrInvalid, code, format, args...)}
}

// WithHint is orchestrator.Error's.
func (l *located) WithHint(format string, args ...any) *located {
	l.cause = l.cause.WithHint(format, args...)
	return l
}

func (n *node) errorf(code, format string, args ...any) *located {
	return n.at.errorf(code, format, args...)
}

// wrap puts the error of a check at the place of the value.
func (n *node) wrap(path string, err error) error {
	classed, ok := errors.AsType[*orchestrator.Error](err)
	if !ok {
		return n.errorf("manifest-value", "%s: %w", path, err)
	}
	copied := *classed
	copied.Detail = path + ": " + copied.Detail
	return &located{n.at, &copied}
}

// want says that the node is of another kind than the key needs.
func (n *node) want(path string, k kind, example string) error {
	if n.kind == kindNull {
		return n.errorf("manifest-null", "%s has no value", path).WithHint("give it one, for example %s, or leave the key out", example)
	}
	return n.errorf("manifest-type", "%s must be %s, not %s", path, k, n.kind).WithHint("write it as %s", example)
}

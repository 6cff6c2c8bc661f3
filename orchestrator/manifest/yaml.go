package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

const (
	// maxTokens bounds the parser's work, part of which grows with the square.
	maxTokens = 8 << 10
	// maxEntriesOnLine bounds "- - - -", which nests without indentation.
	maxEntriesOnLine = maxDepth
)

const hintQuote = "if it is meant as text, put it in quotes"

// parse reads YAML or JSON. Nothing but comments and blanks is a null.
func parse(data []byte) (*node, error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) // a byte order mark
	start := position{1, 1}
	if !utf8.Valid(data) {
		return nil, start.errorf("manifest-encoding", "the document is not UTF-8").WithHint("save it as UTF-8")
	}
	if bytes.IndexByte(data, 0) >= 0 {
		return nil, start.errorf("manifest-encoding", "the document holds a zero byte").WithHint("save it as plain text in UTF-8")
	}
	// JSON has escapes and blanks that YAML reads otherwise.
	if trimmed := bytes.TrimLeft(data, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '{' && json.Valid(data) {
		return parseJSON(data)
	}
	return parseYAML(data)
}

func parseYAML(data []byte) (*node, error) {
	file, err := parseFile(data)
	if err != nil {
		return nil, err
	}
	var root *node
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if root != nil {
			return nil, at(doc.Body.GetToken()).errorf("manifest-syntax", "there is a second document").WithHint("remove what begins at this '---'")
		}
		if root, err = convert(doc.Body, 0); err != nil {
			return nil, err
		}
	}
	if root == nil {
		return &node{kind: kindNull, at: position{1, 1}}, nil
	}
	return root, nil
}

// parseFile runs the YAML library. Fuzzing has not made it panic; should input
// do so one day, the input is invalid and the gateway goes on.
func parseFile(data []byte) (file *ast.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = position{1, 1}.errorf("manifest-syntax", "this is not YAML: the parser gave up: %v", r).WithHint("check quotes and brackets")
		}
	}()
	tokens := lexer.Tokenize(string(data))
	if err := checkTokens(tokens); err != nil {
		return nil, err
	}
	file, err = parser.Parse(tokens, 0, parser.AllowDuplicateMapKey()) // put refuses them
	if err != nil {
		return nil, syntax(err)
	}
	return file, nil
}

// syntax translates the parser's error.
func syntax(err error) error {
	var parsed yaml.Error
	if !errors.As(err, &parsed) {
		return position{1, 1}.errorf("manifest-syntax", "this is not YAML: %w", err).WithHint("check quotes and brackets")
	}
	return at(parsed.GetToken()).errorf("manifest-syntax", "%s", parsed.GetMessage()).WithHint("check indentation, quotes and brackets; indent with blanks")
}

func at(t *token.Token) position {
	if t == nil || t.Position == nil {
		return position{1, 1}
	}
	return position{max(1, t.Position.Line), max(1, t.Position.Column)}
}

// checkTokens refuses what could make the parser recurse or repeat itself, and
// what the manifest has no use for.
func checkTokens(tokens token.Tokens) error {
	if len(tokens) > maxTokens {
		return at(tokens[maxTokens]).errorf("manifest-too-complex", "the document has too many parts").WithHint("keep data in files beside the code")
	}
	depth, line, entries := 0, 0, 0
	for _, t := range tokens {
		switch t.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType:
			return at(t).errorf("manifest-alias", "anchors and aliases (%q) are not allowed", t.Value).WithHint("write the value out; " + hintQuote)
		case token.TagType:
			return at(t).errorf("manifest-tag", "the tag %q is not allowed", t.Value).WithHint("leave the tag out; " + hintQuote)
		case token.DirectiveType:
			return at(t).errorf("manifest-syntax", "directives are not allowed").WithHint("leave the line with '%%' out")
		case token.MappingKeyType:
			return at(t).errorf("manifest-syntax", "keys with '?' are not allowed").WithHint("write KEY: VALUE")
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		case token.SequenceEntryType:
			if t.Position.Line != line {
				line, entries = t.Position.Line, 0
			}
			entries++
		}
		if depth > maxDepth || entries > maxEntriesOnLine {
			return tooDeep(at(t))
		}
	}
	return nil
}

func tooDeep(p position) error {
	return p.errorf("manifest-too-deep", "the document is nested too deeply").WithHint("settings need four levels at most")
}

// convert turns the parser's tree into nodes.
func convert(n ast.Node, depth int) (*node, error) {
	here := at(n.GetToken())
	if depth > maxDepth {
		return nil, tooDeep(here)
	}
	scalar := func(k kind) (*node, error) { return &node{kind: k, text: n.GetToken().Value, at: here}, nil }
	switch n := n.(type) {
	case *ast.NullNode:
		return &node{kind: kindNull, at: here}, nil
	case *ast.StringNode:
		return &node{kind: kindText, text: n.Value, at: here}, nil
	case *ast.LiteralNode:
		return &node{kind: kindText, text: n.Value.Value, at: here}, nil
	case *ast.IntegerNode:
		return scalar(kindInt)
	case *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return scalar(kindReal)
	case *ast.BoolNode:
		return scalar(kindBool)
	case *ast.SequenceNode:
		list := &node{kind: kindList, at: here}
		for _, value := range n.Values {
			item, err := convert(value, depth+1)
			if err != nil {
				return nil, err
			}
			list.items = append(list.items, item)
		}
		return list, nil
	case *ast.MappingNode:
		return convertMap(n.Values, here, depth)
	case *ast.MappingValueNode:
		return convertMap([]*ast.MappingValueNode{n}, here, depth)
	}
	return nil, here.errorf("manifest-syntax", "this cannot stand here").WithHint("write KEY: VALUE; " + hintQuote)
}

func convertMap(values []*ast.MappingValueNode, here position, depth int) (*node, error) {
	m := &node{kind: kindMap, at: here}
	if len(values) > 0 {
		m.at = at(values[0].Key.GetToken())
	}
	for _, v := range values {
		name, ok := v.Key.(*ast.StringNode)
		if !ok {
			return nil, at(v.Key.GetToken()).errorf("manifest-key", "the key %q is not text", v.Key.GetToken().Value).WithHint("put it in quotes")
		}
		value, err := convert(v.Value, depth+1)
		if err != nil {
			return nil, err
		}
		if err := m.put(name.Value, at(name.Token), value); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// put adds an entry to a map.
func (n *node) put(name string, where position, value *node) error {
	for _, e := range n.entries {
		if e.key == name {
			return where.errorf("manifest-duplicate-key", "%q is already at %d:%d", name, e.at.line, e.at.column).WithHint("remove one of them")
		}
	}
	n.entries = append(n.entries, entry{name, where, value})
	return nil
}

package manifest

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf16"
)

// parseJSON reads a valid JSON document.
func parseJSON(data []byte) (*node, error) {
	r := &jsonReader{data: data, decoder: json.NewDecoder(bytes.NewReader(data))}
	r.decoder.UseNumber()
	return r.value(0)
}

// jsonReader reads tokens and knows where they began. Positions are counted on
// from the last one, so that a document is gone through once.
type jsonReader struct {
	data    []byte
	decoder *json.Decoder
	offset  int // up to which line and column are counted
	here    position
	parts   int
}

// next returns the next token and where it begins.
func (r *jsonReader) next() (json.Token, position, error) {
	start := int(r.decoder.InputOffset())
	for start < len(r.data) && strings.IndexByte(" \t\r\n,:", r.data[start]) >= 0 {
		start++
	}
	if r.offset == 0 {
		r.here = position{1, 1}
	}
	for _, c := range string(r.data[r.offset:start]) {
		if c == '\n' {
			r.here = position{r.here.line + 1, 1}
		} else {
			r.here.column++
		}
	}
	r.offset = start
	if r.parts++; r.parts > maxTokens {
		return nil, r.here, r.here.errorf("manifest-too-complex", "the document has too many parts").WithHint("keep data in files beside the code")
	}
	t, err := r.decoder.Token()
	if err != nil {
		return nil, r.here, r.here.errorf("manifest-syntax", "this is not JSON: %w", err).WithHint("check quotes and brackets")
	}
	return t, r.here, nil
}

func (r *jsonReader) value(depth int) (*node, error) {
	t, where, err := r.next()
	if err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, tooDeep(where)
	}
	switch t := t.(type) {
	case nil:
		return &node{kind: kindNull, at: where}, nil
	case string:
		if loneSurrogate(r.data[r.offset:r.decoder.InputOffset()]) {
			return nil, where.errorf("manifest-encoding", "a character of the text is not valid").WithHint("write characters beyond U+FFFF as they are, or as both of their halves")
		}
		return &node{kind: kindText, text: t, at: where}, nil
	case bool:
		text := "false"
		if t {
			text = "true"
		}
		return &node{kind: kindBool, text: text, at: where}, nil
	case json.Number:
		k := kindInt
		if strings.ContainsAny(t.String(), ".eE") {
			k = kindReal
		}
		return &node{kind: k, text: t.String(), at: where}, nil
	}
	if t == json.Delim('[') {
		return r.list(where, depth)
	}
	return r.object(where, depth)
}

// loneSurrogate tells whether a string, as it is written, escapes one half of a
// surrogate pair without the other: encoding/json reads that as U+FFFD, which
// is not what was meant.
func loneSurrogate(literal []byte) bool {
	high := false // the escape just read was a first half
	for i := 0; i < len(literal); i++ {
		var half rune
		if literal[i] == '\\' && i+1 < len(literal) {
			i++
			if literal[i] == 'u' && i+4 < len(literal) {
				code, err := strconv.ParseUint(string(literal[i+1:i+5]), 16, 16)
				if err == nil && utf16.IsSurrogate(rune(code)) {
					half = rune(code)
				}
				i += 4
			}
		}
		second := half >= firstLowSurrogate
		if high != second {
			return true
		}
		high = half != 0 && !second
	}
	return high
}

// firstLowSurrogate begins the second halves of surrogate pairs (RFC 8259, section 7; Unicode 3.8).
const firstLowSurrogate = 0xdc00

func (r *jsonReader) list(where position, depth int) (*node, error) {
	list := &node{kind: kindList, at: where}
	for r.decoder.More() {
		item, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		list.items = append(list.items, item)
	}
	_, _, err := r.next() // the bracket
	return list, err
}

func (r *jsonReader) object(where position, depth int) (*node, error) {
	object := &node{kind: kindMap, at: where}
	for r.decoder.More() {
		name, at, err := r.next()
		if err != nil {
			return nil, err
		}
		value, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		if err := object.put(name.(string), at, value); err != nil { // the decoder allows nothing else here
			return nil, err
		}
	}
	_, _, err := r.next() // the brace
	return object, err
}

package postgres

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
)

// OIDs of types (PostgreSQL's pg_type.dat), which never change.
const (
	oidBool        = 16
	oidBytea       = 17
	oidInt8        = 20
	oidInt2        = 21
	oidInt4        = 23
	oidOID         = 26
	oidJSON        = 114
	oidFloat4      = 700
	oidFloat8      = 701
	oidTimestamp   = 1114
	oidTimestamptz = 1184
	oidNumeric     = 1700
	oidJSONB       = 3802
	oidText        = 25
)

// arrays are the types of elements by those of arrays.
var arrays = map[uint32]uint32{
	1000: oidBool, 1001: oidBytea, 1016: oidInt8, 1005: oidInt2, 1007: oidInt4, 1028: oidOID, 199: oidJSON,
	1021: oidFloat4, 1022: oidFloat8, 1115: oidTimestamp, 1185: oidTimestamptz, 1231: oidNumeric, 3807: oidJSONB,
	1009: oidText, 1015: oidText /* varchar */, 1014: oidText /* bpchar */, 1003: oidText, /* name */
	1182: oidText /* date */, 1183: oidText /* time */, 2951: oidText, /* uuid */
}

// appendValue appends a value, which PostgreSQL wrote as text, as JSON. What is
// no JSON where its type has it (NaN, infinity, the year 10000) stays text.
func appendValue(dst []byte, oid uint32, text []byte) []byte {
	switch oid {
	case oidBool:
		if len(text) == 1 && text[0] == 't' {
			return append(dst, "true"...)
		}
		return append(dst, "false"...)
	case oidInt2, oidInt4, oidInt8, oidOID, oidNumeric, oidFloat4, oidFloat8, oidJSON, oidJSONB:
		if json.Valid(text) {
			return append(dst, text...)
		}
	case oidBytea:
		if digits, ok := strings.CutPrefix(string(text), `\x`); ok {
			if data, err := hex.DecodeString(digits); err == nil {
				dst = append(dst, '"')
				dst = base64.StdEncoding.AppendEncode(dst, data)
				return append(dst, '"')
			}
		}
	case oidTimestamp, oidTimestamptz:
		return appendText(dst, iso(string(text)))
	}
	if element, ok := arrays[oid]; ok {
		if all, err := appendArray(dst, element, text); err == nil {
			return all
		}
	}
	return appendText(dst, string(text))
}

// iso makes an instant of RFC 3339 of one as PostgreSQL writes it (DateStyle ISO,
// TimeZone UTC).
func iso(text string) string {
	day, hour, ok := strings.Cut(text, " ")
	if !ok || strings.Contains(hour, " ") {
		return text // infinity, or before Christ
	}
	if utc, ok := strings.CutSuffix(hour, "+00"); ok {
		hour = utc + "Z"
	}
	return day + "T" + hour
}

// appendText appends a JSON string.
func appendText(dst []byte, text string) []byte {
	quoted, err := json.Marshal(text)
	if err != nil {
		panic("postgres: encode a string: " + err.Error()) // cannot be
	}
	return append(dst, quoted...)
}

var errArray = errors.New("no array")

// maxDimensions is what PostgreSQL's arrays have at most (MAXDIM).
const maxDimensions = 6

// appendArray appends an array in PostgreSQL's text form ("Array Input and Output
// Syntax" in its manual) as JSON. On an error, dst is to be thrown away.
func appendArray(dst []byte, element uint32, text []byte) ([]byte, error) {
	if len(text) > 0 && text[0] == '[' { // bounds that do not begin with 1
		_, rest, ok := bytes.Cut(text, []byte("="))
		if !ok {
			return dst, errArray
		}
		text = rest
	}
	dst, rest, err := appendElements(dst, element, text, maxDimensions)
	if err == nil && len(rest) > 0 {
		err = errArray
	}
	return dst, err
}

// appendElements appends one dimension, which begins with a brace, and returns
// what follows it.
func appendElements(dst []byte, element uint32, text []byte, depth int) ([]byte, []byte, error) {
	if len(text) < 2 || text[0] != '{' || depth == 0 {
		return dst, nil, errArray
	}
	dst, text = append(dst, '['), text[1:]
	if text[0] == '}' {
		return append(dst, ']'), text[1:], nil
	}
	for {
		var err error
		if len(text) > 0 && text[0] == '{' {
			dst, text, err = appendElements(dst, element, text, depth-1)
		} else {
			dst, text, err = appendElement(dst, element, text)
		}
		if err != nil || len(text) == 0 {
			return dst, nil, errArray
		}
		switch text[0] {
		case ',':
			dst, text = append(dst, ','), text[1:]
		case '}':
			return append(dst, ']'), text[1:], nil
		default:
			return dst, nil, errArray
		}
	}
}

func appendElement(dst []byte, element uint32, text []byte) ([]byte, []byte, error) {
	if len(text) == 0 {
		return dst, nil, errArray
	}
	if text[0] != '"' {
		end := bytes.IndexAny(text, ",{}\"\\")
		if end <= 0 {
			return dst, nil, errArray
		}
		if string(text[:end]) == "NULL" {
			return append(dst, "null"...), text[end:], nil
		}
		return appendValue(dst, element, text[:end]), text[end:], nil
	}
	var value []byte
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '"':
			return appendValue(dst, element, value), text[i+1:], nil
		case '\\':
			if i++; i == len(text) {
				return dst, nil, errArray
			}
		}
		value = append(value, text[i])
	}
	return dst, nil, errArray
}

package archive

import (
	"bytes"
	"strconv"
)

// Format is what an archive is, by its content.
type Format string

// The formats. FormatUnknown is whatever is not an archive, such as a single
// source file.
const (
	FormatUnknown Format = ""
	FormatTar     Format = "tar"
	FormatTarGzip Format = "tar.gz"
	FormatTarZstd Format = "tar.zst"
	FormatZip     Format = "zip"
	// FormatUnsupported is an archive or a compression that is not read: see
	// foreign.
	FormatUnsupported Format = "unsupported"
	// FormatFolder is a folder that was packed.
	FormatFolder Format = "folder"
)

// DetectLen is how many leading bytes Detect needs at most.
const DetectLen = tarBlock

// tarBlock is the unit of a tar.
const tarBlock = 512

// zipEmpty begins a zip without entries: its end record.
const zipEmpty = "PK\x05\x06"

var magics = []struct {
	magic  string
	format Format
}{
	{"PK\x03\x04", FormatZip},
	{zipEmpty, FormatZip},
	{"\x1f\x8b", FormatTarGzip},
	{"\x28\xb5\x2f\xfd", FormatTarZstd},
}

// foreign are archives that people send and that are not read.
var foreign = []struct{ magic, name string }{
	{"PK\x07\x08", "a split zip"},
	{"\xfd7zXZ\x00", "xz"},
	{"BZh", "bzip2"},
	{"7z\xbc\xaf\x27\x1c", "7z"},
	{"Rar!\x1a\x07", "rar"},
	{"\x04\x22\x4d\x18", "lz4"},
	{"070701", "cpio"},
	{"!<arch>\n", "ar"},
}

// Detect says what format the first DetectLen bytes of something (or all of
// it, when there are fewer) begin. It never looks at names.
func Detect(head []byte) Format {
	for _, m := range magics {
		if bytes.HasPrefix(head, []byte(m.magic)) {
			return m.format
		}
	}
	if foreignName(head) != "" {
		return FormatUnsupported
	}
	if len(head) >= tarBlock && isTarHeader(head[:tarBlock]) {
		return FormatTar
	}
	return FormatUnknown
}

func foreignName(head []byte) string {
	for _, f := range foreign {
		if bytes.HasPrefix(head, []byte(f.magic)) {
			return f.name
		}
	}
	return ""
}

// isTarHeader recognises a header of any tar by its checksum, which all have
// while the magic is younger, and the zero block of an empty one.
func isTarHeader(block []byte) bool {
	const checksumAt, checksumLen = 148, 8
	if isZero(block) {
		return true
	}
	field := bytes.Trim(block[checksumAt:checksumAt+checksumLen], " \x00")
	want, err := strconv.ParseInt(string(field), 8, 64)
	if err != nil {
		return false
	}
	var unsigned, signed int64 // historic writers summed signed bytes
	for i, b := range block {
		if i >= checksumAt && i < checksumAt+checksumLen {
			b = ' '
		}
		unsigned += int64(b)
		signed += int64(int8(b))
	}
	return want == unsigned || want == signed
}

func isZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

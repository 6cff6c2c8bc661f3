package gateway_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/kilnfaas/kiln/gateway/api"
)

// file is a file of an archive.
type file struct{ name, data string }

// member is an entry of an archive that may be bad: a file, or what kind says.
type member struct {
	name, data string
	kind       byte   // a tar's type; 0 is a file, or a folder if the name ends so
	link       string // of a link
}

func (m member) tarKind() byte {
	switch {
	case m.kind != 0:
		return m.kind
	case strings.HasSuffix(m.name, "/"):
		return tar.TypeDir
	}
	return tar.TypeReg
}

// typeSocket is no type of a tar's: zips know sockets.
const typeSocket = 's'

// tarBlock is one header, whatever it says. A size other than the data's and a
// checksum other than the right one are given in octal.
type tarBlock struct {
	member
	mode, size, sum string
	magic           string // with version; "" is ustar's
	prefix          string
}

const blockSize = 512

func (b tarBlock) bytes() []byte {
	head := make([]byte, blockSize)
	copy(head, b.name)
	size, magic, mode := b.size, b.magic, b.mode
	if size == "" {
		size = fmt.Sprintf("%011o", len(b.data))
	}
	if magic == "" {
		magic = "ustar\x0000"
	}
	if mode == "" {
		mode = "0000644"
	}
	for _, field := range []struct {
		at   int
		text string
	}{{100, mode}, {108, "0000000"}, {116, "0000000"}, {124, size}, {136, "00000000000"}, {148, "        "}, {156, string(b.tarKind())}, {157, b.link}, {257, magic}, {345, b.prefix}} {
		copy(head[field.at:], field.text)
	}
	sum := 0
	for _, c := range head {
		sum += int(c)
	}
	text := b.sum
	if text == "" {
		text = fmt.Sprintf("%06o\x00 ", sum)
	}
	copy(head[148:156], text)
	return append(head, padded(b.data)...)
}

func padded(data string) string {
	return data + strings.Repeat("\x00", (blockSize-len(data)%blockSize)%blockSize)
}

var tarEnd = strings.Repeat("\x00", 2*blockSize)

// rawTar is a tar of blocks with its end.
func rawTar(blocks ...tarBlock) []byte {
	var out []byte
	for _, b := range blocks {
		if len(b.name) > 100 { // in the way of GNU's
			out = append(out, tarBlock{member: member{name: "././@LongLink", data: b.name + "\x00", kind: tar.TypeGNULongName}}.bytes()...)
			b.name = b.name[:100]
		}
		out = append(out, b.bytes()...)
	}
	return append(out, tarEnd...)
}

// pax is an extended header with records "key=value", followed by a file.
func pax(records ...string) []tarBlock {
	var data strings.Builder
	for _, r := range records {
		n := len(r) + len(" \n") + 2
		if n >= 100 {
			n++
		}
		fmt.Fprintf(&data, "%d %s\n", n, r)
	}
	return []tarBlock{{member: member{name: "PaxHeaders/x", data: data.String(), kind: tar.TypeXHeader}}, {member: member{name: "x", data: "x"}}}
}

func tarOfMembers(members ...member) []byte {
	var blocks []tarBlock
	for _, m := range members {
		blocks = append(blocks, tarBlock{member: m})
	}
	return rawTar(blocks...)
}

func membersOf(files []file) []member {
	var all []member
	for _, f := range files {
		all = append(all, member{name: f.name, data: f.data})
	}
	return all
}

func tarOf(_ testing.TB, files ...file) []byte { return tarOfMembers(membersOf(files)...) }
func zipOf(t testing.TB, files ...file) []byte { return zipOfMembers(t, membersOf(files)...) }

// unixModes are the file types of zips by a tar's type.
var unixModes = map[byte]uint32{
	tar.TypeReg: 0o100644, tar.TypeDir: 0o040755, tar.TypeSymlink: 0o120777, tar.TypeFifo: 0o010644,
	tar.TypeBlock: 0o060644, tar.TypeChar: 0o020644, typeSocket: 0o140644,
}

func zipOfMembers(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	zw := zip.NewWriter(&b)
	for _, m := range members {
		mode, ok := unixModes[m.tarKind()]
		if !ok {
			return nil
		}
		const unix = 3
		header := &zip.FileHeader{Name: m.name, Method: zip.Deflate, CreatorVersion: unix<<8 | 20, ExternalAttrs: mode << 16, NonUTF8: true}
		w, err := zw.CreateHeader(header)
		if err != nil {
			t.Fatal(err)
		}
		if data := m.data + m.link; data != "" {
			if _, err := io.WriteString(w, data); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipOf(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	if _, err := zw.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstdOf(t testing.TB, data []byte) []byte {
	t.Helper()
	encoder, err := zstdEncoder()
	if err != nil {
		t.Fatal(err)
	}
	return encoder.EncodeAll(data, nil)
}

// zstdEncoder is one for all: each takes megabytes.
var zstdEncoder = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
})

// badMembers are entries that are bad in whatever archive. A good handler comes
// first.
func badMembers() []struct {
	name    string
	members []member
} {
	one := func(name string) []member { return []member{{name: name, data: "x"}} }
	of := func(names ...string) (all []member) {
		for _, name := range names {
			all = append(all, member{name: name})
		}
		return all
	}
	var many []member
	for n := range badLimits().Entries {
		many = append(many, member{name: fmt.Sprintf("f%d", n), data: "x"})
	}
	var implied []string
	for n := range 12 {
		implied = append(implied, fmt.Sprintf("a%d/b/c/d/e/f/g/h/i/j", n))
	}
	return []struct {
		name    string
		members []member
	}{
		{"a parent", one("../x")}, {"a parent inside", one("a/../../x")}, {"a parent that stays inside", one("a/../x")}, {"a parent last", one("a/..")},
		{"only a parent", one("..")}, {"a parent behind a dot", one("./../x")}, {"many parents", one(strings.Repeat("../", 30) + "etc/passwd")},
		{"an absolute path", one("/etc/passwd")}, {"two slashes first", one("//etc/passwd")}, {"a drive", one("C:/x")},
		{"a backslash", one(`a\b`)}, {"a parent with a backslash", one(`..\x`)}, {"a network path", one(`\\host\share\x`)},
		{"an empty component", one("a//b")}, {"a dot inside", one("a/./b")}, {"a dot last", []member{{name: "a/.", data: "x", kind: tar.TypeReg}}},
		{"a name that is not UTF-8", one("caf\xe9")}, {"an overlong slash", one("..\xc0\xafx")}, {"half a surrogate", one("a\xed\xa0\x80")},
		{"a line end", one("a\nb")}, {"an escape", one("a\x1b[2J")}, {"a bell", one("a\x07")}, {"a delete", one("a\x7f")}, {"a control character of Latin-1", one("a\u009bb")},
		{"a name that is too long", one(strings.Repeat("n", 256))}, {"a path that is too long", one(strings.Repeat("long-folder/", 100) + "x")},
		{"a path that is too deep", one(strings.Repeat("d/", 32) + "x")},
		{"a file twice", of("a", "a")}, {"a file twice, once with a dot", of("a", "./a")}, {"names that differ in case", of("a", "A")},
		{"folders that differ in case", of("Lib/a", "lib/b")}, {"names that differ in case beyond ASCII", of("\u00c4", "\u00e4")}, {"the Kelvin sign and a k", of("k", "\u212a")},
		{"a file that is a folder", of("a", "a/b")}, {"a folder that is a file", of("a/b", "a")}, {"a file and a named folder", of("a", "a/")},
		{"the handler twice", of("handler.py")}, {"a folder in place of the handler", of("handler.py/")},
		{"a symbolic link", []member{{name: "l", link: "handler.py", kind: tar.TypeSymlink}}},
		{"a symbolic link out", []member{{name: "l", link: "/etc/passwd", kind: tar.TypeSymlink}}},
		{"a file through a symbolic link", []member{{name: "l", link: "/tmp", kind: tar.TypeSymlink}, {name: "l/x", data: "x"}}},
		{"a hard link", []member{{name: "l", link: "handler.py", kind: tar.TypeLink}}},
		{"a hard link out", []member{{name: "l", link: "/etc/shadow", kind: tar.TypeLink}}},
		{"a named pipe", []member{{name: "p", kind: tar.TypeFifo}}}, {"a disk", []member{{name: "d", kind: tar.TypeBlock}}},
		{"a terminal", []member{{name: "c", kind: tar.TypeChar}}}, {"a socket", []member{{name: "s", kind: typeSocket}}},
		{"a contiguous file", []member{{name: "a", kind: tar.TypeCont}}}, {"a volume's label", []member{{name: "a", kind: 'V'}}}, {"a multi-volume part", []member{{name: "a", kind: 'M'}}},
		{"too many files", many}, {"too many folders that are implied", of(implied...)},
		{"too much in one file", []member{{name: "a", data: noiseOf(800 << 10)}, {name: "b", data: strings.Repeat("0123456789abcdef", 100<<10)}}},
	}
}

// noiseOf does not compress much (Marsaglia's xorshift, six bits of each byte).
func noiseOf(n int) string {
	data := make([]byte, n)
	for i, x := 0, uint32(1); i < n; i++ {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		data[i] = byte(x) & 0x3f
	}
	return string(data)
}

// badTars are tars that are bad in a way that only tars can be.
func badTars() []struct {
	name string
	data []byte
} {
	good := tarBlock{member: member{name: "handler.py", data: goodHandler}}
	with := func(more ...tarBlock) []byte { return rawTar(append([]tarBlock{good}, more...)...) }
	x := func(change func(*tarBlock)) []byte {
		b := tarBlock{member: member{name: "x", data: "x"}}
		change(&b)
		return with(b)
	}
	long := func(kind byte, text string) []byte {
		return with(tarBlock{member: member{name: "././@LongLink", data: text, kind: kind}}, tarBlock{member: member{name: "x", data: "x"}})
	}
	whole := with()
	return []struct {
		name string
		data []byte
	}{
		{"a wrong checksum", x(func(b *tarBlock) { b.sum = "000001\x00 " })},
		{"a checksum that is no number", x(func(b *tarBlock) { b.sum = "zzzzzz\x00 " })},
		{"a size that is no number", x(func(b *tarBlock) { b.size = "zzzzzzzzzzz" })},
		{"a negative size", x(func(b *tarBlock) { b.size = "-0000000001" })},
		{"a negative size in base 256", x(func(b *tarBlock) { b.size = "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff" })},
		{"a size of petabytes", x(func(b *tarBlock) { b.size = "\x80\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff" })},
		{"a size beyond 64 bits", x(func(b *tarBlock) { b.size = "\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff" })},
		{"a size beyond the end", x(func(b *tarBlock) { b.size = "00000777777" })},
		{"a mode that is no number", x(func(b *tarBlock) { b.mode = "rwxrwx" })},
		{"a folder in the prefix that escapes", x(func(b *tarBlock) { b.prefix = "../.." })},
		{"an absolute prefix", x(func(b *tarBlock) { b.prefix = "/etc" })},
		{"no name", x(func(b *tarBlock) { b.name = "" })},
		{"a long name that escapes", long(tar.TypeGNULongName, "../../x\x00")},
		{"a long name of a megabyte and more", long(tar.TypeGNULongName, strings.Repeat("n", 1<<20+1))},
		{"a long link of a megabyte and more", long(tar.TypeGNULongLink, strings.Repeat("n", 1<<20+1))},
		{"a record whose path escapes", with(pax("path=../../x")...)},
		{"a record whose path is absolute", with(pax("path=/etc/x")...)},
		{"a record whose path has a zero byte", with(pax("path=a\x00b")...)},
		{"a record whose path has a line end", with(pax("path=a\nb")...)},
		{"a record with a negative size", with(pax("size=-1")...)},
		{"a record with a size beyond the end", with(pax("size=1000000")...)},
		{"a record with a size that is no number", with(pax("size=many")...)},
		{"a record that makes a sparse file", with(pax("GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=x", "GNU.sparse.realsize=99")...)},
		{"a record that makes an old sparse file", with(pax("GNU.sparse.size=1024", "GNU.sparse.numblocks=1", "GNU.sparse.map=0,1")...)},
		{"a record that makes a large sparse file", with(pax("GNU.sparse.size=8589934592", "GNU.sparse.numblocks=1", "GNU.sparse.map=8589934591,1")...)},
		{"records without a length", with(tarBlock{member: member{name: "p", data: "path=x\n", kind: tar.TypeXHeader}})},
		{"records with a length beyond them", with(tarBlock{member: member{name: "p", data: "99 path=x\n", kind: tar.TypeXHeader}})},
		{"records with a negative length", with(tarBlock{member: member{name: "p", data: "-9 path=x\n", kind: tar.TypeXHeader}})},
		{"records of a megabyte and more", with(tarBlock{member: member{name: "p", data: strings.Repeat("9 path=x\n", 1<<17), kind: tar.TypeXHeader}})},
		{"a sparse file of GNU", with(tarBlock{member: member{name: "x", data: "x", kind: tar.TypeGNUSparse}, magic: "ustar  \x00"})},
		{"a file of nobody's type", with(tarBlock{member: member{name: "x", kind: 'Z'}})},
		{"no end", whole[:len(whole)-len(tarEnd)]},
		{"half an end", whole[:len(whole)-len(tarEnd)+100]},
		{"half a header", append(slices.Clone(whole[:len(whole)-len(tarEnd)]), whole[:200]...)},
		{"half a file", whole[:blockSize+10]},
		{"something behind its end", append(slices.Clone(whole), "something"...)},
		{"another tar behind it", append(slices.Clone(whole), whole...)},
		{"only its end", []byte(tarEnd)},
		{"only folders", rawTar(tarBlock{member: member{name: "a/"}}, tarBlock{member: member{name: "b/"}})},
		{"only its own folder", rawTar(tarBlock{member: member{name: "./"}})},
		{"noise in place of a header", append(slices.Clone(whole[:len(whole)-len(tarEnd)]), noiseOf(blockSize)...)},
		{"megabytes of zeros behind its end", append(slices.Clone(whole), make([]byte, 4<<20)...)},
	}
}

// badStreams are compressed tars whose compression is bad.
func badStreams(t testing.TB) []struct {
	name string
	data []byte
} {
	plain := tarOf(t, file{"handler.py", goodHandler}, file{"data", noiseOf(4000)})
	gz, zs := gzipOf(t, plain), zstdOf(t, plain)
	change := func(data []byte, at int, bits byte) []byte {
		data = slices.Clone(data)
		data[(at+len(data))%len(data)] ^= bits
		return data
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	zeros := make([]byte, 3<<20)
	bomb := tarOf(t, file{"handler.py", goodHandler}, file{"zeros", string(zeros)})
	return []struct {
		name string
		data []byte
	}{
		{"gzip: cut off in its head", gz[:5]}, {"gzip: cut off in its data", gz[:len(gz)/2]}, {"gzip: cut off in its checksum", gz[:len(gz)-6]}, {"gzip: cut off in its length", gz[:len(gz)-1]},
		{"gzip: a wrong checksum", change(gz, -8, 1)}, {"gzip: a wrong length", change(gz, -4, 1)}, {"gzip: another method", change(gz, 2, 1)},
		{"gzip: a checksum of the head that is missing", change(gz, 3, 2)}, {"gzip: a name without end", change(gz[:12], 3, 8)}, {"gzip: damaged data", change(gz, len(gz)/2, 0xff)},
		{"gzip: noise behind it", join(gz, []byte(noiseOf(100)))}, {"gzip: a second one behind it", join(gz, gz)}, {"gzip: of nothing", gzipOf(t, nil)},
		{"gzip: of text", gzipOf(t, []byte(goodHandler))}, {"gzip: of a zip", gzipOf(t, zipOf(t, file{"handler.py", goodHandler}))}, {"gzip: of a gzip", gzipOf(t, gz)},
		{"gzip: a bomb", gzipOf(t, bomb)}, {"gzip: a bomb in a bomb", gzipOf(t, gzipOf(t, bomb))}, {"gzip: a thousand empty ones", join(bytes.Repeat(gzipOf(t, nil), 1000))},
		{"zstd: cut off in its head", zs[:5]}, {"zstd: cut off in its data", zs[:len(zs)/2]}, {"zstd: cut off in its checksum", zs[:len(zs)-2]}, {"zstd: a wrong checksum", change(zs, -1, 1)},
		{"zstd: a reserved bit", change(zs, 4, 8)}, {"zstd: a dictionary that nobody has", []byte("\x28\xb5\x2f\xfd\x01\x40\x07\x01\x00\x00")},
		{"zstd: a window of a gigabyte", []byte("\x28\xb5\x2f\xfd\x00\xa0\x01\x00\x00")}, {"zstd: a window of exabytes", []byte("\x28\xb5\x2f\xfd\x00\xf8\x01\x00\x00")},
		{"zstd: a block of a reserved type", []byte("\x28\xb5\x2f\xfd\x00\x40\x07\x00\x00")}, {"zstd: a block over its bound", []byte("\x28\xb5\x2f\xfd\x00\x40\xfd\xff\xff")},
		{"zstd: noise behind it", join(zs, []byte(noiseOf(100)))}, {"zstd: a second one behind it", join(zs, zs)}, {"zstd: of nothing", zstdOf(t, []byte{})},
		{"zstd: of text", zstdOf(t, []byte(goodHandler))}, {"zstd: of a zstd", zstdOf(t, zs)}, {"zstd: a bomb", zstdOf(t, bomb)},
		{"zstd: a frame to skip, beyond the end", []byte("\x28\xb5\x2f\xfd\x20\x00\x01\x00\x00\x50\x2a\x4d\x18\xff\xff\xff\xff")},
		{"zstd: a length that lies", change(zs, 5, 0xff)},
	}
}

// badFiles are bodies that are no archive that is read.
func badFiles() []struct {
	name string
	data []byte
} {
	return []struct {
		name string
		data []byte
	}{
		{"nothing", nil}, {"one zero byte", []byte{0}}, {"text", []byte(goodHandler)}, {"noise", []byte(noiseOf(5000))}, {"a program", []byte("\x7fELF" + strings.Repeat("\x00", 1000))},
		{"xz", []byte("\xfd7zXZ\x00rest")}, {"bzip2", []byte("BZh91AY&SY")}, {"7z", []byte("7z\xbc\xaf\x27\x1c")}, {"rar", []byte("Rar!\x1a\x07\x00")}, {"lz4", []byte("\x04\x22\x4d\x18")},
		{"cpio", []byte("070701")}, {"ar", []byte("!<arch>\n")}, {"a split zip", []byte("PK\x07\x08PK\x03\x04")}, {"a zip's first bytes", []byte("PK\x03\x04")}, {"a gzip's first bytes", []byte("\x1f\x8b")},
		{"a zstd's first bytes", []byte("\x28\xb5\x2f\xfd")}, {"a zip's end without the rest", []byte("PK\x05\x06")}, {"too much of a zip", []byte("PK\x03\x04" + strings.Repeat("x", int(badLimits().Compressed)))},
		{"JSON", []byte("{}")}, {"a form without its type", []byte("--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nx\r\n--b--\r\n")},
	}
}

// badZips are zips that are bad in a way that only zips can be.
func badZips(t testing.TB) []struct {
	name string
	data []byte
} {
	two := zipOf(t, file{"handler.py", goodHandler}, file{"two", "2"})
	end := bytes.LastIndex(two, []byte("PK\x05\x06"))
	central := func(n int) int {
		at := -1
		for range n + 1 {
			at += 1 + bytes.Index(two[at+1:], []byte("PK\x01\x02"))
		}
		return at
	}
	local := bytes.LastIndex(two, []byte("PK\x03\x04"))
	first, second := central(0), central(1)
	put := func(at int, bytes ...byte) []byte {
		data := slices.Clone(two)
		copy(data[at:], bytes)
		return data
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	return []struct {
		name string
		data []byte
	}{
		{"encrypted", put(second+8, 1)}, {"encrypted strongly", put(second+8, 0x41)}, {"bzip2 inside", join(put(local+8, 12)[:second+10], []byte{12}, two[second+11:])},
		{"a method that nobody knows", put(second+10, 99)}, {"another method in the header", put(local+8, 0)}, {"another name in the header", put(local+30, 'x')},
		{"a longer name in the header", put(local+26, 200)}, {"another name in the directory", put(second+46, 'x')}, {"a name that escapes in the directory only", join(put(second + 46)[:second+46], []byte("../"), two[second+49:])},
		{"two entries of one content", put(second+42, 0, 0, 0, 0)}, {"an entry inside another", put(second+42, 10)}, {"an entry beyond the end", put(second+42, 0xff, 0xff, 0xff, 0x7f)},
		{"contents beyond the end", put(second+20, 0xff, 0xff, 0xff, 0x7f)}, {"a size that is too large", put(second+24, 200)}, {"a size that is too small", put(second+24, 0)}, {"a wrong checksum", put(second+16, 1, 2, 3, 4)},
		{"a directory beyond the end", put(end+16, 0xff, 0xff, 0xff, 0x7f)}, {"a directory that begins elsewhere", put(end+16, 3)}, {"a directory that is larger", put(end+12, 0xff, 0xff)}, {"more entries than there are", put(end+10, 3)},
		{"fewer entries than there are", put(end+8, 1, 0, 1, 0)}, {"no entries", zipOf(t)}, {"entries as zip64 that is missing", put(end+8, 0xff, 0xff, 0xff, 0xff)},
		{"a comment that is missing", put(end+20, 5)}, {"something behind it", append(slices.Clone(two), 'x')}, {"cut off in its end", two[:len(two)-5]}, {"cut off in its directory", two[:second+10]}, {"cut off in its contents", two[:40]},
		{"no directory", two[:first]}, {"only a directory", two[first:]}, {"an extra field beyond its header", put(second+30, 0xff, 0xff)}, {"a zip64 size that lies", zip64(two, second, end)},
		{"damaged contents", put(local+34, 0xff, 0xff)}, {"a name of nothing", zipOfMembers(t, member{name: "handler.py", data: goodHandler}, member{name: "", data: "x"})},
		{"a zero byte in a name", zipOfMembers(t, member{name: "handler.py", data: goodHandler}, member{name: "a\x00b", data: "x"})}, {"a bomb", zipOf(t, file{"handler.py", string(make([]byte, 3<<20))})}, {"a bomb that denies its size", zipBomb(t, 1)}, {"a bomb of many files that deny theirs", zipBomb(t, 20)},
		{"only folders", zipOfMembers(t, member{name: "a/"}, member{name: "b/"})},
	}
}

// zip64 gives the second entry a size of exabytes by an extra field.
func zip64(two []byte, second, end int) []byte {
	extra := binary.LittleEndian.AppendUint16(nil, 1)
	extra = binary.LittleEndian.AppendUint16(extra, 16)
	extra = binary.LittleEndian.AppendUint64(extra, 1<<62)
	extra = binary.LittleEndian.AppendUint64(extra, 1<<62)
	data := slices.Clone(two[:end])
	copy(data[second+20:], "\xff\xff\xff\xff\xff\xff\xff\xff")
	data[second+30] = byte(len(extra))
	data = append(data, extra...)
	tail := slices.Clone(two[end:])
	binary.LittleEndian.PutUint32(tail[12:], binary.LittleEndian.Uint32(tail[12:])+uint32(len(extra)))
	return append(data, tail...)
}

// zipBomb holds 3 MiB of zeros in some files, the sizes of which it denies.
func zipBomb(t testing.TB, files int) []byte {
	t.Helper()
	var packed, b bytes.Buffer
	fw, err := flate.NewWriter(&packed, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	fw.Write(make([]byte, 3<<20/files))
	fw.Close()
	zw := zip.NewWriter(&b)
	for n := range files {
		w, err := zw.CreateRaw(&zip.FileHeader{Name: fmt.Sprintf("f%d", n), Method: zip.Deflate, CompressedSize64: uint64(packed.Len()), UncompressedSize64: 1})
		if err != nil {
			t.Fatal(err)
		}
		w.Write(packed.Bytes())
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func badArchives(t *testing.T) (rows []bad) {
	add := func(name string, data []byte) {
		if data != nil || strings.HasPrefix(name, "file") {
			rows = append(rows, bad{name: name, send: request("PUT", "/v1/functions/x", data)})
		}
	}
	form := func(name string, data []byte) {
		body, media := formOf(t, part{"file", "x.bin", string(data)})
		rows = append(rows, bad{name: name, send: request("POST", "/upload", body, "Content-Type", media, "Accept", api.MediaNDJSON)})
	}
	tars := func(name string, data []byte) {
		add("tar: "+name, data)
		add("tar.gz: "+name, gzipOf(t, data))
		add("tar.zst: "+name, zstdOf(t, data))
	}
	for _, c := range badMembers() {
		members := append([]member{{name: "handler.py", data: goodHandler}}, c.members...)
		if !slices.ContainsFunc(members, func(m member) bool { return m.kind == typeSocket }) {
			tars(c.name, tarOfMembers(members...))
		}
		zipped := zipOfMembers(t, members...)
		add("zip: "+c.name, zipped)
		if zipped != nil {
			form("zip in a form: "+c.name, zipped)
		}
	}
	for _, c := range badTars() {
		tars(c.name, c.data)
	}
	for _, c := range badStreams(t) {
		add(c.name, c.data)
	}
	for _, c := range badZips(t) {
		add("zip: "+c.name, c.data)
	}
	for _, c := range badFiles() {
		add("file: "+c.name, c.data)
	}
	return rows
}

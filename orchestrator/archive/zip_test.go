package archive_test

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/archive"
)

// central returns where the n-th directory header begins.
func central(t *testing.T, data []byte, n int) int {
	t.Helper()
	at := -1
	for range n + 1 {
		next := bytes.Index(data[at+1:], []byte("PK\x01\x02"))
		if next < 0 {
			t.Fatal("no such directory header")
		}
		at += 1 + next
	}
	return at
}

func TestUnpackRefusesZips(t *testing.T) {
	two := func() []byte { return makeZip(t, entry{name: "one", data: "1"}, entry{name: "two", data: "2"}) }
	cases := []struct {
		name string
		make func() []byte
		code string
	}{
		{"encrypted", func() []byte {
			data := two()
			data[central(t, data, 1)+8] |= 1
			return data
		}, "archive-zip-encrypted"},
		{"bzip2 inside", func() []byte {
			data := two()
			binary.LittleEndian.PutUint16(data[8:], 12)
			binary.LittleEndian.PutUint16(data[central(t, data, 0)+10:], 12)
			return data
		}, "archive-zip-method"},
		{"another name in the local header", func() []byte {
			data := two()
			copy(data[30:], "0ne")
			return data
		}, "archive-zip-mismatch"},
		{"another method in the local header", func() []byte {
			data := two()
			data[8] ^= 8
			return data
		}, "archive-zip-mismatch"},
		{"two entries of one content", func() []byte {
			data := two()
			copy(data[central(t, data, 1)+42:], []byte{0, 0, 0, 0}) // offset of the first
			return data
		}, "archive-zip-overlap"},
		{"contents beyond the end", func() []byte {
			data := two()
			binary.LittleEndian.PutUint32(data[central(t, data, 1)+20:], 1<<30)
			return data
		}, "archive-corrupt"},
		{"size in the directory too large", func() []byte {
			data := two()
			binary.LittleEndian.PutUint32(data[central(t, data, 0)+24:], 100)
			return data
		}, "archive-truncated"},
		{"size in the directory too small", func() []byte {
			data := makeZip(t, entry{name: "one", data: strings.Repeat("1", 1000)})
			binary.LittleEndian.PutUint32(data[central(t, data, 0)+24:], 1)
			return data
		}, "archive-corrupt"},
		{"fewer entries than the end says", func() []byte {
			data := two()
			binary.LittleEndian.PutUint16(data[len(data)-12:], 3)
			return data
		}, "archive-corrupt"},
		{"empty", func() []byte { return makeZip(t) }, "archive-empty"},
		{"the comment holds an end record", func() []byte {
			var b bytes.Buffer
			zw := zip.NewWriter(&b)
			if err := zw.SetComment("PK\x05\x06" + strings.Repeat("\x00", 30)); err != nil {
				t.Fatal(err)
			}
			if err := zw.Close(); err != nil {
				t.Fatal(err)
			}
			return append(b.Bytes(), 'x')
		}, "archive-trailing-data"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := unpack(t, c.make(), archive.DefaultLimits())
			wantError(t, err, orchestrator.ErrInvalid, c.code)
		})
	}
}

func TestUnpackZipWithCommentAndGaps(t *testing.T) {
	var b bytes.Buffer
	zw := zip.NewWriter(&b)
	for _, name := range []string{"one", "two"} {
		// Extra fields and stored contents that look like headers confuse nobody.
		header := &zip.FileHeader{Name: name, Method: zip.Store, Extra: append([]byte{0xfe, 0xca, 4, 0}, "PK\x03\x04"...)}
		w, err := zw.CreateHeader(header)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, strings.Repeat("PK\x03\x04", 20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := zw.SetComment("made by a test PK\x05\x06"); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	got, _, err := unpack(t, b.Bytes(), archive.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 {
		t.Errorf("got %v", got)
	}
}

// A directory with a million entries behind an end record that speaks of a few
// neither passes nor fills the memory.
func TestUnpackZipDirectoryBomb(t *testing.T) {
	const entries = 65536 + 1 // as 16 bits: 1
	var b bytes.Buffer
	zw := zip.NewWriter(&b)
	w, err := zw.Create("a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "x"); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	data := b.Bytes()
	at := central(t, data, 0)
	end := bytes.LastIndex(data, []byte("PK\x05\x06"))
	header, tail := bytes.Clone(data[at:end]), bytes.Clone(data[end:])
	data = append(data[:at:at], bytes.Repeat(header, entries)...)
	binary.LittleEndian.PutUint32(tail[12:], uint32(entries*len(header)))
	data = append(data, tail...)

	var before, after runtime.MemStats
	limits := small()
	limits.Compressed = 50 * orchestrator.MiB
	runtime.ReadMemStats(&before)
	_, _, err = unpack(t, data, limits)
	runtime.ReadMemStats(&after)
	wantError(t, err, orchestrator.ErrTooLarge, "archive-too-many-entries")
	if got := after.TotalAlloc - before.TotalAlloc; got > 8<<20 {
		t.Errorf("refusing it took %d bytes of memory", got)
	}
}

// The memory that reading takes does not grow with the contents.
func TestUnpackMemory(t *testing.T) {
	limits := archive.DefaultLimits()
	limits.Ratio = 100_000
	for format, c := range map[string]struct {
		size, most int
	}{
		"tar.gz":  {4 << 20, 1 << 20},
		"zip":     {4 << 20, 1 << 20},
		"tar.zst": {24 << 20, 16 << 20}, // the window is 8 MiB
	} {
		t.Run(format, func(t *testing.T) {
			data := makerOf(format)(t, entry{name: "a", data: strings.Repeat("\x00", c.size)})
			root := openRoot(t)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if _, err := archive.Unpack(t.Context(), bytes.NewReader(data), root, limits); err != nil {
				t.Fatal(err)
			}
			runtime.ReadMemStats(&after)
			if got := int(after.TotalAlloc - before.TotalAlloc); got > c.most {
				t.Errorf("unpacking %d bytes allocated %d", c.size, got)
			}
		})
	}
}

package archive_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/archive"
)

// FuzzUnpack: never a panic, nothing outside the folder, never more than the
// limits, an error of the right class, and what is accepted can be packed and
// unpacked again to the same bytes.
func FuzzUnpack(f *testing.F) {
	for _, m := range makers {
		f.Add(m.make(f, entry{name: "handler.py", data: "x"}))
		f.Add(m.make(f, entry{name: "./a/b", data: "x"}, entry{name: "a/"}, entry{name: "ü", data: "y"}))
		f.Add(m.make(f, entry{name: "../a", data: "x"}))
		f.Add(m.make(f, entry{name: "a", mode: os.ModeSymlink, data: "/tmp"}, entry{name: "a/b", data: "x"}))
	}
	var many []entry
	for n := range small().Entries + 1 {
		many = append(many, entry{name: fmt.Sprint(n), data: "x"})
	}
	f.Add(makeTar(f, many...))
	f.Add(makeZip(f, entry{name: "a", data: noise(4<<10) + strings.Repeat("0123456789", 7<<10)})) // over the limit of the test, not over the ratio
	f.Add([]byte("\x28\xb5\x2f\xfd\x00\xa0\x01\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		limits := small()
		limits.Unpacked = 64 * orchestrator.KiB
		got, summary, err := unpack(t, data, limits)
		var size int
		for path, content := range got {
			if content != "folder" {
				size += len(content)
			}
			if checkErr := archive.CheckPath(path); checkErr != nil {
				t.Errorf("%q was written: %v", path, checkErr)
			}
		}
		if size > int(limits.Unpacked)+4*len(got) || len(got) > limits.Entries {
			t.Errorf("%d bytes in %d entries were written", size, len(got))
		}
		if err != nil {
			var classed *orchestrator.Error
			if !errors.As(err, &classed) || !errors.Is(err, orchestrator.ErrInvalid) && !errors.Is(err, orchestrator.ErrTooLarge) {
				t.Fatalf("%d bytes: class of %v", len(data), err)
			}
			return
		}
		if summary.Files == 0 || summary.Files+summary.Folders != len(got) {
			t.Errorf("summary %+v of %v", summary, got)
		}
		again(t, data, limits)
	})
}

// again packs what data unpacks to, unpacks that, and packs it again.
func again(t *testing.T, data []byte, limits archive.Limits) {
	t.Helper()
	var packed [2][]byte
	for i := range packed {
		dir := filepath.Join(t.TempDir(), "x")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Unpack(t.Context(), bytes.NewReader(data), root, limits); err != nil {
			t.Fatal(err)
		}
		packed[i] = pack(t, root.FS())
		if err := root.Close(); err != nil {
			t.Fatal(err)
		}
		data = packed[i]
	}
	if !bytes.Equal(packed[0], packed[1]) {
		t.Error("packing is not canonical")
	}
}

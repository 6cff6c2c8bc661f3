package cell_test

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/templates"
	"github.com/kilnfaas/kiln/templates/shared/host"
)

// loadEntry is an entry of a load that a test makes.
type loadEntry struct {
	name, data string
	kind       byte // 0 = a file
	link       string
	records    map[string]string
}

func loadOf(t testing.TB, env map[string]string, entries ...loadEntry) []byte {
	t.Helper()
	return secretLoadOf(t, env, nil, entries...)
}

func secretLoadOf(t testing.TB, env map[string]string, secrets map[string][]byte, entries ...loadEntry) []byte {
	t.Helper()
	head, err := templates.LoadHead(env, secrets)
	if err != nil {
		t.Fatal(err)
	}
	out := bytes.NewBuffer(head)
	tw := tar.NewWriter(out)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: e.kind, Linkname: e.link, Size: int64(len(e.data)), Mode: 0o755, PAXRecords: e.records}
		if e.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(e.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// hostileLoads are loads that must not be unpacked, and why.
func hostileLoads(t testing.TB) map[string][]byte {
	link := func(name, target string) loadEntry {
		return loadEntry{name: name, kind: tar.TypeSymlink, link: target}
	}
	sparse := loadOf(t, nil, loadEntry{name: "function/x", data: "x", records: map[string]string{"GNX.sparse.size": "1048576", "GNX.sparse.numblocks": "1", "GNX.sparse.map": "1048575,1"}})
	long := loadOf(t, nil, loadEntry{name: "function/a", data: strings.Repeat("x", 2000)})
	return map[string][]byte{
		"outside":                         loadOf(t, nil, loadEntry{name: "tmp/x", data: "x"}),
		"a name that begins alike":        loadOf(t, nil, loadEntry{name: "functions/x", data: "x"}),
		"a parent":                        loadOf(t, nil, loadEntry{name: "function/../x", data: "x"}),
		"an absolute path":                loadOf(t, nil, loadEntry{name: "/function/x", data: "x"}),
		"the folder as a file":            loadOf(t, nil, loadEntry{name: "function", data: "x"}),
		"twice":                           loadOf(t, nil, loadEntry{name: "function/x"}, loadEntry{name: "function/x"}),
		"a link out":                      loadOf(t, nil, link("function/x", "../tmp")),
		"an absolute link":                loadOf(t, nil, link("function/x", "/tmp")),
		"a link out through another":      loadOf(t, nil, link("function/d/a", ".."), link("function/x", "d/a/..")),
		"a link made through another":     loadOf(t, nil, link("function/d/e", ".."), link("function/d/e/f", ".."), link("function/f/made", "x")),
		"a link in a circle":              loadOf(t, nil, link("function/x", "x")),
		"a device":                        loadOf(t, nil, loadEntry{name: "function/x", kind: tar.TypeChar}),
		"a hard link":                     loadOf(t, nil, loadEntry{name: "function/x", kind: tar.TypeLink, link: "env.json"}),
		"a file that is larger than sent": bytes.ReplaceAll(sparse, []byte("GNX"), []byte("GNU")),
		"truncated":                       long[:1800],
		"noise":                           bytes.Repeat([]byte("noise"), 200),
		"an environment that is a list":   bytes.Replace(loadOf(t, map[string]string{"A": "b"}), []byte(`{"A":"b"}`), []byte(`["A","b"]`), 1),
		"a secret outside":                secretLoadOf(t, nil, map[string][]byte{"../x": []byte("v")}),
		"a secret in a folder":            secretLoadOf(t, nil, map[string][]byte{"a/b": []byte("v")}),
		"a secret that is a folder":       secretLoadOf(t, nil, map[string][]byte{"..": []byte("v")}),
		"a secret without a name":         secretLoadOf(t, nil, map[string][]byte{"": []byte("v")}),
		"secrets twice":                   loadOf(t, nil, loadEntry{name: "secrets.json", data: `{"a":"dg=="}`}, loadEntry{name: "secrets.json", data: `{"a":"dg=="}`}),
		"secrets that are a list":         loadOf(t, nil, loadEntry{name: "secrets.json", data: `["dg=="]`}),
		"secrets that are no base64":      loadOf(t, nil, loadEntry{name: "secrets.json", data: `{"a":"?"}`}),
		"secrets that end":                loadOf(t, nil, loadEntry{name: "secrets.json", data: `{"a":"dg`}),
		"an environment of numbers":       bytes.Replace(loadOf(t, map[string]string{"A": "b"}), []byte(`"b"`), []byte(`123`), 1),
	}
}

func TestHostileLoads(t *testing.T) {
	for name, load := range hostileLoads(t) {
		t.Run(name, func(t *testing.T) {
			if err := unpackLoad(t, load); err == nil {
				t.Error("it was unpacked")
			}
		})
	}
	good := loadOf(t, map[string]string{"A": "b"}, loadEntry{name: "function/", kind: tar.TypeDir}, loadEntry{name: "function/a/b", data: "x"},
		loadEntry{name: "function/l", kind: tar.TypeSymlink, link: "a"}, loadEntry{name: "function/a/m", kind: tar.TypeSymlink, link: "../l/b"}, loadEntry{name: "function/missing", kind: tar.TypeSymlink, link: "nothing"})
	if err := unpackLoad(t, good); err != nil {
		t.Errorf("a good load: %v", err)
	}
	if err := unpackLoad(t, secretLoadOf(t, nil, map[string][]byte{"API_KEY": {0, 255}, "b.c": []byte("v")}, loadEntry{name: "function/x"})); err != nil {
		t.Errorf("a good load with secrets: %v", err)
	}
}

// FuzzLoad: whatever is loaded, never a panic, nothing written or linked outside
// the function's folder, and no more written than was sent.
func FuzzLoad(f *testing.F) {
	for _, load := range hostileLoads(f) {
		f.Add(load)
	}
	f.Fuzz(func(t *testing.T, load []byte) {
		_ = unpackLoad(t, load) // an error is as good; what it leaves is checked
	})
}

// unpackLoad unpacks a load and checks what is there then.
func unpackLoad(t *testing.T, load []byte) error {
	t.Helper()
	outer := t.TempDir()
	dir := filepath.Join(outer, "inner")
	secrets := filepath.Join(dir, orchestrator.SecretsPath)
	if err := os.MkdirAll(secrets, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := host.Unpack(bytes.NewReader(load), dir)
	var size int64
	walkErr := filepath.WalkDir(outer, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		inside := name == filepath.Join(dir, "function") || strings.HasPrefix(name, filepath.Join(dir, "function")+"/")
		mounted := name == outer || name == dir || name == secrets || name == filepath.Dir(secrets)
		if !mounted && !inside && filepath.Dir(name) != secrets {
			t.Errorf("%s was made", name)
		}
		if info, err := d.Info(); err == nil && d.Type().IsRegular() {
			size += info.Size()
			if !inside && info.Mode() != 0o400 {
				t.Errorf("the secret %s has the mode %v", name, info.Mode())
			}
		}
		return nil
	})
	if walkErr != nil {
		t.Fatal(walkErr)
	}
	if size > int64(len(load)) {
		t.Errorf("%d bytes of a load became %d", len(load), size)
	}
	if err == nil {
		checkLinks(t, dir)
	}
	return err
}

// checkLinks fails the test if a link leads out of the function's folder.
func checkLinks(t *testing.T, dir string) {
	t.Helper()
	base, err := filepath.EvalSymlinks(filepath.Join(dir, "function"))
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(base, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink == 0 {
			return err
		}
		end, err := filepath.EvalSymlinks(name)
		if err == nil && end != base && !strings.HasPrefix(end, base+"/") {
			t.Errorf("%s leads to %s", name, end)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

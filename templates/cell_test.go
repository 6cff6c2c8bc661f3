package templates_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/templates"
)

const cellToken = "the-token-of-this-cell-0123456789"

var (
	cellMu     sync.Mutex // guards cellImages
	cellImages = map[string]string{}
)

// cellImage builds a template's cell image once; it stays with the base images.
func cellImage(t *testing.T, c *templates.Catalogue, tmpl orchestrator.Template) string {
	t.Helper()
	cellMu.Lock()
	defer cellMu.Unlock()
	if ref, ok := cellImages[tmpl.Name]; ok {
		return ref
	}
	ref := "kiln-templates-test/cell-" + tmpl.Name + ":" + strings.ToLower(rand.Text()[:8])
	files := composeContext(t, c, tmpl, nil)
	out, err := buildImage(t, files, buildOptions{builder: buildKit, tag: ref, target: templates.CellTarget, args: resolveBases(t, c, tmpl)})
	if err != nil {
		t.Fatalf("%v\n%s", err, tail(out, 6000))
	}
	cellImages[tmpl.Name] = ref
	return ref
}

func TestMain(m *testing.M) {
	m.Run()
	for _, ref := range cellImages {
		dockerErr("image", "rm", "--no-prune", ref)
	}
}

// runCell starts a cell that is ready to be loaded.
func runCell(t *testing.T, c *templates.Catalogue, tmpl orchestrator.Template) *instance {
	t.Helper()
	env := map[string]string{"KILN_CELL": "1", "KILN_CELL_TOKEN": cellToken, "PORT": "8080"}
	i := runImage(t, cellImage(t, c, tmpl), cellArgs, env)
	i.waitReady()
	return i
}

// runCells starts cells of a template in one container, each at a port of its own:
// most of the time that a cell takes is its container's. They share their folders,
// so they are for loads that are refused.
func runCells(t *testing.T, c *templates.Catalogue, tmpl orchestrator.Template, n int) []*instance {
	t.Helper()
	image := cellImage(t, c, tmpl)
	var start []string
	if err := json.Unmarshal([]byte(docker(t, "image", "inspect", "--format", "{{json .Config.Entrypoint}}", image)), &start); err != nil {
		t.Fatal(err)
	}
	const script = `for port in $PORTS; do PORT=$port "$@" & done; wait`
	ports := make([]string, n)
	for k := range ports {
		ports[k] = strconv.Itoa(8080 + k)
	}
	env := map[string]string{"KILN_CELL": "1", "KILN_CELL_TOKEN": cellToken, "PORTS": strings.Join(ports, " ")}
	args := append(slices.Clone(cellArgs), "--memory", "1g", "--entrypoint", "/bin/sh")
	first := runImage(t, image, args, env, append([]string{"-c", script, "sh"}, start...)...)
	cells := make([]*instance, n)
	for k, port := range ports {
		i := *first
		i.addr = net.JoinHostPort(strings.TrimSuffix(first.addr, ":8080"), port)
		i.base = "http://" + i.addr
		i.waitReady()
		cells[k] = &i
	}
	return cells
}

// functionTar reads the code that a cell needs out of a function's image.
func functionTar(t *testing.T, image string) []byte {
	t.Helper()
	id := docker(t, "create", "--label", ownerLabel, image)
	t.Cleanup(func() { dockerErr("rm", id) })
	ctx, cancel := context.WithTimeout(t.Context(), dockerTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/v1.41/containers/"+id+"/archive?path="+templates.CodePath, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := engineClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("copy %s out of %s: %d %v", templates.CodePath, image, response.StatusCode, err)
	}
	return data
}

// load sends code to a cell.
func (i *instance) load(token string, env map[string]string, code []byte) answer {
	i.t.Helper()
	return i.loadSecrets(token, env, nil, code)
}

func (i *instance) loadSecrets(token string, env map[string]string, secrets map[string][]byte, code []byte) answer {
	i.t.Helper()
	head, err := templates.LoadHead(env, secrets)
	if err != nil {
		i.t.Fatal(err)
	}
	header := http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/x-tar"}}
	return i.send(http.MethodPost, "/_kiln/load", header, io.MultiReader(bytes.NewReader(head), bytes.NewReader(code)))
}

func (i *instance) mustLoad(env map[string]string, code []byte) {
	i.t.Helper()
	if got := i.load(cellToken, env, code); got.status != 200 {
		i.t.Fatalf("load: got %d %s, want 200", got.status, got.body)
	}
}

// codeTar packs files as a load's code.
func codeTar(t *testing.T, files map[string]templates.File) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	writeFiles(t, w, "function/", files)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func cellTemplates(c *templates.Catalogue) []orchestrator.Template {
	return slices.DeleteFunc(c.Templates(), func(t orchestrator.Template) bool { return !t.Cells })
}

func TestCell_refusesBeforeItIsLoaded(t *testing.T) {
	requireDocker(t)
	c := embedded(t)
	for _, tmpl := range cellTemplates(c) {
		t.Run(tmpl.Name, func(t *testing.T) {
			i := runCell(t, c, tmpl)
			if logs := i.logs(); logs != "" {
				t.Errorf("a waiting cell said %q", logs)
			}
			checkProblem(t, i.get("/"), 503, "cell-empty")
			if got := i.get("/_kiln/ready").header.Get("Kiln-Cell"); got != "empty" {
				t.Errorf("Kiln-Cell: got %q, want empty", got)
			}
			for _, token := range []string{"", "wrong", cellToken + "x", cellToken[1:]} {
				// Some of it still comes when the answer is there.
				if got := i.load(token, nil, make([]byte, 64<<10)); got.status != 401 {
					t.Errorf("token %q: got %d, want 401", token, got.status)
				}
				if got := i.load(token, nil, nil); got.status != 401 {
					t.Errorf("token %q: got %d, want 401", token, got.status)
				}
			}
		})
	}
}

// TestCell_refusesBadCode loads what cannot work: the caller gets the reason, and
// the cell is used up.
func TestCell_refusesBadCode(t *testing.T) {
	requireDocker(t)
	c := embedded(t)
	bad := map[string]map[string]templates.File{
		"python": {"handler.py": text("def handle(request:\n")},
		"node":   {"handler.js": text("export default async (request => {")},
		"go":     {"handler": script("no program\n")},
		"exec":   {"handler": text("no program\n")},
		"cdylib": {"kit.so": text("no library\n")},
	}
	reasons := map[string]string{
		"python": "SyntaxError", "node": "SyntaxError", "go": "execute /function/handler",
		"exec": "not an executable file", "cdylib": "kit.so",
	}
	for _, tmpl := range cellTemplates(c) {
		t.Run(tmpl.Name, func(t *testing.T) {
			i := runCell(t, c, tmpl)
			env := map[string]string{"KILN_FUNCTION": "kit"}
			got := i.load(cellToken, env, codeTar(t, bad[tmpl.Name]))
			if got.status != 422 || !strings.Contains(got.body, reasons[tmpl.Name]) {
				t.Errorf("got %d %s, want 422 with %q", got.status, got.body, reasons[tmpl.Name])
			}
			if got := i.load(cellToken, env, nil); got.status != 409 {
				t.Errorf("the second load: got %d, want 409", got.status)
			}
			if !i.running() {
				t.Error("the cell ended")
			}
		})
	}
}

func TestCell_refusesPathsThatEscape(t *testing.T) {
	requireDocker(t)
	c := embedded(t)
	loads := map[string][]byte{
		"outside":       tarOf(t, map[string]templates.File{"tmp/x": text("x")}),
		"dots":          tarOf(t, map[string]templates.File{"function/../tmp/x": text("x")}),
		"absolute":      tarOf(t, map[string]templates.File{"/tmp/x": text("x")}),
		"link":          linkTar(t, "function/x", "../tmp"),
		"absolute link": linkTar(t, "function/x", "/tmp"),
		"truncated":     codeTar(t, map[string]templates.File{"a": text(strings.Repeat("x", 2000))})[:1500],
	}
	for _, tmpl := range cellTemplates(c) {
		if tmpl.Name == "go" || tmpl.Name == "cdylib" {
			continue // they unpack as exec does, with the host package
		}
		cells := runCells(t, c, tmpl, len(loads))
		for name, load := range loads {
			t.Run(tmpl.Name+"/"+name, func(t *testing.T) {
				cell := cells[0]
				cells, cell.t = cells[1:], t
				got := cell.load(cellToken, nil, load)
				if got.status != 422 || !strings.Contains(got.body, "unpacked") {
					t.Errorf("got %d %s, want 422 about unpacking", got.status, got.body)
				}
			})
		}
	}
}

func linkTar(t *testing.T, name, target string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestCell_secondLoad proves that a loaded cell stays what it is.
func TestCell_secondLoad(t *testing.T) {
	requireDocker(t)
	c := embedded(t)
	code := map[string]templates.File{
		"handler.py": text("import os\ndef handle(request): return os.environ['WHO']\n"),
	}
	tmpl, err := c.Template("python")
	if err != nil {
		t.Fatal(err)
	}
	i := runCell(t, c, tmpl)
	long := strings.Repeat("deep/", 40) + "file.txt" // a name that needs an extended header
	code[long] = text("x")
	i.mustLoad(map[string]string{"WHO": "first\n\"ü"}, codeTar(t, code))
	if got := i.get("/"); got.body != "first\n\"ü" {
		t.Errorf("got %q, want first", got.body)
	}
	if got := i.load(cellToken, map[string]string{"WHO": "second"}, codeTar(t, code)); got.status != 409 {
		t.Errorf("the second load: got %d %s, want 409", got.status, got.body)
	}
	if got := i.get("/_kiln/ready").header.Get("Kiln-Cell"); got != "loaded" {
		t.Errorf("Kiln-Cell: got %q, want loaded", got)
	}
	if got := i.get("/"); got.body != "first\n\"ü" {
		t.Errorf("after the second load: got %q, want first", got.body)
	}
}

// TestPythonCell_rehearsalLeavesNothing: a function finds what it would find
// without, and one thread, for with a concurrency of 1 it counts on that.
func TestPythonCell_rehearsalLeavesNothing(t *testing.T) {
	requireDocker(t)
	c := embedded(t)
	tmpl, err := c.Template("python")
	if err != nil {
		t.Fatal(err)
	}
	i := runCell(t, c, tmpl)
	i.mustLoad(map[string]string{"KILN_CONCURRENCY": "1"}, codeTar(t, map[string]templates.File{"handler.py": {Mode: 0o644, Data: []byte(`
import os, sys, threading
def handle(request):
    workers = [t.name for t in threading.enumerate() if t.name.startswith("worker-")]
    return {"workers": workers, "tmp": os.listdir("/tmp"), "path": [p for p in sys.path if p.startswith("/tmp")]}
`)}}))
	if got, want := string(i.get("/").body), `{"workers": ["worker-1"], "tmp": [], "path": []}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestLoadHead(t *testing.T) {
	env := map[string]string{"A": "1", "B": "ü\n"}
	head, err := templates.LoadHead(maps.Clone(env), map[string][]byte{"K": {1}})
	if err != nil {
		t.Fatal(err)
	}
	if len(head)%512 != 0 {
		t.Errorf("%d bytes are no whole blocks", len(head))
	}
	r := tar.NewReader(io.MultiReader(bytes.NewReader(head), bytes.NewReader(codeTar(t, map[string]templates.File{"x": text("y")}))))
	first, err := r.Next()
	if err != nil || first.Name != "env.json" {
		t.Fatalf("got %v %v, want env.json first", first, err)
	}
	var got map[string]string
	if err := json.NewDecoder(r).Decode(&got); err != nil || !maps.Equal(got, env) {
		t.Errorf("got %v %v, want %v", got, err, env)
	}
	var secrets map[string][]byte
	if next, err := r.Next(); err != nil || next.Name != "secrets.json" || json.NewDecoder(r).Decode(&secrets) != nil || !bytes.Equal(secrets["K"], []byte{1}) {
		t.Errorf("got %v %v %v, want the secrets to follow", next, err, secrets)
	}
	if next, err := r.Next(); err != nil || next.Name != "function/x" {
		t.Errorf("got %v %v, want the code to follow", next, err)
	}
}

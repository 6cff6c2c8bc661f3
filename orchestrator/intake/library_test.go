package intake_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/intake"
)

// library is a shared library as far as its symbols go.
type library struct {
	symbols  []string // functions
	imported []string
	data     []string // variables
	kind     elf.Type // 0 means ET_DYN
	machine  elf.Machine
}

// bytes makes an ELF file of three sections: none, .dynstr, .dynsym.
func (l library) bytes() []byte {
	if l.kind == 0 {
		l.kind = elf.ET_DYN
	}
	if l.machine == 0 {
		l.machine = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH]
	}
	names := []byte("\x00.dynstr\x00.dynsym\x00")
	symbols := []elf.Sym64{{}}
	add := func(list []string, kind elf.SymType, section elf.SectionIndex) {
		for _, name := range list {
			symbols = append(symbols, elf.Sym64{Name: uint32(len(names)), Info: elf.ST_INFO(elf.STB_GLOBAL, kind), Shndx: uint16(section)})
			names = append(names, name+"\x00"...)
		}
	}
	add(l.symbols, elf.STT_FUNC, 1)
	add(l.imported, elf.STT_FUNC, elf.SHN_UNDEF)
	add(l.data, elf.STT_OBJECT, 1)
	const headerSize, sectionSize, symbolSize = 64, 64, 24
	symbolsAt := headerSize + len(names)
	sectionsAt := symbolsAt + len(symbols)*symbolSize
	header := elf.Header64{Type: uint16(l.kind), Machine: uint16(l.machine), Version: 1, Shoff: uint64(sectionsAt),
		Ehsize: headerSize, Shentsize: sectionSize, Shnum: 3, Shstrndx: 1}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS], header.Ident[elf.EI_DATA], header.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	sections := []elf.Section64{{},
		{Name: 1, Type: uint32(elf.SHT_STRTAB), Off: headerSize, Size: uint64(len(names))},
		{Name: 9, Type: uint32(elf.SHT_DYNSYM), Off: uint64(symbolsAt), Size: uint64(len(symbols) * symbolSize), Link: 1, Info: 1, Entsize: symbolSize}}
	var b bytes.Buffer
	for _, part := range []any{header, names, symbols, sections} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			panic(err) // fixed sizes into memory
		}
	}
	return b.Bytes()
}

func TestReceiveLibrary(t *testing.T) {
	other := elf.EM_PPC64
	for _, c := range []struct {
		name      string
		library   library
		filename  string
		overrides string
		code      string // of the error, empty for none
		text      string
	}{
		{"the symbol is the name", library{symbols: []string{"other", "hello"}}, "hello.so", "", "", ""},
		{"dashes are underscores", library{symbols: []string{"resize_image"}}, "resize-image.so", "", "", ""},
		{"named otherwise", library{symbols: []string{"main_2"}}, "hello.so", "handler: ':main_2'", "", ""},
		{"not exported", library{symbols: []string{"other"}}, "hello.so", "", "library-symbol", `does not export hello but "other"`},
		{"exports nothing", library{}, "hello.so", "", "library-symbol", "but nothing"},
		{"imported only", library{imported: []string{"hello"}}, "hello.so", "", "library-symbol", "but nothing"},
		{"a variable", library{data: []string{"hello"}}, "hello.so", "", "library-symbol", "but nothing"},
		{"a program", library{symbols: []string{"hello"}, kind: elf.ET_EXEC}, "hello.so", "", "library-invalid", "ET_EXEC"},
		{"an object", library{symbols: []string{"hello"}, kind: elf.ET_REL}, "hello.so", "", "library-invalid", "ET_REL"},
		{"another machine", library{symbols: []string{"hello"}, machine: other}, "hello.so", "", "library-architecture", "EM_PPC64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			single := intake.Upload{Body: bytes.NewReader(c.library.bytes()), Filename: c.filename, Overrides: overrides(c.overrides)}
			zipped := intake.Upload{
				Body:      bytes.NewReader(files{c.filename: string(c.library.bytes())}.zipped(t)),
				Filename:  strings.Replace(c.filename, ".so", ".zip", 1),
				Overrides: overrides(c.overrides, "template: cdylib"),
			}
			for _, upload := range []intake.Upload{single, zipped} {
				spec, _, err := newBench(t).Receive(t.Context(), upload)
				if c.code == "" {
					if err != nil || spec.Template != "cdylib" {
						t.Errorf("%s: got %+v, %v", upload.Filename, spec, err)
					}
					continue
				}
				if got := wantError(t, err, orchestrator.ErrInvalid, c.code); !strings.Contains(got.Detail, c.text) {
					t.Errorf("%s: got %q, want %q in it", upload.Filename, got.Detail, c.text)
				}
			}
		})
	}
}

func TestReceiveLibraries(t *testing.T) {
	hello := string(library{symbols: []string{"hello"}}.bytes())
	two := files{"hello.so": hello, "libdep.so": string(library{}.bytes())}
	_, _, err := newBench(t).Receive(t.Context(), intake.Upload{Body: bytes.NewReader(two.zipped(t)), Filename: "hello.zip"})
	if got := wantError(t, err, orchestrator.ErrInvalid, "handler-ambiguous"); !strings.Contains(got.Detail, "libdep.so") {
		t.Errorf("got %q", got.Detail)
	}
	spec, _, err := newBench(t).Receive(t.Context(), intake.Upload{Body: bytes.NewReader(two.zipped(t)), Filename: "hello.zip", Overrides: overrides("template: cdylib\nhandler: hello.so")})
	if err != nil || spec.Handler != "hello.so" {
		t.Errorf("got %+v, %v", spec, err)
	}
}

func TestReceiveLibraryWithSource(t *testing.T) {
	both := files{"hello.so": string(library{symbols: []string{"hello"}}.bytes()), "hello.c": "int hello(void);"}
	if _, _, err := newBench(t).Receive(t.Context(), intake.Upload{Body: bytes.NewReader(both.zipped(t)), Filename: "hello.zip"}); err != nil {
		t.Error(err)
	}
	spec, _, err := newBench(t).Receive(t.Context(), intake.Upload{Body: strings.NewReader("int hello(void) { return 1; }"), Filename: "hello.c"})
	if err != nil || spec.Template != "cdylib" {
		t.Errorf("got %+v, %v", spec, err)
	}
}

// What a compiler makes is accepted.
func TestReceiveCompiledLibrary(t *testing.T) {
	compiler, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("there is no C compiler")
	}
	dir := t.TempDir()
	source := filepath.Join(dir, "hello.c")
	if err := os.WriteFile(source, []byte("#include <stdint.h>\nint32_t my_func(void) { return 42; }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	built := filepath.Join(dir, "hello.so")
	if out, err := exec.Command(compiler, "-shared", "-fPIC", "-s", "-o", built, source).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(built)
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	spec, digest, err := b.Receive(t.Context(), intake.Upload{Body: bytes.NewReader(data), Filename: "my-func.so"})
	if err != nil {
		t.Fatal(err)
	}
	if spec.Name != "my-func" || spec.Template != "cdylib" {
		t.Errorf("got %+v", spec)
	}
	if got := b.tree(t, digest)["my-func.so"]; got != "755 "+string(data) {
		t.Errorf("the library is not what was stored (%d bytes)", len(got))
	}
}

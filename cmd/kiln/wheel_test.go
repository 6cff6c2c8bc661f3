package main_test

import (
	"archive/zip"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
)

// writeWheel writes a pure Python wheel with the module kilnwheel, a
// third-party dependency for machines that reach no package index. Pip insists on
// the file name kilnwheel-1.2.3-py3-none-any.whl.
func writeWheel(path string) error {
	files := []struct{ name, content string }{
		{"kilnwheel/__init__.py", "VERSION = '1.2.3'\n\n\ndef shout(text):\n    return text.upper() + '!'\n"},
		{"kilnwheel-1.2.3.dist-info/METADATA", "Metadata-Version: 2.1\nName: kilnwheel\nVersion: 1.2.3\n"},
		{"kilnwheel-1.2.3.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: kiln-test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
	}
	var record strings.Builder
	for _, f := range files {
		sum := sha256.Sum256([]byte(f.content))
		fmt.Fprintf(&record, "%s,sha256=%s,%d\n", f.name, base64.RawURLEncoding.EncodeToString(sum[:]), len(f.content))
	}
	const recordName = "kilnwheel-1.2.3.dist-info/RECORD"
	fmt.Fprintf(&record, "%s,,\n", recordName)
	files = append(files, struct{ name, content string }{recordName, record.String()})

	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	archive := zip.NewWriter(file)
	for _, f := range files {
		w, err := archive.Create(f.name)
		if err != nil {
			return err
		}
		if _, err := w.Write([]byte(f.content)); err != nil {
			return err
		}
	}
	return archive.Close()
}

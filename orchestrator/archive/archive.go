// Package archive reads what strangers send and packs what Kiln keeps.
//
// Unpack reads a zip, tar, tar.gz or tar.zst, recognised by content, into a
// folder that the caller made and removes. Pack writes a folder as the
// canonical tar: the same tree gives the same bytes whatever it came in, so
// that a digest of it identifies the code. Sources hides what the command line
// leaves out of a folder before it is packed.
//
// Reading trusts nothing. Sizes in headers are ignored and bytes counted, every
// name is checked before anything is written, links and devices are refused,
// and files are written through an os.Root, which no name and no link can leave.
// Memory is bounded by the limits and does not grow with the contents.
//
// Every error is an *orchestrator.Error: ErrInvalid for a bad archive,
// ErrTooLarge for one over a limit, ErrDeadline when the context ended, and
// ErrUnavailable or ErrExhausted when the machine is at fault.
package archive

import "github.com/kilnfaas/kiln/orchestrator"

// Limits bound what is read and written. All are counted on bytes that were
// actually read or written. The zero value allows nothing; begin with
// DefaultLimits.
type Limits struct {
	Compressed orchestrator.Bytes // of the archive as it was sent
	Unpacked   orchestrator.Bytes // of the contents of all files
	Entries    int                // files and folders, the implied ones too
	Depth      int                // components of a path
	Path       int                // bytes of a path
	Name       int                // bytes of one component
	Ratio      int64              // unpacked bytes for each compressed one
	RatioFloor orchestrator.Bytes // unpacked size below which the ratio does not matter
}

// Defaults of Limits, and their reasons.
const (
	defaultCompressed = 50 * orchestrator.MiB
	defaultUnpacked   = 250 * orchestrator.MiB
	defaultEntries    = 20_000
	defaultDepth      = 32                    // deep node_modules reach about 20
	defaultPath       = 1024                  // a quarter of the kernel's, room for a prefix
	defaultName       = 255                   // the kernel's
	defaultRatio      = 200                   // source code reaches 10, logs and zeros in test data 100
	defaultRatioFloor = 16 * orchestrator.MiB // tiny archives compress absurdly well and do no harm
)

// DefaultLimits returns the limits for archives from clients.
func DefaultLimits() Limits {
	return Limits{
		Compressed: defaultCompressed,
		Unpacked:   defaultUnpacked,
		Entries:    defaultEntries,
		Depth:      defaultDepth,
		Path:       defaultPath,
		Name:       defaultName,
		Ratio:      defaultRatio,
		RatioFloor: defaultRatioFloor,
	}
}

// Summary says what was read or packed.
type Summary struct {
	Format     Format
	Files      int
	Folders    int                // the implied ones too
	Compressed orchestrator.Bytes // as it was read
	Unpacked   orchestrator.Bytes // contents of all files
}

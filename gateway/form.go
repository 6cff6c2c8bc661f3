package gateway

import (
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"

	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/manifest"
)

// Bounds of forms, beside that of the archive.
const (
	maxSpec  = manifest.MaxSize
	maxField = 1 << 10 // a name, in bytes
	formRest = 1 << 20 // of a request beyond its archive: settings, boundaries, headers
)

// Codes of what may be wrong with a form.
const (
	codeFieldUnknown   = "field-unknown"
	codeFieldDuplicate = "field-duplicate"
	codeFieldMissing   = "field-missing"
	codeFieldTooLarge  = "field-too-large"
)

// field is a field that a form may have.
type field struct {
	name string
	file bool // of any size, and there must be one
	max  int64
}

// form is a multipart form that was read. Whoever read it closes it.
type form struct {
	values   map[string][]byte // of the fields that are no file, as far as given
	file     *spool
	filename string // as the client gave it: not to be trusted as a path
}

// Close lets go of the file.
func (f *form) Close() error {
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}

// afterForm is read behind every form. Behind a whole one it is ignored; a form
// that was cut off in the head of a part becomes malformed by it, where
// mime/multipart would call it complete.
const afterForm = "\r\nno header\r\n\r\n"

// readForm reads a multipart form with any of the fields, each at most once, and
// its file. Fields may come in any order, so the file is kept aside meanwhile, in
// dir. The caller bounds the whole body.
func readForm(body io.Reader, boundary, dir string, fields []field) (_ *form, err error) {
	if boundary == "" {
		return nil, problem.Malformed("the form has no boundary")
	}
	f := &form{values: map[string][]byte{}}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	parts := multipart.NewReader(io.MultiReader(body, strings.NewReader(afterForm)), boundary)
	for {
		part, err := parts.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, unreadableForm(err)
		}
		if err := f.read(part, dir, fields); err != nil {
			return nil, err
		}
	}
	if f.file != nil {
		return f, nil
	}
	for _, known := range fields {
		if known.file {
			return nil, fieldError(codeFieldMissing, "the form has no field %q", known.name)
		}
	}
	return f, nil
}

// read reads one part.
func (f *form) read(part *multipart.Part, dir string, fields []field) error {
	k := slices.IndexFunc(fields, func(known field) bool { return known.name == part.FormName() })
	if k < 0 {
		names := make([]string, len(fields))
		for i, known := range fields {
			names[i] = known.name
		}
		err := fieldError(codeFieldUnknown, "the form has a field %q, which is not known", part.FormName())
		return problem.WithStatus(http.StatusBadRequest, hinted(err, "the fields are: "+strings.Join(names, ", ")))
	}
	known := fields[k]
	_, again := f.values[known.name]
	if again || known.file && f.file != nil {
		return fieldError(codeFieldDuplicate, "the form has the field %q twice", known.name)
	}
	if known.file {
		spool, err := newSpool(part, dir)
		if err != nil {
			return unreadableForm(err)
		}
		f.file, f.filename = spool, part.FileName()
		return nil
	}
	value, err := io.ReadAll(io.LimitReader(part, known.max+1))
	if err != nil {
		return unreadableForm(err)
	}
	if int64(len(value)) > known.max {
		return orchestrator.Errorf(orchestrator.ErrTooLarge, codeFieldTooLarge, "the field %q is over %s", known.name, orchestrator.Bytes(known.max))
	}
	f.values[known.name] = value
	return nil
}

// fieldError is a form that is not as it should be: 400.
func fieldError(code, format string, args ...any) error {
	return problem.WithStatus(http.StatusBadRequest, orchestrator.Errorf(orchestrator.ErrInvalid, code, format, args...))
}

// hinted adds a hint to an error made here.
func hinted(err error, hint string) error {
	if known, ok := errors.AsType[*orchestrator.Error](err); ok {
		known.Hint = hint
	}
	return err
}

// unreadableForm classes an error of reading a form: the client's unless it has
// a class, was the body's limit, or the disk's.
func unreadableForm(err error) error {
	_, classed := errors.AsType[*orchestrator.Error](err)
	_, limit := errors.AsType[*http.MaxBytesError](err)
	_, disk := errors.AsType[*spoolError](err)
	if classed || limit || disk {
		return err
	}
	return problem.Malformed("the form cannot be read: %v", err)
}

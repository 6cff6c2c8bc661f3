package orchestrator

import "strings"

// maxName is the length of an RFC 1123 label.
const maxName = 63

// ValidateName says whether name is an RFC 1123 label: 1 to 63 of a-z, 0-9 and
// '-', not beginning or ending with '-'. The error is ErrInvalid.
func ValidateName(name string) error {
	const hint = "use 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or a digit, for example %q"
	switch {
	case name == "":
		return Errorf(ErrInvalid, "name-missing", "the function has no name").WithHint("give one with --name or in function.yaml")
	case len(name) > maxName:
		return Errorf(ErrInvalid, "name-invalid", "the name has %d characters, %d are allowed", len(name), maxName).WithHint(hint, "resize-image")
	case name[0] == '-' || name[len(name)-1] == '-':
		return Errorf(ErrInvalid, "name-invalid", "the name %q begins or ends with '-'", name).WithHint(hint, strings.Trim(name, "-"))
	}
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return Errorf(ErrInvalid, "name-invalid", "the name %q has the character %q", name, rune(c)).WithHint(hint, "resize-image")
		}
	}
	return nil
}

package vault

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"filippo.io/age"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// KeyFile is the key's name in a data folder.
	KeyFile = "secrets.key"
	// maxKeyFile bounds what is read of it: a key and comments.
	maxKeyFile = 16 << 10
	// private are the rights that only the owner may have.
	private fs.FileMode = 0o077
)

// key opens what was sealed, and whatever else is derived from it.
type key struct{ identity *age.X25519Identity }

// readKey reads a key file: what age-keygen writes. It is fs.ErrNotExist when
// there is none.
func readKey(path string) (key, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return key{}, unusable(path, "cannot be read: %w", err).WithHint("let the gateway's user own it, with mode 600")
	}
	if err != nil {
		return key{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return key{}, err
	}
	if mode := info.Mode(); mode.IsRegular() && mode.Perm()&private != 0 {
		return key{}, unusable(path, "is open to other users (mode %03o)", mode.Perm()).
			WithHint("chmod 600 %s, and give secrets new values if somebody may have read it", path)
	}
	identities, err := age.ParseIdentities(io.LimitReader(file, maxKeyFile))
	if err != nil || len(identities) != 1 {
		return key{}, unusable(path, "does not hold exactly one key").WithHint("restore it from its backup; age-keygen makes such files")
	}
	identity, ok := identities[0].(*age.X25519Identity)
	if !ok {
		return key{}, unusable(path, "holds a key of another kind than AGE-SECRET-KEY-1").WithHint("make one with age-keygen")
	}
	return key{identity}, nil
}

// unusable never tells what is in the file.
func unusable(path, format string, args ...any) *orchestrator.Error {
	return orchestrator.Errorf(orchestrator.ErrInvalid, "secrets-key-unusable", "the key of secrets, %s, "+format, append([]any{path}, args...)...)
}

// makeKey writes a new key. It is on disk, whole, before anything is sealed with
// it.
func makeKey(path string) (key, error) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return key{}, err
	}
	dir := filepath.Dir(path)
	file, err := os.CreateTemp(dir, ".key-*") // made with mode 0600
	if err != nil {
		return key{}, err
	}
	defer os.Remove(file.Name()) // the link below keeps the file
	_, err = fmt.Fprintf(file, "# Opens the secrets of this Kiln gateway. Keep a copy elsewhere.\n# public key: %s\n%s\n", identity.Recipient(), identity)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return key{}, err
	}
	// Never over one that somebody put there meanwhile.
	if err := os.Link(file.Name(), path); err != nil {
		return key{}, err
	}
	folder, err := os.Open(dir)
	if err != nil {
		return key{}, err
	}
	return key{identity}, errors.Join(folder.Sync(), folder.Close())
}

// seal encrypts a value together with its name, so that one cannot be passed off
// as another by who can write to the store.
func (k key) seal(name string, value []byte) ([]byte, error) {
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, k.identity.Recipient())
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(append([]byte(name+"\n"), value...)); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return sealed.Bytes(), nil
}

var errOtherSecret = errors.New("it was sealed under another name")

// open decrypts a value.
func (k key) open(name string, sealed []byte) ([]byte, error) {
	r, err := age.Decrypt(bytes.NewReader(sealed), k.identity)
	if err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(io.LimitReader(r, int64(len(sealed))))
	if err != nil {
		return nil, err
	}
	within, value, ok := bytes.Cut(plain, []byte("\n"))
	if !ok || string(within) != name {
		return nil, errOtherSecret
	}
	return value, nil
}

// derivedKey is the length of what Derive returns.
const derivedKey = 32

// derive returns another key for a purpose, from which this one cannot be told.
func (k key) derive(purpose string) []byte {
	derived, err := hkdf.Key(sha256.New, []byte(k.identity.String()), nil, purpose, derivedKey)
	if err != nil {
		panic(fmt.Sprintf("vault: derive a key: %v", err)) // of too great a length only
	}
	return derived
}

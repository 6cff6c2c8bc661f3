package auth

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// AdminFile is where, in the data folder, the first token is kept for the
	// machine's own administrator.
	AdminFile = "admin.token"
	// adminName is the name of the first token; a number follows when it is
	// taken.
	adminName = "admin"
	// maxAdminNames is how many are tried.
	maxAdminNames = 100
	// maxTokenFile bounds what is read of the file.
	maxTokenFile = 1 << 10
)

// EnsureAdmin makes sure that somebody can administrate: it makes a token with
// the scope admin when there is none, or when the file of the first one is there
// and empty, which is how an administrator who lost every token asks for one.
// The token is kept in the file, readable by its owner alone. It returns the new
// token, and "" when none was needed.
func (g *Guard) EnsureAdmin(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, AdminFile)
	info, err := os.Lstat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("look for the first token: %w", err)
	}
	asked := err == nil && info.Mode().IsRegular() && info.Size() == 0
	if !asked && g.administrated() {
		return "", nil
	}
	for n := 1; n <= maxAdminNames; n++ {
		name := adminName
		if n > 1 {
			name = fmt.Sprintf("%s-%d", adminName, n)
		}
		t, secret, err := g.Create(ctx, orchestrator.Token{Name: name, Scopes: []orchestrator.Scope{orchestrator.ScopeAdmin}})
		if errors.Is(err, orchestrator.ErrConflict) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("make the first token: %w", err)
		}
		if err := keepToken(path, secret); err != nil {
			return "", errors.Join(err, g.undo(ctx, t))
		}
		return secret, nil
	}
	return "", fmt.Errorf("make the first token: %d names are taken", maxAdminNames)
}

// undo removes a token whose secret nobody got, the last administrator's too.
func (g *Guard) undo(ctx context.Context, t orchestrator.Token) error {
	g.drop(t.ID)
	return g.config.Store.DeleteToken(ctx, t.ID)
}

func (g *Guard) administrated() bool {
	for _, h := range *g.tokens.Load() {
		if h.administers() {
			return true
		}
	}
	return false
}

// keepToken writes the file so that only its owner reads it, whole or not at all.
func keepToken(path, token string) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".admin-*") // made with mode 0600
	if err != nil {
		return fmt.Errorf("keep the first token: %w", err)
	}
	defer os.Remove(file.Name()) // fails once renamed
	_, err = file.WriteString(token + "\n")
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("keep the first token: %w", err)
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return fmt.Errorf("keep the first token: %w", err)
	}
	return nil
}

// ReadAdmin returns the token in a data folder's file; "" when there is none
// that this user may read.
func ReadAdmin(dir string) string {
	file, err := os.Open(filepath.Join(dir, AdminFile))
	if err != nil {
		return ""
	}
	defer file.Close()
	b := make([]byte, maxTokenFile)
	n, _ := file.Read(b)
	token := strings.TrimSpace(string(b[:n]))
	if !strings.HasPrefix(token, Prefix) {
		return ""
	}
	return token
}

// ForgetAdmin removes the file when the token in it is the one of an id.
func ForgetAdmin(dir, id string) error {
	kept, _, _ := parse(scheme + ReadAdmin(dir))
	if kept != id {
		return nil
	}
	return os.Remove(filepath.Join(dir, AdminFile))
}

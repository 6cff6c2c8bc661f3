package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/kilnfaas/kiln/gateway/api"
)

// login is what the tool remembers between calls.
type login struct {
	Gateway string `json:"gateway"`
	Token   string `json:"token,omitempty"`
}

// loginFile returns where it is kept: below XDG_CONFIG_HOME, else ~/.config.
func loginFile() (string, error) {
	folder, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the configuration folder: %w", err)
	}
	return filepath.Join(folder, "kiln", "login.json"), nil
}

// loadLogin reads what was stored; nothing stored is the zero login.
func loadLogin() (login, error) {
	var l login
	path, err := loginFile()
	if err != nil {
		return l, nil // no home folder, as in a container: nothing was stored
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return l, fmt.Errorf("read the login: %w", err)
	}
	if err := json.Unmarshal(data, &l); err != nil {
		return l, fmt.Errorf("read the login in %s: %w; remove the file or run kiln login again", path, err)
	}
	return l, nil
}

// save writes the login so that only its owner reads it, whole or not at all.
func (l login) save() (string, error) {
	path, err := loginFile()
	if err != nil {
		return "", err
	}
	data, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return "", fmt.Errorf("encode the login: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("store the login: %w", err)
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".login-*") // made with mode 0600
	if err != nil {
		return "", fmt.Errorf("store the login: %w", err)
	}
	defer os.Remove(file.Name()) // fails once renamed
	_, err = file.Write(append(data, '\n'))
	if err := errors.Join(err, file.Close()); err != nil {
		return "", fmt.Errorf("store the login: %w", err)
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return "", fmt.Errorf("store the login: %w", err)
	}
	return path, nil
}

func (t *tool) loginCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "login [GATEWAY]",
		Short: "Remember a gateway, and a token for it",
		Long: `Remember the address of a gateway and an access token for it, so that other
commands need neither --gateway nor --token. The gateway is asked first whether
it is there. The file is readable by you alone.`,
		Example: "  kiln login http://build-box:8080 --token $TOKEN",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l := login{Gateway: firstOf(t.gateway, os.Getenv(envGateway)), Token: firstOf(t.token, os.Getenv(envToken))}
			if len(args) == 1 {
				l.Gateway = args[0]
			}
			l.Gateway = normalGateway(firstOf(l.Gateway, api.DefaultBaseURL))
			client := &api.Client{BaseURL: l.Gateway, Token: l.Token, UserAgent: "kiln/" + version}
			ctx, cancel := context.WithTimeout(cmd.Context(), callTimeout)
			defer cancel()
			there, err := client.Version(ctx)
			if err != nil {
				return err
			}
			path, err := l.save()
			if err != nil {
				return err
			}
			fmt.Fprintf(t.out, "%s (Kiln %s) is the gateway from now on; stored in %s\n", l.Gateway, there.Version, path)
			return nil
		},
	}
}

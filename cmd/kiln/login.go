package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kilnfaas/kiln/gateway/api"
)

// login is what the tool remembers between calls.
type login struct {
	Gateway string            `json:"gateway"`
	Tokens  map[string]string `json:"tokens,omitempty"` // by the gateway they are for
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
	if err := writePrivate(path, data); err != nil {
		return "", fmt.Errorf("store the login: %w", err)
	}
	return path, nil
}

func (t *tool) loginCommand() *cobra.Command {
	var fromInput, noSwitch bool
	cmd := &cobra.Command{
		Use:   "login [GATEWAY]",
		Short: "Remember a gateway, and a token for it",
		Long: `Remember the address of a gateway and an access token for it, so that other
commands need neither --gateway nor --token. The gateway is asked first whether
it is there and takes the token. The file is readable by you alone. A token is
sent to the gateway that it was stored for, and to no other.`,
		Example: `  kiln login http://build-box:8080 --token $TOKEN
  ssh build-box sudo cat /var/lib/kiln/admin.token | kiln login http://build-box:8080 --token-stdin`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			gateway := firstOf(t.gateway, os.Getenv(envGateway))
			if len(args) == 1 {
				gateway = args[0]
			}
			gateway = normalGateway(firstOf(gateway, api.DefaultBaseURL))
			token := firstOf(t.token, os.Getenv(envToken))
			if fromInput {
				var err error
				if token, err = readToken(t.in); err != nil {
					return usagef(cmd, "--token-stdin: %w", err)
				}
			}
			return t.login(cmd.Context(), gateway, firstOf(token, localToken(gateway)), noSwitch)
		},
	}
	cmd.Flags().BoolVar(&fromInput, "token-stdin", false, "read the token from the standard input, where no list of processes shows it")
	cmd.Flags().BoolVar(&noSwitch, "no-switch", false, "store the token, and stay with the gateway of an earlier login")
	return cmd
}

// maxTokenInput bounds what is read as a token.
const maxTokenInput = 1 << 10

// readToken reads a token that is alone on its line.
func readToken(in io.Reader) (string, error) {
	data, err := io.ReadAll(io.LimitReader(in, maxTokenInput))
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(data))
	if token == "" || strings.ContainsAny(token, " \n") {
		return "", errors.New("a token, alone on its line, is expected")
	}
	return token, nil
}

// login stores a gateway and a token that it takes.
func (t *tool) login(ctx context.Context, gateway, token string, noSwitch bool) error {
	client := &api.Client{BaseURL: gateway, Token: token, UserAgent: "kiln/" + version}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	there, err := client.Version(ctx)
	if err != nil {
		return err
	}
	l, err := loadLogin()
	if err != nil {
		l = login{} // a damaged file is what a new login is there for
	}
	if l.Gateway == "" || !noSwitch {
		l.Gateway = gateway
	}
	if token != "" {
		if l.Tokens == nil {
			l.Tokens = map[string]string{}
		}
		l.Tokens[gateway] = token
	}
	path, err := l.save()
	if err != nil {
		return err
	}
	if l.Gateway == gateway {
		fmt.Fprintf(t.out, "%s (Kiln %s) is the gateway from now on; stored in %s\n", gateway, there.Version, path)
	} else {
		fmt.Fprintf(t.out, "the token for %s (Kiln %s) is stored in %s; %s stays the gateway\n", gateway, there.Version, path, l.Gateway)
	}
	return nil
}

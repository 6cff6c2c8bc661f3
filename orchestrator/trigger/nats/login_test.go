package nats_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/natstest"
	"github.com/kilnfaas/kiln/orchestrator/trigger/nats"
	"github.com/kilnfaas/kiln/orchestrator/triggertest"
)

// key is a pair of keys with its public half.
type key struct {
	nkeys.KeyPair
	public, seed string
}

func newKey(t *testing.T, create func() (nkeys.KeyPair, error)) key {
	t.Helper()
	pair, err := create()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return key{pair, public, string(seed)}
}

// TestLogin with each kind of credentials, and with wrong ones, on a real server.
func TestLogin(t *testing.T) {
	natstest.Require(t)
	user := newKey(t, nkeys.CreateUser)
	operator, account, system := newKey(t, nkeys.CreateOperator), newKey(t, nkeys.CreateAccount), newKey(t, nkeys.CreateAccount)
	signed := func(claims interface {
		Encode(nkeys.KeyPair) (string, error)
	}, by key) string {
		token, err := claims.Encode(by.KeyPair)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	creds, err := jwt.FormatUserConfig(signed(jwt.NewUserClaims(user.public), account), []byte(user.seed))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, config, secret, wrong string }{
		{"Password", "authorization { user: a, password: 'b:c' }", "a:b:c\n", "a:b"},
		{"Token", "authorization { token: tokentoken }", "tokentoken", "other"},
		{"Nkey", "authorization { users: [{ nkey: " + user.public + " }] }", user.seed + "\n", newKey(t, nkeys.CreateUser).seed},
		{"Creds", fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: { %[2]s: %s, %s: %s }", signed(jwt.NewOperatorClaims(operator.public), operator),
			system.public, signed(jwt.NewAccountClaims(system.public), operator), account.public, signed(jwt.NewAccountClaims(account.public), operator)), string(creds), strings.Replace(string(creds), user.seed, newKey(t, nkeys.CreateUser).seed, 1)},
	} {
		t.Run(test.name, func(t *testing.T) {
			server, err := natstest.New(t.TempDir(), test.config)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := server.Close(); err != nil {
					t.Error(err)
				}
			})
			trigger := orchestrator.Trigger{Name: "t", Type: nats.Type, Settings: orchestrator.Settings{"url": server.URL(), "secret": "login", "subjects": []any{"x"}}}
			with := func(value string) orchestrator.Source {
				return nats.Source{Secret: func(context.Context, string, string) ([]byte, error) { return []byte(value), nil }}
			}
			triggertest.NewRecorder(t).Start(with(test.secret), trigger).Stop()
			err = triggertest.NewRecorder(t).Begin(with(test.wrong), trigger).Fails()
			if !errors.Is(err, orchestrator.ErrDenied) || !strings.Contains(err.Error(), "does not let Kiln in") {
				t.Errorf("Run with wrong credentials = %v", err)
			}
			if strings.Contains(err.Error(), test.wrong) {
				t.Errorf("the error tells them: %v", err)
			}
		})
	}
}

// TestSecretMissing is told as it is.
func TestSecretMissing(t *testing.T) {
	o := embeddedServer(t)
	o.source.Secret = secret
	err := triggertest.NewRecorder(t).Begin(o.source, o.trigger(orchestrator.Settings{"url": "nats://127.0.0.1:1", "secret": "none", "subjects": []any{"x"}})).Fails()
	if !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("Run = %v", err)
	}
}

// TestRights: what the server does not allow ends the Run, which tells of it.
func TestRights(t *testing.T) {
	natstest.Require(t)
	server, err := natstest.New(t.TempDir(), `authorization { users: [{ user: a, password: bbbb, permissions: { subscribe: ["open.>"] } }] }`)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	source := nats.Source{Secret: func(context.Context, string, string) ([]byte, error) { return []byte("a:bbbb"), nil }}
	trigger := orchestrator.Trigger{Name: "t", Type: nats.Type, Settings: orchestrator.Settings{"url": server.URL(), "secret": "login", "subjects": []any{"closed.>"}}}
	err = triggertest.NewRecorder(t).Begin(source, trigger).Fails()
	if !errors.Is(err, orchestrator.ErrDenied) || !strings.Contains(err.Error(), "closed.>") {
		t.Errorf("Run = %v", err)
	}
}

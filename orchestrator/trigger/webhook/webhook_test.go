package webhook_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/trigger/webhook"
	"github.com/kilnfaas/kiln/orchestrator/triggertest"
)

const key = "It's a Secret to Everybody" // of GitHub's own example

func secret(_ context.Context, function, name string) ([]byte, error) {
	if name != "key" {
		return nil, orchestrator.Errorf(orchestrator.ErrNotFound, "secret-unknown", "%s has no secret %s", function, name)
	}
	return []byte(key + "\n"), nil
}

func of(settings orchestrator.Settings) orchestrator.Trigger {
	return orchestrator.Trigger{Name: "t", Type: webhook.Type, Settings: settings}
}

func mac(algorithm func() hash.Hash, parts ...string) []byte {
	m := hmac.New(algorithm, []byte(key))
	m.Write([]byte(strings.Join(parts, "")))
	return m.Sum(nil)
}

// TestConforms with senders that try again until they are answered 202.
func TestConforms(t *testing.T) {
	triggertest.RunBubbles(t, func(*testing.T) triggertest.World {
		return triggertest.World{
			Source:  func() orchestrator.Source { return webhook.Source{Secret: secret} },
			Trigger: of(orchestrator.Settings{"preset": "github", "secret": "key"}),
			Cause: func(n int, receive triggertest.Receive) error {
				body := strconv.Itoa(n)
				request := orchestrator.Incoming{Method: "POST", Body: []byte(body), Header: http.Header{
					"X-Github-Delivery": {body}, "X-Github-Event": {"push"}, "Content-Type": {"application/json"},
					"X-Hub-Signature-256": {"sha256=" + hex.EncodeToString(mac(sha256.New, body))},
				}}
				for {
					reply, err := receive(context.Background(), request)
					if err == nil && reply.Status/100 == 2 {
						return nil
					}
					if err != nil && !errors.Is(err, orchestrator.ErrUnavailable) && !errors.Is(err, orchestrator.ErrExhausted) {
						return err
					}
					time.Sleep(100 * time.Millisecond)
				}
			},
			Number: func(e orchestrator.CloudEvent) (int, error) {
				if e.Type != "com.github.push" {
					return 0, fmt.Errorf("it is of type %s", e.Type)
				}
				return strconv.Atoi(string(e.Data))
			},
		}
	})
}

func TestCheck(t *testing.T) {
	for setting, settings := range map[string]orchestrator.Settings{
		"preset":    {"preset": "gitlab"},
		"secret":    {"preset": "github"},
		"header":    {"preset": "generic", "secret": "key", "header": "X Y"},
		"algorithm": {"preset": "generic", "secret": "key", "algorithm": "md5"},
		"encoding":  {"preset": "generic", "secret": "key", "encoding": "rot13"},
		"tolerance": {"preset": "slack", "secret": "key", "tolerance": "1d"},
		"prefix":    {"preset": "github", "secret": "key", "prefix": "x="},
	} {
		err := webhook.Source{}.Check(of(settings))
		if got, ok := errors.AsType[*orchestrator.SettingError](err); !ok || got.Setting != setting || got.Cause.Hint == "" {
			t.Errorf("%v: %v, want an error of %s with a hint", settings, err, setting)
		}
	}
}

// feed is an orchestrator.Feed that remembers what it was offered.
type feed struct {
	offered []orchestrator.CloudEvent
	fail    error
	dropped int
}

func (f *feed) Function() string                    { return "f" }
func (f *feed) ID() string                          { return "id" }
func (f *feed) Position() []byte                    { return nil }
func (f *feed) Ready()                              {}
func (f *feed) Fail(error)                          {}
func (f *feed) Report(orchestrator.Progress)        {}
func (f *feed) Drop(orchestrator.CloudEvent, error) { f.dropped++ }
func (f *feed) Missed(int, error)                   {}
func (f *feed) Deliver(context.Context, []byte, ...orchestrator.CloudEvent) error {
	panic("not for webhooks")
}
func (f *feed) Offer(_ context.Context, all ...orchestrator.CloudEvent) ([]bool, error) {
	f.offered = append(f.offered, all...)
	return make([]bool, len(all)), f.fail
}

// send brings one request and returns the event that came of it, or the error.
func send(t *testing.T, settings orchestrator.Settings, body string, header ...string) (*orchestrator.CloudEvent, orchestrator.Reply, error) {
	t.Helper()
	f := &feed{}
	request := orchestrator.Incoming{Method: "POST", Path: "/sub?x=1", Body: []byte(body), Header: http.Header{}}
	for i := 0; i < len(header); i += 2 {
		request.Header.Add(header[i], header[i+1])
	}
	reply, err := webhook.Source{Secret: secret}.Receive(t.Context(), of(settings), f, request)
	if len(f.offered) == 0 {
		return nil, reply, err
	}
	return &f.offered[0], reply, err
}

func TestSignatures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now().Unix()
		at := strconv.FormatInt(now, 10)
		old, ahead := strconv.FormatInt(now-301, 10), strconv.FormatInt(now+301, 10)
		const body = `{"id":"evt_1","type":"charge.succeeded","event_id":"Ev1","event":{"type":"message"}}`
		hex256 := func(parts ...string) string { return hex.EncodeToString(mac(sha256.New, parts...)) }
		github := orchestrator.Settings{"preset": "github", "secret": "key"}
		stripe := orchestrator.Settings{"preset": "stripe", "secret": "key"}
		slack := orchestrator.Settings{"preset": "slack", "secret": "key"}
		generic := orchestrator.Settings{"preset": "generic", "secret": "key", "header": "X-Sig", "prefix": "v=", "algorithm": "sha512", "encoding": "base64", "id_header": "X-Id"}
		for name, test := range map[string]struct {
			settings orchestrator.Settings
			header   []string
			id, kind string // of the event; empty id = it is refused
		}{
			"none": {orchestrator.Settings{"id_header": "X-Id"}, []string{"X-Id", "7"}, "7", "dev.kiln.webhook.received"},

			"github":              {github, []string{"X-Hub-Signature-256", "sha256=" + hex256(body), "X-GitHub-Delivery", "d", "X-GitHub-Event", "push"}, "d", "com.github.push"},
			"github capitals":     {github, []string{"X-Hub-Signature-256", "sha256=" + strings.ToUpper(hex256(body)), "X-GitHub-Delivery", "d"}, "d", "dev.kiln.webhook.received"},
			"github unsigned":     {github, []string{"X-GitHub-Delivery", "d"}, "", ""},
			"github empty":        {github, []string{"X-Hub-Signature-256", "sha256="}, "", ""},
			"github other body":   {github, []string{"X-Hub-Signature-256", "sha256=" + hex256(body+" ")}, "", ""},
			"github without name": {github, []string{"X-Hub-Signature-256", hex256(body)}, "", ""},
			"github sha1":         {github, []string{"X-Hub-Signature", "sha1=" + hex.EncodeToString(mac(sha1.New, body))}, "", ""},
			"github cut":          {github, []string{"X-Hub-Signature-256", "sha256=" + hex256(body)[:62]}, "", ""},

			"stripe":            {stripe, []string{"Stripe-Signature", "t=" + at + ",v1=" + hex256(at, ".", body) + ",v0=x"}, "evt_1", "com.stripe.charge.succeeded"},
			"stripe two keys":   {stripe, []string{"Stripe-Signature", "t=" + at + ",v1=00,v1=" + hex256(at, ".", body)}, "evt_1", "com.stripe.charge.succeeded"},
			"stripe old":        {stripe, []string{"Stripe-Signature", "t=" + old + ",v1=" + hex256(old, ".", body)}, "", ""},
			"stripe ahead":      {stripe, []string{"Stripe-Signature", "t=" + ahead + ",v1=" + hex256(ahead, ".", body)}, "", ""},
			"stripe other time": {stripe, []string{"Stripe-Signature", "t=" + at + ",v1=" + hex256(old, ".", body)}, "", ""},
			"stripe two times":  {stripe, []string{"Stripe-Signature", "t=" + at + ",t=" + old + ",v1=" + hex256(old, ".", body)}, "", ""},
			"stripe no time":    {stripe, []string{"Stripe-Signature", "v1=" + hex256(".", body)}, "", ""},
			"stripe v0":         {stripe, []string{"Stripe-Signature", "t=" + at + ",v0=" + hex256(at, ".", body)}, "", ""},
			"stripe tolerant": {orchestrator.Settings{"preset": "stripe", "secret": "key", "tolerance": "10m"},
				[]string{"Stripe-Signature", "t=" + old + ",v1=" + hex256(old, ".", body)}, "evt_1", "com.stripe.charge.succeeded"},

			"slack":         {slack, []string{"X-Slack-Request-Timestamp", at, "X-Slack-Signature", "v0=" + hex256("v0:", at, ":", body)}, "Ev1", "com.slack.message"},
			"slack old":     {slack, []string{"X-Slack-Request-Timestamp", old, "X-Slack-Signature", "v0=" + hex256("v0:", old, ":", body)}, "", ""},
			"slack no time": {slack, []string{"X-Slack-Signature", "v0=" + hex256("v0:", "", ":", body)}, "", ""},
			"slack wrong":   {slack, []string{"X-Slack-Request-Timestamp", at, "X-Slack-Signature", "v0=" + hex256("v0:", old, ":", body)}, "", ""},

			"generic":       {generic, []string{"X-Sig", "v=" + base64.StdEncoding.EncodeToString(mac(sha512.New, body)), "X-Id", "9"}, "9", "dev.kiln.webhook.received"},
			"generic wrong": {generic, []string{"X-Sig", "v=" + base64.StdEncoding.EncodeToString(mac(sha256.New, body)), "X-Id", "9"}, "", ""},
			"no secret":     {orchestrator.Settings{"preset": "github", "secret": "other"}, []string{"X-Hub-Signature-256", "sha256=" + hex256(body)}, "", ""},
		} {
			event, reply, err := send(t, test.settings, body, test.header...)
			switch {
			case test.id == "" && (event != nil || err == nil):
				t.Errorf("%s: it was taken: %+v %+v", name, event, reply)
			case test.id == "" && name != "no secret" && !errors.Is(err, orchestrator.ErrDenied):
				t.Errorf("%s: error %v, want the class denied", name, err)
			case test.id == "" && strings.Contains(err.Error(), hex256(body)):
				t.Errorf("%s: the error tells what would have been right", name)
			case test.id != "" && (err != nil || event == nil || event.ID != test.id || event.Type != test.kind || string(event.Data) != body || event.Subject != "/sub" || reply.Status != 202):
				t.Errorf("%s: %+v %+v %v, want the event %s of type %s", name, event, reply, err, test.id, test.kind)
			}
		}
	})
}

func TestSlack(t *testing.T) {
	slack := orchestrator.Settings{"preset": "slack", "secret": "key"}
	sign := func(body string) []string {
		at := strconv.FormatInt(time.Now().Unix(), 10)
		return []string{"X-Slack-Request-Timestamp", at, "X-Slack-Signature", "v0=" + hex.EncodeToString(mac(sha256.New, "v0:", at, ":", body))}
	}
	challenge := `{"type":"url_verification","challenge":"abc"}`
	event, reply, err := send(t, slack, challenge, sign(challenge)...)
	if err != nil || event != nil || reply.Status != 200 || string(reply.Body) != "abc" {
		t.Errorf("a challenge is answered %d %q with %+v, %v, want abc and no event", reply.Status, reply.Body, event, err)
	}
	if _, reply, err := send(t, slack, challenge); err == nil {
		t.Errorf("an unsigned challenge is answered %+v", reply)
	}
	for body, want := range map[string]string{"command=%2Fx&trigger_id=1.2": "com.slack.command", "payload=%7B%7D": "com.slack.interaction"} {
		event, _, err := send(t, slack, body, append(sign(body), "Content-Type", "application/x-www-form-urlencoded")...)
		if err != nil || event == nil || event.Type != want || event.ID == "" {
			t.Errorf("%s: %+v, %v, want the type %s", body, event, err, want)
		}
	}
}

// TestIDs: the sender's where there is one, and else one of its own each time, as
// two equal bodies may be two events.
func TestIDs(t *testing.T) {
	open := orchestrator.Settings{"event_type": "com.example.order"}
	first, _, err := send(t, open, "ping")
	if err != nil {
		t.Fatal(err)
	}
	second, _, err := send(t, open, "ping")
	if err != nil || first.ID == second.ID || first.ID == "" || first.Type != "com.example.order" {
		t.Errorf("ids %q and %q of type %s, %v", first.ID, second.ID, first.Type, err)
	}
	long, _, err := send(t, orchestrator.Settings{"id_header": "X-Id"}, "ping", "X-Id", strings.Repeat("x", 5000))
	if err != nil || len(long.ID) != 64 {
		t.Errorf("a long id becomes %q, %v", long.ID, err)
	}
	if diff := cmp.Diff("ping", string(long.Data)); diff != "" {
		t.Error(diff)
	}
}

// TestMissingSecretIsShown before the first request.
func TestMissingSecretIsShown(t *testing.T) {
	err := webhook.Source{Secret: secret}.Run(t.Context(), of(orchestrator.Settings{"preset": "github", "secret": "other"}), &feed{})
	if !errors.Is(err, orchestrator.ErrNotFound) {
		t.Errorf("Run = %v, want the error of the secret", err)
	}
}

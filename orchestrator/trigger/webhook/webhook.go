// Package webhook is the kind of triggers that other systems call: requests to an
// address that cannot be guessed, which may have to be signed.
//
// There is no position: senders try again until they are answered 2xx, and that
// happens once the event is on disk.
package webhook

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Type is the type of these triggers.
const Type = "webhook"

const (
	// defaultTolerance is how old a signed request may be: what Stripe and Slack
	// name. maxTolerance keeps a recorded request from being of use for long.
	defaultTolerance = 5 * time.Minute
	maxTolerance     = time.Hour
	// minSecret is the shortest secret, in bytes: shorter ones can be guessed.
	minSecret = 8
	// maxDeliveryID bounds the id that a sender gives an event.
	maxDeliveryID = 256
	// missingRetry is when senders are to try again whose secret is not there.
	missingRetry = time.Minute
)

// Source is an orchestrator.Receiver.
type Source struct {
	Secret orchestrator.SecretFunc // required for triggers that name one
}

var _ orchestrator.Receiver = Source{}

// Presets: whose signatures are checked.
const (
	presetNone    = "none" // nobody's: the address is the right to send
	presetGitHub  = "github"
	presetStripe  = "stripe"
	presetSlack   = "slack"
	presetGeneric = "generic"
)

// spec is a trigger's settings.
type spec struct {
	preset    string
	secret    string
	header    string // generic: of the signature
	prefix    string // generic: in front of it
	algorithm string // generic
	encoding  string // generic
	idHeader  string // of the id that the sender gives a delivery
	typ       string // of the events; empty = the preset's
	tolerance time.Duration
}

// fieldSyntax is a header's name (RFC 9110, section 5.6.2).
var fieldSyntax = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$")

func read(trigger orchestrator.Trigger) (spec, error) {
	r := trigger.Settings.Reader()
	s := spec{
		preset: r.Choice("preset", presetNone, presetGitHub, presetStripe, presetSlack, presetGeneric),
		typ:    r.Text("event_type", ""),
	}
	if s.preset != presetNone {
		s.secret = r.Required("secret", "secret: NAME, of a secret that is shared with the sender")
	}
	if len(s.typ) > maxDeliveryID {
		r.Refuse("event_type", "write for example com.example.order", "has more than %d characters", maxDeliveryID)
	}
	switch s.preset {
	case presetNone:
		s.idHeader = field(r, "id_header", "")
	case presetStripe, presetSlack:
		s.tolerance = r.Duration("tolerance", defaultTolerance, time.Second, maxTolerance)
	case presetGeneric:
		s.header = field(r, "header", "X-Signature")
		s.prefix = r.Text("prefix", "")
		s.algorithm = r.Choice("algorithm", "sha256", "sha512", "sha1")
		s.encoding = r.Choice("encoding", "hex", "base64")
		s.idHeader = field(r, "id_header", "")
	}
	return s, r.Err()
}

// field reads the name of a header.
func field(r *orchestrator.SettingsReader, name, fallback string) string {
	value := r.Text(name, fallback)
	if value != "" && !fieldSyntax.MatchString(value) {
		r.Refuse(name, "write the name alone, for example X-Signature", "%.80q cannot be the name of a header", value)
	}
	return value
}

// Check implements orchestrator.Source.
func (Source) Check(trigger orchestrator.Trigger) error {
	_, err := read(trigger)
	return err
}

// Sample implements orchestrator.Source.
func (Source) Sample(trigger orchestrator.Trigger) orchestrator.CloudEvent {
	s, err := read(trigger)
	if err != nil {
		s = spec{}
	}
	e := orchestrator.CloudEvent{Type: defaultType, ContentType: "application/json", Data: []byte(`{"test":true}`)}
	if s.typ != "" {
		e.Type = s.typ
	}
	return e
}

// Run implements orchestrator.Source: it only sees to it that people hear of a
// secret that is missing before the first request does.
func (source Source) Run(ctx context.Context, trigger orchestrator.Trigger, feed orchestrator.Feed) error {
	s, err := read(trigger)
	if err != nil {
		return err
	}
	if _, err := source.secret(ctx, s, feed); err != nil {
		return err
	}
	feed.Ready()
	<-ctx.Done()
	return nil
}

// secret returns the key for signatures; none where none is wanted.
func (source Source) secret(ctx context.Context, s spec, feed orchestrator.Feed) ([]byte, error) {
	if s.preset == presetNone {
		return nil, nil
	}
	if source.Secret == nil {
		return nil, orchestrator.Errorf(orchestrator.ErrUnavailable, "secrets-unavailable", "this gateway keeps no secrets")
	}
	key, err := source.Secret(ctx, feed.Function(), s.secret)
	if err != nil {
		return nil, err
	}
	key = []byte(strings.TrimSpace(string(key)))
	if len(key) < minSecret {
		return nil, orchestrator.Errorf(orchestrator.ErrInvalid, "secret-short", "the secret %s has less than %d characters", s.secret, minSecret).
			WithHint("give it a longer value, here and at the sender")
	}
	return key, nil
}

// taken is the answer to a request whose event is on disk.
type taken struct {
	ID       string `json:"id"`
	Replayed bool   `json:"replayed"` // it was there already
}

// Receive implements orchestrator.Receiver.
func (source Source) Receive(ctx context.Context, trigger orchestrator.Trigger, feed orchestrator.Feed, request orchestrator.Incoming) (orchestrator.Reply, error) {
	s, err := read(trigger)
	if err != nil {
		return orchestrator.Reply{}, err
	}
	key, err := source.secret(ctx, s, feed)
	if err != nil {
		// The sender cannot mend it, and is to try again.
		return orchestrator.Reply{}, &orchestrator.Error{Class: orchestrator.ErrUnavailable, Code: "hook-unavailable", Detail: "the secret of this hook is not there", Cause: err, RetryAfter: missingRetry}
	}
	if err := s.verify(key, request, time.Now()); err != nil {
		return orchestrator.Reply{}, err
	}
	if challenge, ok := s.challenge(request); ok {
		return orchestrator.Reply{Status: http.StatusOK, ContentType: "text/plain; charset=utf-8", Body: []byte(challenge)}, nil
	}
	event := s.event(request)
	replayed, err := feed.Offer(ctx, event)
	if err != nil {
		if errors.Is(err, orchestrator.ErrInvalid) || errors.Is(err, orchestrator.ErrTooLarge) {
			feed.Drop(event, err)
		}
		return orchestrator.Reply{}, err
	}
	body, err := json.Marshal(taken{event.ID, replayed[0]})
	if err != nil {
		return orchestrator.Reply{}, err
	}
	return orchestrator.Reply{Status: http.StatusAccepted, ContentType: "application/json", Body: body}, nil
}

const defaultType = "dev.kiln.webhook.received"

// envelope is what is read of a body for an event's attributes.
type envelope struct {
	ID        string `json:"id"`       // Stripe
	EventID   string `json:"event_id"` // Slack
	Type      string `json:"type"`
	Challenge string `json:"challenge"` // Slack
	Event     struct {
		Type string `json:"type"`
	} `json:"event"` // Slack
}

func open(body []byte) envelope {
	var e envelope
	if json.Unmarshal(body, &e) != nil {
		return envelope{} // the body is the function's affair
	}
	return e
}

// event makes the event of a verified request. Its id is the one that the sender
// gives, so that what is sent again is folded; one of its own when the sender
// gives none.
func (s spec) event(request orchestrator.Incoming) orchestrator.CloudEvent {
	e := orchestrator.CloudEvent{Type: defaultType, Time: time.Now(), ContentType: request.Header.Get("Content-Type"), Data: request.Body}
	switch s.preset {
	case presetGitHub:
		e.ID = request.Header.Get("X-GitHub-Delivery")
		if kind := request.Header.Get("X-GitHub-Event"); kind != "" {
			e.Type = "com.github." + kind
		}
	case presetStripe:
		about := open(request.Body)
		e.ID = about.ID
		if about.Type != "" {
			e.Type = "com.stripe." + about.Type
		}
	case presetSlack:
		e.ID, e.Type = slackEvent(request)
	default:
		if s.idHeader != "" {
			e.ID = request.Header.Get(s.idHeader)
		}
	}
	if s.typ != "" {
		e.Type = s.typ
	}
	if path, _, _ := strings.Cut(request.Path, "?"); path != "" {
		e.Subject = path
	}
	switch {
	case e.ID == "":
		e.ID = uuid.NewString()
	case len(e.ID) > maxDeliveryID:
		sum := sha256.Sum256([]byte(e.ID))
		e.ID = hex.EncodeToString(sum[:])
	}
	return e
}

// slackEvent returns id and type of what Slack sends: events are JSON, commands
// and interactions forms. Forms have no id; the trigger id that they carry is one
// of a kind.
func slackEvent(request orchestrator.Incoming) (id, kind string) {
	media, _, err := mime.ParseMediaType(request.Header.Get("Content-Type"))
	if err != nil || media != "application/x-www-form-urlencoded" {
		about := open(request.Body)
		if about.Event.Type != "" {
			return about.EventID, "com.slack." + about.Event.Type
		}
		return about.EventID, "com.slack.event"
	}
	form, err := url.ParseQuery(string(request.Body))
	if err != nil {
		return "", defaultType
	}
	if form.Get("command") != "" {
		return form.Get("trigger_id"), "com.slack.command"
	}
	return "", "com.slack.interaction"
}

// challenge returns what Slack wants to be answered when an address is set up.
func (s spec) challenge(request orchestrator.Incoming) (string, bool) {
	if s.preset != presetSlack {
		return "", false
	}
	about := open(request.Body)
	return about.Challenge, about.Type == "url_verification"
}

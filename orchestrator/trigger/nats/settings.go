package nats

import (
	"net/url"
	"strings"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// maxSubjects bounds the subjects of one trigger: wildcards do the rest.
	maxSubjects = 32
	// maxName and maxSubject are the longest names of streams and consumers, and the
	// longest subjects, in bytes, that servers take by default.
	maxName    = 255
	maxSubject = 255
	// maxURL bounds the servers of one trigger.
	maxURL = 2000

	defaultAckWait    = 30 * time.Second
	minAckWait        = time.Second
	maxAckWait        = time.Hour
	defaultAckPending = 1000
	maxAckPending     = 100_000
)

// Values of start, besides a time.
const (
	startNew            = "new"
	startAll            = "all"
	startLast           = "last"
	startLastPerSubject = "last_per_subject"
)

// Values of order.
const (
	orderNone    = "none"
	orderSubject = "subject"
	orderAll     = "all"
)

// place is a server, and who Kiln is there. It is part of positions, so it names
// the secret and does not hold it.
type place struct {
	URL    string `json:"url,omitempty"` // of one or more servers; empty = the gateway's own
	Secret string `json:"secret,omitempty"`
}

// String is the place for people.
func (p place) String() string {
	if p.URL == "" {
		return "the gateway's NATS"
	}
	return "NATS at " + p.URL
}

// spec is a trigger's settings.
type spec struct {
	place    place
	subjects []string // of a stream: which of its messages; empty = all
	queue    string   // group that shares the messages; only without a stream
	order    string

	stream     string // empty = what is published while the trigger listens
	consumer   string // one that somebody else keeps; empty = Kiln's own
	start      string // "" = startAt
	startAt    time.Time
	ackWait    time.Duration
	ackPending int
}

func (source Source) read(trigger orchestrator.Trigger) (spec, error) {
	r := trigger.Settings.Reader()
	s := spec{
		place: place{URL: r.Text("url", ""), Secret: r.Text("secret", "")}, stream: name(r, "stream"),
		subjects: r.Texts("subjects", maxSubjects), order: r.Choice("order", orderNone, orderSubject, orderAll),
	}
	if s.place.URL != "" {
		checkURL(r, s.place.URL)
	} else if s.place.Secret != "" {
		r.Refuse("secret", "give url: nats://HOST:4222, too", "is of no use for the gateway's own NATS")
	}
	source.checkSubjects(r, s)
	if s.stream == "" {
		if len(s.subjects) == 0 {
			r.Refuse("subjects", "write subjects: [orders.>], or stream: NAME", "is missing")
		}
		s.queue = name(r, "queue")
		return s, r.Err()
	}
	if s.consumer = name(r, "consumer"); s.consumer != "" {
		for _, setting := range []string{"subjects", "start", "ack_wait", "max_ack_pending"} {
			if r.Has(setting) {
				r.Refuse(setting, "leave it out, or leave consumer out and Kiln makes one", "is the consumer's own affair")
			}
		}
	}
	readStart(r, &s)
	s.ackWait = r.Duration("ack_wait", defaultAckWait, minAckWait, maxAckWait)
	s.ackPending = r.Int("max_ack_pending", defaultAckPending, 1, maxAckPending)
	return s, r.Err()
}

// name reads the name of a stream, a consumer or a queue group.
func name(r *orchestrator.SettingsReader, setting string) string {
	text := r.Text(setting, "")
	if len(text) > maxName || strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune(`.*>/\`, c) }) {
		r.Refuse(setting, "use letters, digits, '-' and '_'", "cannot be %.80q", text)
	}
	return text
}

func readStart(r *orchestrator.SettingsReader, s *spec) {
	s.start = r.Text("start", startNew)
	switch s.start {
	case startNew, startAll, startLast, startLastPerSubject:
		return
	}
	at, err := time.Parse(time.RFC3339, s.start)
	if err != nil {
		r.Refuse("start", "write new, all, last, last_per_subject or a time such as 2026-01-31T00:00:00Z", "cannot be %.80q", s.start)
	}
	s.start, s.startAt = "", at
}

const urlExample = "write nats://HOST:4222 or tls://HOST:4222; of several servers, with commas between them"

func checkURL(r *orchestrator.SettingsReader, all string) {
	if len(all) > maxURL {
		r.Refuse("url", "leave some servers out", "has more than %d characters", maxURL)
	}
	for one := range strings.SplitSeq(all, ",") {
		u, err := url.Parse(one)
		switch {
		case err != nil || u.Scheme != "nats" && u.Scheme != "tls" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
			r.Refuse("url", urlExample, "is no URL of a NATS server") // without the text: it may hold a password
		case u.User != nil:
			r.Refuse("url", "put the credentials into a secret and write secret: NAME", "holds credentials")
		}
	}
}

func (source Source) checkSubjects(r *orchestrator.SettingsReader, s spec) {
	for i, subject := range s.subjects {
		if !valid(subject) {
			r.Refuse("subjects", "write for example [orders.new, billing.>]", "%.80q is no subject", subject)
		}
		if source.private(s.place, subject) {
			r.Refuse("subjects", "listen to subjects of your own, or give url and secret", "%.80q is the gateway's own", subject)
		}
		for _, other := range s.subjects[:i] {
			if overlap(subject, other) {
				r.Refuse("subjects", "leave one of them out, or add a trigger", "a message could be of both %.80q and %.80q", other, subject)
			}
		}
	}
}

// valid says whether a text is a subject, with wildcards or without.
func valid(subject string) bool {
	if len(subject) > maxSubject || strings.ContainsFunc(subject, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return false
	}
	tokens := strings.Split(subject, ".")
	for i, token := range tokens {
		wild := strings.ContainsAny(token, "*>")
		if token == "" || wild && len(token) > 1 || token == ">" && i != len(tokens)-1 {
			return false
		}
	}
	return true
}

// overlap says whether a subject matches both of two patterns.
func overlap(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(x), len(y)) {
		switch {
		case x[i] == ">" || y[i] == ">":
			return true
		case x[i] != y[i] && x[i] != "*" && y[i] != "*":
			return false
		}
	}
	return len(x) == len(y)
}

// hidden says whether a message is of the machinery below: a wildcard at the
// beginning does not mean what servers and clients tell each other, as it does not
// in MQTT.
func hidden(pattern, subject string) bool {
	return (pattern[0] == '*' || pattern[0] == '>') && (strings.HasPrefix(subject, "$") || strings.HasPrefix(subject, "_"))
}

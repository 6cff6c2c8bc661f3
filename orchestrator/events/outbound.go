package events

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// Forms of a destination, besides URLs.
const (
	functionScheme = "function:"
	natsScheme     = "nats:"
)

// Headers of what is sent on.
const (
	HeaderInvocation = "Kiln-Invocation-Id"
	HeaderStatus     = "Kiln-Invocation-Status" // succeeded or failed
	HeaderSignature  = "Kiln-Signature"
)

const (
	outboundTimeout = 15 * time.Second // for a receiver to take what it is sent
	dialTimeout     = 5 * time.Second
	maxOutboundRead = 64 << 10 // of an answer that nobody reads
	maxURL          = 2000     // the longest URL that all software takes
	idleOutbound    = 64       // connections kept for the next delivery
)

// passOn returns the call that tells target of the end of an invocation: with
// the result as its body when there is one, else with the invocation itself.
// The attributes are those of CloudEvents 1.0 in binary mode.
func passOn(inv orchestrator.Invocation, target string, result []byte) (orchestrator.Invocation, []byte) {
	header := http.Header{
		"Ce-Specversion": {"1.0"},
		"Ce-Id":          {inv.ID},
		"Ce-Source":      {"/functions/" + inv.Function},
		"Ce-Type":        {"dev.kiln.invocation." + string(inv.Status)},
		"Ce-Time":        {inv.EndedAt.Format(time.RFC3339Nano)},
	}
	body := result
	if inv.Status == orchestrator.InvocationSucceeded && inv.Result != nil {
		if media := inv.Result.Header["Content-Type"]; len(media) > 0 {
			header["Content-Type"] = media
		}
		if inv.Result.Truncated {
			header["Ce-Truncated"] = []string{"true"}
		}
	} else {
		told := inv
		told.Header = nil // may hold secrets of the caller
		encoded, err := json.Marshal(told)
		if err != nil {
			panic("events: encode an invocation: " + err.Error()) // strings and numbers only
		}
		body = encoded
		header["Content-Type"] = []string{"application/json"}
	}
	next := orchestrator.Invocation{
		Function: inv.Function, Status: orchestrator.InvocationWaiting, Target: target, Path: "/", Header: header,
		Size: int64(len(body)), Parent: inv.ID, Hops: inv.Hops + 1, CreatedAt: time.Now().UTC().Round(0),
	}
	if name, ok := strings.CutPrefix(target, functionScheme); ok {
		next.Function, next.Target = name, ""
		return next, body
	}
	header[HeaderInvocation] = []string{inv.ID}
	header[HeaderStatus] = []string{string(inv.Status)}
	return next, body
}

// CheckCallback says whether a URL can be that of a callback. Where it leads is
// checked when it is called. The error is ErrInvalid.
func CheckCallback(text string) error {
	u, err := url.Parse(text)
	if err != nil || len(text) > maxURL || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return orchestrator.Errorf(orchestrator.ErrInvalid, "callback-invalid", "the callback is no URL that can be called").
			WithHint("give an absolute http or https URL without user and password, of at most %d characters", maxURL)
	}
	return nil
}

// Outbound sends results to callbacks and destinations. It does not follow
// redirects, and connects to no address of this machine or a private network
// unless AllowPrivate is set; that is checked on the address that is dialled,
// after the name was resolved.
type Outbound struct {
	Secret       []byte // signs; empty = nothing is signed
	AllowPrivate bool
	// Publish sends to a NATS subject; nil = there is none.
	Publish func(ctx context.Context, subject string, header http.Header, body []byte) error

	client *http.Client
}

// Open prepares for Deliver; Close ends idle connections.
func (o *Outbound) Open() {
	dialer := &net.Dialer{Timeout: dialTimeout}
	if !o.AllowPrivate {
		dialer.Control = onlyPublic
	}
	o.client = &http.Client{
		Timeout: outboundTimeout,
		Transport: &http.Transport{
			DialContext: dialer.DialContext, MaxIdleConns: idleOutbound, IdleConnTimeout: time.Minute,
			TLSHandshakeTimeout: dialTimeout, ForceAttemptHTTP2: true, DisableCompression: true,
			MaxResponseHeaderBytes: maxOutboundRead,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Close ends the connections that are kept.
func (o *Outbound) Close() error {
	o.client.CloseIdleConnections()
	return nil
}

// Deliver makes an attempt at the target of an invocation.
func (o *Outbound) Deliver(ctx context.Context, call Call) Answer {
	if subject, ok := strings.CutPrefix(call.Invocation.Target, natsScheme); ok {
		if o.Publish == nil {
			return Answer{Err: orchestrator.Errorf(orchestrator.ErrInvalid, "nats-missing", "this gateway has no NATS to send to")}
		}
		if err := o.Publish(ctx, subject, call.Invocation.Header, call.Body); err != nil {
			return Answer{Err: err}
		}
		return Answer{Status: http.StatusAccepted}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, call.Invocation.Target, bytes.NewReader(call.Body))
	if err != nil {
		return Answer{Err: orchestrator.Errorf(orchestrator.ErrInvalid, "callback-invalid", "the target is no URL: %w", err)}
	}
	request.Header = call.Invocation.Header.Clone()
	request.Header.Set("User-Agent", "kiln")
	if len(o.Secret) > 0 {
		request.Header.Set(HeaderSignature, Sign(o.Secret, time.Now(), call.Body))
	}
	response, err := o.client.Do(request)
	if err != nil {
		return Answer{Err: outboundError(err)}
	}
	defer response.Body.Close()
	// So that the connection can be used again; the body itself says nothing.
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, maxOutboundRead))
	if response.StatusCode >= 300 && response.StatusCode < 400 {
		return Answer{Err: orchestrator.Errorf(orchestrator.ErrInvalid, "callback-redirected", "the target answers with a redirect (%d), which is not followed", response.StatusCode)}
	}
	return Answer{Status: response.StatusCode, Header: response.Header}
}

// outboundError classes a failure to deliver. What does not answer counts as an
// attempt, or a receiver that is gone would be tried for ever.
func outboundError(err error) error {
	if refused := (*orchestrator.Error)(nil); errors.As(err, &refused) {
		return refused
	}
	return &orchestrator.Error{
		Class: orchestrator.ErrUnavailable, Code: "callback-unreachable", Cause: orchestrator.ErrFunction,
		Detail: fmt.Sprintf("the target does not answer: %v", err),
	}
}

// Sign returns the value of Kiln-Signature: the time and the HMAC-SHA256 of that
// time in seconds, a dot and the body.
func Sign(secret []byte, now time.Time, body []byte) string {
	at := strconv.FormatInt(now.Unix(), 10)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(at + "."))
	mac.Write(body)
	return "t=" + at + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}

// onlyPublic is a net.Dialer's Control that refuses addresses which are not on
// the public internet. It sees the address itself, whatever name led to it.
func onlyPublic(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return orchestrator.Errorf(orchestrator.ErrInvalid, "callback-refused", "the target's address %s cannot be read", address)
	}
	if !public(at.Addr()) {
		return orchestrator.Errorf(orchestrator.ErrInvalid, "callback-refused", "the target leads to %s, which is not on the public internet", at.Addr()).
			WithHint("start the gateway with callback_private: allow if its callers may reach this network")
	}
	return nil
}

// special are ranges that netip has no word for (IANA's special-purpose registries).
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"), // carriers' networks
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), // benchmarks
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b::/96"), // NAT64: an IPv4 address in disguise
	netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("100::/64"),
	netip.MustParsePrefix("2001::/23"),
	netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("2002::/16"), // 6to4: likewise
	netip.MustParsePrefix("fec0::/10"),
}

// public says whether an address is on the public internet.
func public(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	if !addr.IsGlobalUnicast() || addr.IsPrivate() || addr.IsLoopback() || addr.IsLinkLocalUnicast() {
		return false
	}
	for _, prefix := range special {
		if prefix.Contains(addr) {
			return false
		}
	}
	return true
}

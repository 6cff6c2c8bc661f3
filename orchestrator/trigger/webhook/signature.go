package webhook

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// maxSignatures bounds the signatures of one request that are compared: senders
// give several while they change their key.
const maxSignatures = 8

// hashes are the algorithms of HMACs. HMAC-SHA1 is still what some senders have,
// and not broken.
var hashes = map[string]func() hash.Hash{"sha1": sha1.New, "sha256": sha256.New, "sha512": sha512.New}

// verify says whether a request was signed with key. Errors say what is missing,
// and never what would have been right.
func (s spec) verify(key []byte, request orchestrator.Incoming, now time.Time) error {
	switch s.preset {
	case presetGitHub:
		return verifyHeader(request, "X-Hub-Signature-256", "sha256=", "hex", sum("sha256", key, request.Body))
	case presetGeneric:
		return verifyHeader(request, s.header, s.prefix, s.encoding, sum(s.algorithm, key, request.Body))
	case presetStripe:
		return s.verifyStripe(key, request, now)
	case presetSlack:
		at := request.Header.Get("X-Slack-Request-Timestamp")
		if err := s.fresh(at, now); err != nil {
			return err
		}
		return verifyHeader(request, "X-Slack-Signature", "v0=", "hex", sum("sha256", key, []byte("v0:"+at+":"), request.Body))
	}
	return nil
}

// sum is the HMAC of parts.
func sum(algorithm string, key []byte, parts ...[]byte) []byte {
	mac := hmac.New(hashes[algorithm], key)
	for _, part := range parts {
		mac.Write(part)
	}
	return mac.Sum(nil)
}

func refused(format string, args ...any) error {
	return orchestrator.Errorf(orchestrator.ErrDenied, "signature-invalid", format, args...).
		WithHint("sign the request with the secret that the trigger names")
}

// verifyHeader compares the signature of a header.
func verifyHeader(request orchestrator.Incoming, name, prefix, encoding string, want []byte) error {
	values := request.Header[http.CanonicalHeaderKey(name)]
	if len(values) == 0 {
		return refused("the request has no header %s", name)
	}
	for _, value := range values[:min(len(values), maxSignatures)] {
		text, ok := strings.CutPrefix(value, prefix)
		if ok && hmac.Equal(decode(text, encoding), want) {
			return nil
		}
	}
	return refused("the signature in %s is not right", name)
}

// decode returns nothing for what cannot be read: no signature equals that.
func decode(text, encoding string) []byte {
	var decoded []byte
	var err error
	if encoding == "base64" {
		decoded, err = base64.StdEncoding.DecodeString(text)
	} else {
		decoded, err = hex.DecodeString(text)
	}
	if err != nil {
		return nil
	}
	return decoded
}

// verifyStripe reads "t=SECONDS,v1=HEX,v1=HEX,…".
func (s spec) verifyStripe(key []byte, request orchestrator.Incoming, now time.Time) error {
	const name = "Stripe-Signature"
	header := request.Header.Get(name)
	if header == "" {
		return refused("the request has no header %s", name)
	}
	at := ""
	var signatures []string
	for part := range strings.SplitSeq(header, ",") {
		label, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch {
		case label == "t" && at == "":
			at = value
		case label == "v1" && len(signatures) < maxSignatures:
			signatures = append(signatures, value)
		}
	}
	if err := s.fresh(at, now); err != nil {
		return err
	}
	want := sum("sha256", key, []byte(at+"."), request.Body)
	for _, signature := range signatures {
		if hmac.Equal(decode(signature, "hex"), want) {
			return nil
		}
	}
	return refused("the signature in %s is not right", name)
}

// fresh refuses requests that were signed too long ago, or in the future: somebody
// may have recorded them.
func (s spec) fresh(at string, now time.Time) error {
	seconds, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return refused("the request does not say when it was signed")
	}
	if age := now.Sub(time.Unix(seconds, 0)); age > s.tolerance || age < -s.tolerance {
		return refused("the request was signed at another time than now")
	}
	return nil
}

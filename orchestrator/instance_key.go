package orchestrator

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
)

// EnvInstanceToken is the variable in which an instance's runtime finds the token
// that calls of it carry. It takes it out of what the handler sees.
const EnvInstanceToken = "KILN_INSTANCE_TOKEN"

// Lengths in bytes, of 32 that there are.
const (
	instanceToken  = 16 // nobody guesses 128 bits over a network
	tokenFootprint = 8  // tells two tokens apart
)

// InstanceKey makes the token of each instance from its container's name: the
// next gateway knows it without anything being stored. The zero key makes none,
// and instances take calls from whoever reaches them.
type InstanceKey []byte

// Token returns the token of a container; "" with the zero key.
func (k InstanceKey) Token(container string) string {
	if len(k) == 0 {
		return ""
	}
	mac := hmac.New(sha256.New, k)
	mac.Write([]byte(container))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:instanceToken])
}

// Mark labels a container that will have a token, so that a gateway with another
// key leaves it alone. It returns the token, which is not in the label.
func (k InstanceKey) Mark(config *ContainerConfig) (token string) {
	if token = k.Token(config.Name); token != "" {
		config.Labels[LabelToken] = footprint(token)
	}
	return token
}

// Recall returns the token of a container that runs, "" if it has none, and
// false when it was made with another key.
func (k InstanceKey) Recall(c Container) (token string, ok bool) {
	want := c.Labels[LabelToken]
	if want == "" {
		return "", true
	}
	token = k.Token(c.Name)
	return token, token != "" && footprint(token) == want
}

func footprint(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:tokenFootprint])
}

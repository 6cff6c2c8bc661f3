package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"strings"
)

// What a holder shows is Prefix, the token's id, '_' and 32 random bytes:
//
//	kiln_3k5qzj7w2m_WkZ0…
//
// The id says which hash to compare with; it is no secret. The prefix is for
// people and for programs that look for secrets where none should be.
const (
	// Prefix begins every token.
	Prefix = "kiln_"

	idLength     = 10
	idAlphabet   = "abcdefghijklmnopqrstuvwxyz234567" // 32 letters: five bits each
	secretBytes  = 32
	secretLength = 43 // of secretBytes in base64 without padding
	length       = len(Prefix) + idLength + 1 + secretLength
	scheme       = "Bearer " // RFC 6750; compared without case, as RFC 9110 has it
)

// mint makes an id and a secret. Reading random bytes does not fail.
func mint() (id, secret string) {
	var b [idLength + secretBytes]byte
	rand.Read(b[:])
	letters := make([]byte, idLength)
	for i := range letters {
		letters[i] = idAlphabet[b[i]&31]
	}
	return string(letters), base64.RawURLEncoding.EncodeToString(b[idLength:])
}

// write returns what the holder of a token shows.
func write(id, secret string) string { return Prefix + id + "_" + secret }

// parse reads the value of an Authorization header. It allocates nothing.
func parse(authorization string) (id, secret string, ok bool) {
	token, ok := bearer(authorization)
	if !ok || len(token) != length || token[:len(Prefix)] != Prefix || token[len(Prefix)+idLength] != '_' {
		return "", "", false
	}
	return token[len(Prefix) : len(Prefix)+idLength], token[len(Prefix)+idLength+1:], true
}

// bearer takes the scheme off the value of an Authorization header.
func bearer(authorization string) (token string, ok bool) {
	if len(authorization) <= len(scheme) || !strings.EqualFold(authorization[:len(scheme)], scheme) {
		return "", false
	}
	return strings.Trim(authorization[len(scheme):], " \t"), true
}

// Shows says whether the value of an Authorization header is meant to be one of
// Kiln's tokens, valid or not. It is for no function to see.
func Shows(authorization string) bool {
	token, ok := bearer(authorization)
	return ok && strings.HasPrefix(token, Prefix)
}

func hash(secret string) [sha256.Size]byte {
	var b [secretLength]byte
	copy(b[:], secret) // parse saw the length
	return sha256.Sum256(b[:])
}

package gateway

import (
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/kilnfaas/kiln/gateway/problem"
)

// accept returns the media type among offers that a request prefers (RFC 9110,
// section 12.5.1); of equals the first. The error is a 406.
func accept(r *http.Request, offers ...string) (string, error) {
	header := strings.Join(r.Header.Values("Accept"), ",")
	if strings.TrimSpace(header) == "" {
		return offers[0], nil
	}
	best, bestQuality := "", 0.0
	for _, offer := range offers {
		if q := quality(header, offer); q > bestQuality {
			best, bestQuality = offer, q
		}
	}
	if best == "" {
		return "", problem.NotAcceptable(header, offers)
	}
	return best, nil
}

// quality returns how much an Accept header wants a media type, 0 to 1, by its
// most specific range.
func quality(header, media string) float64 {
	main, _, _ := strings.Cut(media, "/")
	quality, specific := 0.0, 0
	for part := range strings.SplitSeq(header, ",") {
		pattern, parameters, err := mime.ParseMediaType(part)
		if err != nil {
			continue // other ranges may still match
		}
		rank := 1 + slices.Index([]string{"*/*", main + "/*", media}, pattern)
		if rank <= specific {
			continue
		}
		q := 1.0
		if text, ok := parameters["q"]; ok {
			if q, err = strconv.ParseFloat(text, 64); err != nil || q < 0 || q > 1 {
				continue
			}
		}
		quality, specific = q, rank
	}
	return quality
}

// contentType returns the media type of a request's body, "" for none.
func contentType(r *http.Request) (string, map[string]string, error) {
	header := r.Header.Get("Content-Type")
	if header == "" {
		return "", nil, nil
	}
	media, parameters, err := mime.ParseMediaType(header)
	if err != nil {
		return "", nil, problem.Malformed("the Content-Type %q is not one", header)
	}
	return media, parameters, nil
}

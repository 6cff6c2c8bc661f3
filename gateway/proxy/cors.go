package proxy

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/kilnfaas/kiln/orchestrator"
)

// preflight answers a browser that asks whether a page may invoke (the fetch
// standard, section 3.2.2), and says whether that is what the request is. It
// comes without a token, so it is answered whatever the function's access is.
func (c *call) preflight(cors *orchestrator.CORS) bool {
	r := c.r
	if r.Method != http.MethodOptions || r.Header.Get("Origin") == "" || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	header := c.w.Header()
	if allowOrigin(header, cors, r.Header.Get("Origin")) {
		methods := cors.Methods
		if len(methods) == 0 {
			methods = orchestrator.DefaultCORSMethods()
		}
		header.Set("Access-Control-Allow-Methods", strings.Join(methods, ", "))
		if len(cors.Headers) > 0 {
			header.Set("Access-Control-Allow-Headers", strings.Join(cors.Headers, ", "))
		}
		if cors.MaxAge > 0 {
			header.Set("Access-Control-Max-Age", strconv.Itoa(int(time.Duration(cors.MaxAge)/time.Second)))
		}
	}
	c.w.WriteHeader(http.StatusNoContent)
	return true
}

// share says to a browser whether the page may read the answer. What the
// function says about it does not count: it has left that to the gateway.
func (c *call) share(header http.Header) {
	if c.route == nil || !c.route.Release.Spec.CORS.On() {
		return
	}
	for name := range header {
		if strings.HasPrefix(name, "Access-Control-") {
			delete(header, name)
		}
	}
	cors := &c.route.Release.Spec.CORS
	if allowOrigin(header, cors, c.r.Header.Get("Origin")) && len(cors.Expose) > 0 {
		header.Set("Access-Control-Expose-Headers", strings.Join(cors.Expose, ", "))
	}
}

// allowOrigin says that pages of an origin may, if they may.
func allowOrigin(header http.Header, cors *orchestrator.CORS, origin string) bool {
	if len(cors.Origins) == 1 && cors.Origins[0] == "*" {
		header.Set("Access-Control-Allow-Origin", "*")
		return true
	}
	header.Add("Vary", "Origin") // caches must not give one origin's answer to another
	if origin == "" || !cors.Allows(origin) {
		return false
	}
	header.Set("Access-Control-Allow-Origin", origin)
	if cors.Credentials {
		header.Set("Access-Control-Allow-Credentials", "true")
	}
	return true
}

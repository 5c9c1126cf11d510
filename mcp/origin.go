package mcp

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"signet/internal/oauth"
)

// doorkeeper refuses requests that a browser was tricked into sending: requests of pages of
// foreign origins, and of pages whose host name was rebound to this machine. For pages that
// may call, it sets the CORS headers.
type doorkeeper struct {
	origins  map[string]bool
	loopback bool // whether Resource is on this machine, so that no other host may be named
}

func newDoorkeeper(resource *url.URL, origins []string) (*doorkeeper, error) {
	d := &doorkeeper{
		origins:  make(map[string]bool, len(origins)),
		loopback: oauth.IsLoopbackHost(resource.Hostname()),
	}
	for _, origin := range origins {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme == "" || u.Host == "" || u.Scheme+"://"+u.Host != origin {
			return nil, fmt.Errorf("mcp: %q is not an origin like https://app.example", origin)
		}
		d.origins[strings.ToLower(origin)] = true
	}
	return d, nil
}

// check refuses a foreign Host or Origin.
//
// Host is checked only if Resource is on a loopback host, where any other name was rebound.
// A proxy in front of a public resource may send any Host, and rebinding gains nothing,
// because the token is in no cookie.
func (d *doorkeeper) check(r *http.Request) *refusal {
	if d.loopback && !oauth.IsLoopbackHost(oauth.Hostname(r.Host)) {
		return refused(http.StatusForbidden, codeForbidden, "host %q is not served here", r.Host)
	}
	for _, origin := range r.Header["Origin"] {
		if !d.allowed(origin) {
			return refused(http.StatusForbidden, codeForbidden, "origin %q may not call this server", origin)
		}
	}
	if len(r.Header["Origin"]) > 1 {
		return refused(http.StatusForbidden, codeForbidden, "more than one Origin header")
	}
	return nil
}

// codeForbidden is the error code in the body of a 403. JSON-RPC leaves such numbers to the
// server.
const codeForbidden = -32000

func (d *doorkeeper) allowed(origin string) bool {
	if d.origins[origin] {
		return true
	}
	if !d.loopback {
		return false
	}
	u, err := url.Parse(origin)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") &&
		u.Scheme+"://"+u.Host == origin && oauth.IsLoopbackHost(u.Hostname())
}

// allowedHeaders are the request headers that MCP clients send, with or without sessions.
const allowedHeaders = "authorization, content-type, accept, mcp-protocol-version, mcp-method, mcp-name, mcp-session-id, last-event-id, " + oauth.TracingHeaders

// grant sets the CORS headers for an origin that check allowed. Credentials are never
// allowed: a program sends the token, not the browser on its own.
func (d *doorkeeper) grant(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if origin == "" {
		return
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", "WWW-Authenticate, Retry-After, Mcp-Session-Id, MCP-Protocol-Version")
}

// preflight answers OPTIONS. Browsers send no token with it.
func preflight(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Allow", "POST, OPTIONS")
	if r.Header.Get("Origin") != "" {
		h.Add("Vary", "Access-Control-Request-Headers")
		// GET and DELETE are answered with 405, and a page should see that status.
		h.Set("Access-Control-Allow-Methods", "POST, GET, DELETE")
		h.Set("Access-Control-Allow-Headers", allowedHeaders+paramHeaders(r))
		h.Set("Access-Control-Max-Age", "600")
	}
	w.WriteHeader(http.StatusNoContent)
}

// paramHeaders returns the Mcp-Param-* headers that a preflight asks for: every tool may
// define such headers.
func paramHeaders(r *http.Request) string {
	var b strings.Builder
	for name := range strings.SplitSeq(r.Header.Get("Access-Control-Request-Headers"), ",") {
		name = strings.ToLower(strings.TrimSpace(name))
		if strings.HasPrefix(name, "mcp-param-") && !strings.ContainsFunc(name, isNotToken) {
			b.WriteString(", " + name)
		}
	}
	return b.String()
}

// isNotToken reports whether c is not allowed in a header name that preflight repeats.
func isNotToken(c rune) bool {
	return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_'
}

package mcp

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"signet/internal/oauth"
)

// Metadata serves the protected resource metadata of o.Resource (RFC 9728 §3), also to
// scripts in browsers. Mount it at /.well-known/oauth-protected-resource followed by the path
// of the resource, unless that is "/" (§3.1), and for the default resource without its path as
// well. The document is made once, from o alone; nothing in a request changes it.
func Metadata(o Options) http.Handler {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	err := enc.Encode(oauth.ResourceMetadata{
		Resource:               o.Resource,
		AuthorizationServers:   []string{o.Issuer},
		ScopesSupported:        withoutOffline(o.Scopes),
		BearerMethodsSupported: []string{"header"},
		ResourceName:           o.Name,
	})
	if err != nil { // cannot happen with strings and lists of strings
		o.logger().Error("encoding the protected resource metadata", "error", err)
	}
	return newDocument(body.Bytes())
}

// document is a public JSON document that never changes.
type document struct {
	body         []byte
	length, etag string
}

func newDocument(body []byte) *document {
	sum := sha256.Sum256(body)
	return &document{
		body:   body,
		length: strconv.Itoa(len(body)),
		etag:   `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`,
	}
}

func (d *document) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodOptions:
		h.Set("Access-Control-Allow-Methods", "GET, HEAD")
		h.Set("Access-Control-Allow-Headers", allowedHeaders)
		h.Set("Access-Control-Max-Age", "86400")
		w.WriteHeader(http.StatusNoContent)
		return
	default:
		h.Set("Allow", "GET, HEAD, OPTIONS")
		oauth.Errorf(oauth.InvalidRequest, "%s is not allowed here", r.Method).
			WithStatus(http.StatusMethodNotAllowed).WriteJSON(w, false)
		return
	}
	h.Set("Cache-Control", "public, max-age=3600")
	h.Set("ETag", d.etag)
	if match := r.Header.Get("If-None-Match"); strings.TrimSpace(match) == "*" || strings.Contains(match, d.etag) { // RFC 9110 §13.1.2
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", d.length)
	if r.Method == http.MethodGet {
		w.Write(d.body)
	}
}

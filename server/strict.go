package server

import (
	"net/http"
	"net/url"
	"slices"

	"signet/handlers"
	"signet/internal/oauth"
)

// maxTarget is the longest request target, in bytes. The longest that this server makes
// carries a sealed login transaction and is half as long.
const maxTarget = 16 << 10

// refuseAmbiguous refuses requests that net/http accepts and that a proxy in front may
// understand in another way. Users read why on a page of the authorization server, if there
// is one.
func (s *Server) refuseAmbiguous(authorization *handlers.Handler, next http.Handler) http.Handler {
	refuse := func(w http.ResponseWriter, r *http.Request, err *oauth.Error) {
		w.Header().Set("Connection", "close")
		if authorization != nil {
			authorization.Refuse(w, r, err)
			return
		}
		s.classes.Refuse(r.Context())
		writeJSON(w, err.Status(), err)
	}
	hosts := []string{""}
	for _, base := range append([]string{s.o.Issuer}, s.o.Resources...) {
		if u, err := url.Parse(base); err == nil {
			hosts = append(hosts, u.Host)
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The length of the body is ambiguous: a chunked request may have had a
		// Content-Length as well, which net/http drops silently, and in HTTP/1.0
		// net/http ignores Transfer-Encoding. If a proxy counts another length, an
		// attacker's bytes in the rest of the connection become a request of their
		// own. So the connection is closed (RFC 9112 §6.1, §11.2).
		if r.ProtoMajor == 1 && (r.ProtoMinor == 0 || len(r.TransferEncoding) > 0) {
			w.Header().Set("Connection", "close")
		}
		switch {
		case len(r.RequestURI) > maxTarget:
			refuse(w, r, oauth.Errorf(oauth.InvalidRequest, "the request target is longer than %d bytes", maxTarget).WithStatus(http.StatusRequestURITooLong))
		case !slices.Contains(hosts, r.URL.Host): // it replaces the Host header (RFC 9112 §3.2.2)
			refuse(w, r, oauth.Errorf(oauth.InvalidRequest, "the request target names another host"))
		default:
			next.ServeHTTP(w, r)
		}
	})
}

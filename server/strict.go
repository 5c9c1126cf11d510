package server

import (
	"net/http"
	"net/url"
	"slices"
	"time"

	"signet/internal/oauth"
)

// maxTarget bounds the request target. The longest of ours carries a sealed login
// transaction, half of this.
const maxTarget = 16 << 10

// strict refuses what net/http lets pass and a proxy before us may understand in
// another way.
func (s *Server) strict(next http.Handler) http.Handler {
	hosts := []string{""}
	for _, ours := range append([]string{s.o.Issuer}, s.o.Resources...) {
		if u, err := url.Parse(ours); err == nil {
			hosts = append(hosts, u.Host)
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A body whose length nobody stated up front: the request may have had a
		// Content-Length as well, which net/http drops without a word, or be of
		// HTTP/1.0, where it does not look at Transfer-Encoding. If a proxy counts
		// otherwise, the rest of the connection is somebody's own request to be. So
		// there is no rest (RFC 9112 §6.1, §11.2).
		if r.ProtoMajor == 1 && (r.ProtoMinor == 0 || len(r.TransferEncoding) > 0) {
			w.Header().Set("Connection", "close")
		}
		switch {
		case len(r.RequestURI) > maxTarget:
			refuse(w, http.StatusRequestURITooLong, "the request target is longer than %d bytes", maxTarget)
		case !slices.Contains(hosts, r.URL.Host): // it replaces the Host header (RFC 9112 §3.2.2)
			refuse(w, http.StatusBadRequest, "the request target names another host")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func refuse(w http.ResponseWriter, status int, format string, args ...any) {
	w.Header().Set("Connection", "close")
	writeJSON(w, status, oauth.Errorf(oauth.InvalidRequest, format, args...))
}

// endless takes the write deadline from what may answer in a stream, or call a tool
// that takes its time.
func endless(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// It fails where there is no connection, as in tests, and so no deadline.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
		next.ServeHTTP(w, r)
	})
}

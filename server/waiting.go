package server

import (
	"net/http"
	"strings"

	"signet/oauth"
)

// whileWaiting is for a server that started while its database was down. Until that
// is there the epoch is not known, so nothing that was issued could be told from a
// forgery of another store's: whatever needs the store is 503, never a verdict.
// Probes, metadata and keys are answered as far as they are known.
func (s *Server) whileWaiting(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.store.Epoch() == "" && !needsNoStore(r.URL.Path) {
			w.Header().Set("Retry-After", "5")
			writeJSON(w, http.StatusServiceUnavailable, oauth.Errorf(oauth.TemporarilyUnavailable, "waiting for the store: try again in a moment"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func needsNoStore(path string) bool {
	return strings.HasSuffix(path, "/livez") || strings.HasSuffix(path, "/readyz") || strings.Contains(path, "/.well-known/")
}

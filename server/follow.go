package server

import (
	"context"
	"math"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"signet/jwt"
)

// followIssuer makes a process of role mcp fetch the issuer's keys when it needs them, and
// poll the issuer's revocation feed. It opens the upstreams for the tools.
func (s *Server) followIssuer(ctx context.Context) (err error) {
	if s.upstreams, err = s.o.Upstream.OpenForTools(); err != nil {
		return err
	}
	s.remote = jwt.NewRemoteKeys(s.o.Issuer+"/.well-known/jwks.json", nil)
	s.feed, err = jwt.NewRevocationFeed(jwt.RevocationOptions{
		URL: s.o.Issuer + "/.well-known/revoked", Issuer: s.o.Issuer, Keys: s.remote,
		Poll: s.o.RevocationPoll, MaxAge: s.o.RevocationMaxAge, FailClosed: s.o.RevocationMaxAge > 0, Log: s.o.Log,
	})
	if err != nil {
		return err
	}
	s.start(ctx, s.feed.Run)
	s.metrics.gauge("signet_revocation_feed_age_seconds", "Age of the issuer's revocation feed; infinite before the first one.", func() float64 {
		if at := s.feed.Status().Issued; !at.IsZero() {
			return time.Since(at).Seconds()
		}
		return math.Inf(1)
	})
	return nil
}

// followerHealth is the answer to probes in role mcp.
type followerHealth struct {
	Status      string `json:"status"`
	Revocations string `json:"revocations,omitempty"` // current, failing open or failing closed
	FeedAge     *int64 `json:"revocation_feed_age,omitempty"`
}

// routeHealth answers the probes of a process without an authorization server.
func (s *Server) routeHealth(r chi.Router) {
	r.Get("/livez", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, followerHealth{Status: "ok"})
	})
	r.Get("/readyz", s.followerReady)
}

// followerReady reports whether the process has keys and does not refuse all tokens.
func (s *Server) followerReady(w http.ResponseWriter, r *http.Request) {
	h := followerHealth{Status: "ok", Revocations: "current"}
	err := s.remote.Prefetch(r.Context())
	feed := s.feed.Status()
	if !feed.Issued.IsZero() {
		age := max(0, int64(time.Since(feed.Issued).Seconds()))
		h.FeedAge = &age
	}
	switch {
	case feed.Stale && feed.FailClosed:
		h.Revocations, h.Status = "failing closed", "waiting for the revocation feed"
	case feed.Stale:
		h.Revocations = "failing open"
	}
	if err != nil {
		h.Status = "waiting for the issuer's keys"
	}
	if s.draining.Load() {
		h.Status = "draining"
	}
	status := http.StatusOK
	if h.Status != "ok" {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, h)
}

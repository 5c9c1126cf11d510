package handlers

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"time"
)

const storeCheckTimeout = 2 * time.Second

// livez says that the process runs. It says nothing about what the process depends on:
// a store that is down must not make all servers restart.
func (e *endpoints) livez(*http.Request) (any, error) { return health{Status: "ok"}, nil }

// health is the answer of the probes. It is public, so it contains states and no
// reasons; the log has the reasons.
type health struct {
	Status string `json:"status"`
	Keys   string `json:"keys,omitempty"`
	Store  string `json:"store,omitempty"`
	Config string `json:"config,omitempty"`
	Clock  string `json:"clock,omitempty"`
	Epoch  string `json:"epoch,omitempty"` // EpochFingerprint

	RolledBack *time.Time `json:"rolled_back,omitempty"` // when it was found that the store was rolled back; missing: never

	Users   uint64 `json:"users,omitempty"`   // generation of the users file; missing without one
	Clients uint64 `json:"clients,omitempty"` // generation of clients.json
}

// EpochFingerprint is the public form of a store's epoch: servers behind one issuer
// compare it, and it does not reveal the epoch. It is empty while there is no epoch.
func EpochFingerprint(epoch string) string {
	if epoch == "" {
		return ""
	}
	h := sha256.Sum256([]byte("signet epoch " + epoch))
	return base64.RawURLEncoding.EncodeToString(h[:12])
}

// IsEpochFingerprint reports whether s has the form of an [EpochFingerprint].
func IsEpochFingerprint(s string) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return err == nil && len(b) == 12 && len(s) == 16
}

// readyz says whether requests should be sent here: signing keys exist and the process
// is not stopping. The state of the store is reported but counts only with
// ?require=store, because JWKS, metadata and MCP calls work without it.
func (e *endpoints) readyz(r *http.Request) (any, error) {
	query, err := params(r)
	if err != nil {
		return nil, err
	}
	h := health{Status: "ok", Keys: "ok", Store: "ok", Config: "ok", Clock: "ok", Epoch: EpochFingerprint(e.o.Store.Epoch()),
		Users: e.o.UsersGeneration(), Clients: e.o.Clients.Generation()}
	if at := e.o.Store.RolledBack().UTC().Truncate(time.Second); !at.IsZero() {
		h.RolledBack = &at
	}
	if err := e.o.Stale(); err != nil {
		h.Config = "stale"
	}
	if e.o.ClocksDiffer() {
		h.Clock = "differs"
	}
	ctx, cancel := context.WithTimeout(r.Context(), storeCheckTimeout)
	defer cancel()
	if err := e.o.Store.Check(ctx); err != nil || !e.o.Denylist.Known() {
		h.Store = "unavailable"
		if query.Get("require") == "store" {
			h.Status = "waiting for the store"
		}
	}
	if _, err := e.o.Keys.Signing(time.Now()); err != nil {
		h.Keys, h.Status = "unavailable", "waiting for signing keys"
	}
	if e.o.OtherStore() {
		h.Status = "another server with another store answers for the issuer"
	}
	if e.o.Draining() {
		h.Status = "draining"
	}
	status := http.StatusOK
	if h.Status != "ok" {
		status = http.StatusServiceUnavailable
	}
	return reply{status: status, body: h}, nil
}

package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"signet/handlers"
)

// How the issuer is asked for the fingerprint of its store.
const (
	askIn     = time.Second            // deadline of the answer; a start waits that long at most
	askAgain  = 10 * time.Second       // time from a start to the next question; later 3 to 9 times as long
	askWhen   = 500 * time.Millisecond // time between looks whether this server's store is open yet
	askTwice  = 3 * time.Second        // time in which all servers of a store take up a new epoch
	maxHealth = 4 << 10
)

// askIssuer returns the fingerprint of the store of the server that answers for the issuer.
// It is empty if there is no answer, a late one, or one of another program.
func (s *Server) askIssuer(ctx context.Context) (fingerprint string) {
	if s.o.alone {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, askIn)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true} // without a proxy, which might answer for other servers
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.o.Issuer+"/readyz", nil)
	if err != nil {
		return ""
	}
	resp, err := client.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	var health struct {
		Epoch string `json:"epoch"`
	}
	// The status does not matter: a server that drains or waits for its keys has a store.
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxHealth)).Decode(&health); err != nil || !handlers.IsEpochFingerprint(health.Epoch) {
		return ""
	}
	return health.Epoch
}

// compareStores returns an error if other is the fingerprint of another store. Behind one
// issuer, each of two stores refuses what the other one issued, and a client that gets
// invalid_grant throws its tokens away.
func (s *Server) compareStores(other string) error {
	own := handlers.EpochFingerprint(s.store.Epoch())
	if other == "" || own == "" || other == own {
		return nil
	}
	return fmt.Errorf("another server answers at %s/readyz, and it has another store (epoch %s, this server's epoch %s): "+
		"each would refuse the codes, refresh handles and logins of the other. "+
		"Stop that server first, or give both one PostgreSQL database (SIGNET_STORE), or this one an issuer of its own (SIGNET_ISSUER)",
		s.o.Issuer, other, own)
}

// watchIssuer asks again and again, because servers that start together do not find each
// other, and because there is no epoch to compare while the database is down. A server that
// finds another store is not ready until it finds its own or none, so of two servers one
// goes on.
func (s *Server) watchIssuer(ctx context.Context) {
	for wait := s.o.askAgain; s.waitToAsk(ctx, wait); wait = 3*s.o.askAgain + rand.N(6*s.o.askAgain) {
		err := s.compareStores(s.askIssuer(ctx))
		if err != nil && sleep(ctx, askTwice) { // one of the two may not have taken up a new epoch yet
			err = s.compareStores(s.askIssuer(ctx))
		}
		if err != nil && ctx.Err() == nil {
			s.o.Log.Error("not ready", "err", err)
		}
		s.otherStore.Store(err != nil)
	}
}

// waitToAsk waits for d, or if this server's store is not open yet, until it is. It reports
// whether ctx goes on.
func (s *Server) waitToAsk(ctx context.Context, d time.Duration) bool {
	if s.store.Epoch() != "" {
		return sleep(ctx, d)
	}
	for s.store.Epoch() == "" {
		if !sleep(ctx, askWhen) {
			return false
		}
	}
	return true
}

// sleep waits for d, and reports whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

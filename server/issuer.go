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

// How the issuer is asked which store is behind it.
const (
	askIn     = time.Second            // the answer's deadline, which a start waits for at most
	askAgain  = 10 * time.Second       // after a start, and later once in three to nine of these
	askWhen   = 500 * time.Millisecond // to look whether our own store is there
	maxHealth = 4 << 10
)

// askIssuer asks whoever answers for the issuer which store it has. Nobody, nobody we
// know and nobody in time are one answer: "".
func (s *Server) askIssuer(ctx context.Context) (fingerprint string) {
	if s.o.alone {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, askIn)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true} // and no proxy: it would answer for others
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
	// Whatever the status: a server that drains or waits for its keys has a store, too.
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxHealth)).Decode(&health); err != nil || !handlers.IsEpochFingerprint(health.Epoch) {
		return ""
	}
	return health.Epoch
}

// compareStores returns an error if theirs is the fingerprint of another store. Behind
// one issuer, two stores refuse what the other one vouches for, and a client that is
// told invalid_grant throws its tokens away.
func (s *Server) compareStores(theirs string) error {
	ours := handlers.EpochFingerprint(s.store.Epoch())
	if theirs == "" || ours == "" || theirs == ours {
		return nil
	}
	return fmt.Errorf("another server answers at %s/readyz, and its store is not ours (its epoch is %s, ours %s): "+
		"each would refuse the codes, refresh handles and logins of the other. "+
		"Stop that server first, or give both one PostgreSQL database (SIGNET_STORE), or this one an issuer of its own (SIGNET_ISSUER)",
		s.o.Issuer, theirs, ours)
}

// watchIssuer goes on asking, because servers that start together do not find each
// other, and because a database that was down has no epoch to compare. One that finds
// another store is not ready until it finds its own or none: so of two, one goes on.
func (s *Server) watchIssuer(ctx context.Context) {
	wait := s.o.askAgain
	for {
		if s.store.Epoch() == "" {
			wait = askWhen
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if s.store.Epoch() == "" {
			wait = 0
			continue
		}
		err := s.compareStores(s.askIssuer(ctx))
		if err != nil && ctx.Err() == nil {
			s.o.Log.Error("not ready", "err", err)
		}
		s.otherStore.Store(err != nil)
		wait = 3*s.o.askAgain + rand.N(6*s.o.askAgain)
	}
}

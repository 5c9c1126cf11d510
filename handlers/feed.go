package handlers

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"signet/jwt"
)

// These add up to how late a polling verifier learns of a revocation: one second until
// this process reads the store, one until the feed is made again, feedMaxAge in a
// cache, feedTTL until the verifier polls. The sum stays below the 15 seconds that are
// promised.
const (
	feedMaxAge = 2 * time.Second
	feedTTL    = 10 * time.Second
	feedEvery  = time.Second // the shortest time between two feeds
)

// feedCompressed is the length from which the feed is also served compressed. A grant
// takes about 60 bytes, and 35 compressed.
const feedCompressed = 4 << 10

// feed is the revocation feed as it was last served.
type feed struct {
	mu     sync.Mutex
	served *document
	keyID  string
	made   time.Time
	readAt time.Time
	length int
}

// revoked serves the revocation feed: the grants that were revoked so recently that an
// access token of theirs may still be live. It is made on request and served to all
// requests of the next second, because signing a long feed takes time.
//
// Its iat is the time at which the store was last read, so a feed that is served while
// the store is down does not look fresh. Each replica signs its own feed, so the entity
// tag depends on the bytes alone.
func (e *endpoints) revoked(*http.Request) (any, error) {
	f := &e.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if f.served != nil && now.Sub(f.made) < feedEvery {
		return f.served, nil
	}
	readAt := e.o.Denylist.ReadAt()
	if readAt.IsZero() {
		return nil, unavailable(errors.New("no revocation feed yet: the store has not answered since the start"))
	}
	key, err := e.o.Keys.Signing(now)
	if err == nil && (f.served == nil || f.keyID != key.ID || !f.readAt.Equal(readAt) || f.length != e.o.Denylist.Stats().Revoked) {
		err = e.makeFeed(key.ID, now)
	}
	if err != nil && f.served == nil {
		return nil, unavailable(err)
	}
	f.made = now
	return f.served, nil
}

// makeFeed signs a feed of the denylist's current state.
func (e *endpoints) makeFeed(keyID string, now time.Time) error {
	grants, readAt := e.o.Denylist.Recent(jwt.MaxRevoked)
	if n := e.o.Denylist.Stats().Revoked; n > len(grants) {
		e.o.Log.Error("more grants were revoked lately than the revocation feed lists: verifiers that begin to poll now do not learn of the rest", "revoked", n, "listed", len(grants))
	}
	length := len(grants)
	for id, at := range grants {
		grants[id] = min((at+999)/1000, readAt.Unix()+1) // the store's time may be ahead of the clocks of verifiers
	}
	token, err := e.o.Signer.SignFeed(jwt.FeedClaims{
		Issuer: e.o.Issuer, IssuedAt: readAt.Unix(), ExpiresAt: readAt.Add(max(e.o.Denylist.Keep(), e.o.Lives.Access+jwt.Leeway)).Unix(), TTL: int64(feedTTL.Seconds()), NotBefore: e.o.Store.NotBefore(), Revoked: grants,
	}, now)
	if err != nil {
		return err
	}
	f := &e.feed
	d := &document{body: []byte(token), mediaType: "application/revoked+jwt", etag: entityTag([]byte(token)), maxAge: feedMaxAge}
	if len(token) > feedCompressed {
		d.compress()
	}
	f.served = d.prepare()
	f.keyID, f.readAt, f.length = keyID, readAt, length
	return nil
}

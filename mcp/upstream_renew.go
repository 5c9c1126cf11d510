package mcp

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"signet/jwt"
)

const (
	// renewTimeout ends a question to the source. The issuer may wait for another request
	// that refreshes the same token.
	renewTimeout = 45 * time.Second

	// refusedFor is how long a token that was refused when it was new is not renewed: it is
	// not the token that the upstream dislikes.
	refusedFor = time.Minute

	// maxRecent is the number of grants about which something is remembered at least.
	maxRecent = 4096
)

// upstreams are the callers' upstream tokens that are newer than those in their access
// tokens, and the grants that have ended. All of it is in memory, bounded, and can be asked
// for again.
type upstreams struct {
	source  UpstreamSource
	tokens  recent[UpstreamToken] // by grant
	refused recent[refusal401]    // by grant
	over    recent[time.Time]     // by grant: until when its access tokens are refused
	flights singleflight.Group
}

// refusal401 is a token that was refused when it was new.
type refusal401 struct {
	version int64
	until   time.Time
}

// newUpstreams returns nil without a source.
func newUpstreams(source UpstreamSource) *upstreams {
	if source == nil {
		return nil
	}
	return &upstreams{source: source}
}

// newer returns the token of a grant that came last from the source.
func (u *upstreams) newer(grantID string) (UpstreamToken, bool) { return u.tokens.get(grantID) }

// ended reports whether the upstream has ended the grant of claims.
func (u *upstreams) ended(claims *jwt.Claims) bool {
	if u == nil || claims.Upstream == "" {
		return false
	}
	until, ok := u.over.get(claims.GrantID)
	return ok && time.Now().Before(until)
}

// renew returns a token of a version above stale. Calls at the same time with the same stale
// version of a grant ask the source once.
func (u *upstreams) renew(ctx context.Context, call *upstreamCall, stale int64) (UpstreamToken, error) {
	grantID := call.claims.GrantID
	answer := u.flights.DoChan(grantID+" "+strconv.FormatInt(stale, 10), func() (any, error) {
		if token, ok := u.newer(grantID); ok && token.Version > stale {
			return token, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewTimeout)
		defer cancel()
		token, err := u.source.Renew(ctx, call.claims, call.accessToken(), stale)
		switch {
		case errors.Is(err, ErrUpstreamEnded):
			u.over.put(grantID, call.claims.Expires().Add(jwt.Leeway))
		case err == nil && (token.Access == "" || token.Version <= stale):
			err = errors.New("the issuer gave no newer token")
		case err == nil:
			u.tokens.put(grantID, token)
		}
		return token, err
	})
	select {
	case <-ctx.Done():
		return UpstreamToken{}, ctx.Err()
	case a := <-answer:
		token, _ := a.Val.(UpstreamToken)
		return token, a.Err
	}
}

// refuse remembers that a token was refused when it was new.
func (u *upstreams) refuse(grantID string, version int64) {
	u.refused.put(grantID, refusal401{version, time.Now().Add(refusedFor)})
}

// worthRenewing reports whether a token that the upstream has refused should be renewed.
func (u *upstreams) worthRenewing(grantID string, version int64) bool {
	r, ok := u.refused.get(grantID)
	return !ok || r.version != version || !time.Now().Before(r.until)
}

// recent remembers the values of the maxRecent keys that were put last, and of at most as
// many before.
type recent[V any] struct {
	mu         sync.RWMutex
	young, old map[string]V
}

func (r *recent[V]) get(key string) (V, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if v, ok := r.young[key]; ok {
		return v, true
	}
	v, ok := r.old[key]
	return v, ok
}

func (r *recent[V]) put(key string, v V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.young[key]; r.young == nil || !known && len(r.young) >= maxRecent {
		r.young, r.old = map[string]V{}, r.young
	}
	r.young[key] = v
}

package gateway

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"signet/internal/gatewayconfig"
)

const (
	maxCredentials = 10_000 // that are kept

	askTimeout   = 45 * time.Second // of a question to the issuer, which may wait for a provider
	checkTimeout = 5 * time.Second  // of one for a credential that can be used without an answer
	checkEvery   = time.Minute      // what a user may take back is asked for so often
	renewedFor   = time.Minute      // how long a credential in place of a refused one is not renewed
	maxRenewals  = 5                // in that time, if it is known that the server refuses this very credential
	unknownLife  = 5 * time.Minute  // of a credential of the gateway's own that does not say when it ends
	spare        = 30 * time.Second // before its end a credential is no longer used
)

// credentials remembers what the issuer gave. It is bounded, and all of it can be asked for again.
type credentials struct {
	flights singleflight.Group

	mu      sync.Mutex
	entries map[credentialKey]*list.Element
	order   list.List // of *credential; the last used is first
}

func newCredentials() *credentials {
	return &credentials{entries: map[credentialKey]*list.Element{}}
}

// credentialKey says whose credential it is, and for what. Nothing in it is of a token's text.
type credentialKey struct {
	server *gatewayconfig.Server // as one configuration describes it: another configuration has others
	grant  string                // id of the caller's grant; empty: the credential is the gateway's own
	scope  string                // of the caller's token, if the credential has its scopes
}

// credential is one that the issuer gave.
type credential struct {
	Credential
	key     credentialKey
	subject string    // the user; empty: the credential is the gateway's own
	until   time.Time // when another one is needed
	check   time.Time // when the issuer is asked whether it still counts; zero: never
	renewed time.Time // when it was got in place of a refused one; zero: it was not
	times   int       // how often it was renewed without a pause of renewedFor
	refused bool      // the server refuses it
}

// question is one for a credential.
type question struct {
	key     credentialKey
	caller  Caller
	refused bool // the server has refused the caller's credential
	checked bool // the user may take it back
	fetch   func(ctx context.Context, stale int64) (Credential, error)
}

// get returns the credential that q asks for. The issuer is asked once for any number of callers
// who ask at the same time.
func (c *credentials) get(ctx context.Context, q question) (Credential, error) {
	sent, _ := ctx.Value(sentKey{}).(http.Header)
	known, found := c.look(q, sent, time.Now())
	switch {
	case !found:
		return c.ask(ctx, q, credential{})
	case known.refused:
		return c.ask(ctx, q, known)
	case known.check.IsZero() || time.Now().Before(known.check):
		return known.Credential, nil
	}
	short, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	answer, err := c.ask(short, q, credential{})
	if err != nil && !isVerdict(err) {
		return known.Credential, nil
	}
	return answer, err
}

func isVerdict(err error) bool {
	var missing *Missing
	return errors.Is(err, ErrEnded) || errors.As(err, &missing)
}

// look returns the credential that is known, if it can be used or is the one that the server
// refuses. One caller a minute is told to check it.
func (c *credentials) look(q question, sent http.Header, now time.Time) (credential, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.entries[q.key]
	if !ok {
		return credential{}, false
	}
	e := at.Value.(*credential)
	c.order.MoveToFront(at)
	if q.refused && e.refusedIn(sent, now) {
		e.refused = true
	}
	if !e.refused && !now.Before(e.until) {
		return credential{}, false
	}
	found := *e
	if !e.check.IsZero() && !now.Before(e.check) {
		e.check = now.Add(checkEvery)
	}
	return found, true
}

// refusedIn reports whether a server that refuses the headers sent refuses e. A credential that has
// just been renewed is not the one that was refused, for a caller whose message was on its way
// meanwhile. A server that refuses every credential does not have it renewed with every message.
func (e *credential) refusedIn(sent http.Header, now time.Time) bool {
	recent := now.Sub(e.renewed) < renewedFor
	if sent == nil {
		return !recent
	}
	for _, values := range sent {
		for _, v := range values {
			if strings.HasSuffix(v, e.Token) {
				return !recent || e.times < maxRenewals
			}
		}
	}
	return false
}

// sentKey is the key of the headers that a server has refused, in a context.
type sentKey struct{}

// withSent returns a context for the question for headers in place of those sent.
func withSent(ctx context.Context, sent http.Header) context.Context {
	return context.WithValue(ctx, sentKey{}, sent)
}

// ask asks the issuer. Old is the credential that the server refuses, if it does.
func (c *credentials) ask(ctx context.Context, q question, old credential) (Credential, error) {
	type flown struct {
		Credential
		caller string // for whom the issuer was asked
	}
	name := fmt.Sprintf("%p\n%s\n%s\n%t\n%d", q.key.server, q.key.grant, q.key.scope, old.refused, old.Version)
	answer := c.flights.DoChan(name, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
		defer cancel()
		got, err := c.fetch(ctx, q, old)
		return flown{got, q.id()}, err
	})
	select {
	case <-ctx.Done():
		return Credential{}, ctx.Err()
	case a := <-answer:
		got := a.Val.(flown)
		if errors.Is(a.Err, ErrEnded) && got.caller != q.id() {
			return c.fetch(ctx, q, old) // the other caller's token has ended, and not this one
		}
		return got.Credential, a.Err
	}
}

// id names the caller's token. Tokens of other issuers have no id, and a grant each.
func (q question) id() string {
	if q.caller.Claims == nil {
		return ""
	}
	return q.caller.Claims.GrantID + "\n" + q.caller.Claims.ID
}

// fetch asks the issuer and keeps the answer.
func (c *credentials) fetch(ctx context.Context, q question, old credential) (Credential, error) {
	begin := time.Now()
	if old.refused { // it may have been renewed since
		if e, ok := c.newer(q.key, old, begin); ok {
			return e, nil
		}
	}
	got, err := q.fetch(ctx, old.Version)
	switch {
	case isVerdict(err):
		c.remove(q.key)
		return Credential{}, err
	case err != nil:
		return Credential{}, err
	case old.refused && got.Token == old.Token:
		return Credential{}, refusedBy(q.key.server)
	}
	e := &credential{Credential: got, key: q.key, until: q.until(got, begin)}
	if q.key.grant != "" {
		e.subject = q.caller.Claims.Subject
	}
	if q.checked {
		e.check = begin.Add(checkEvery)
	}
	if old.refused {
		if e.renewed, e.times = begin, 1; begin.Sub(old.renewed) < renewedFor {
			e.times = old.times + 1
		}
	}
	return c.put(e), nil
}

// until returns when another credential than got is needed.
func (q question) until(got Credential, now time.Time) time.Time {
	end := now.Add(unknownLife)
	if q.key.grant != "" {
		end = q.caller.Claims.Expires()
	}
	if got.Expires.IsZero() {
		return end
	}
	life := got.Expires.Sub(now)
	if usable := got.Expires.Add(-min(spare, life/5)); q.key.grant == "" || usable.Before(end) {
		return usable
	}
	return end
}

// newer returns the credential that has taken the place of old.
func (c *credentials) newer(key credentialKey, old credential, now time.Time) (Credential, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.entries[key]
	if !ok {
		return Credential{}, false
	}
	e := at.Value.(*credential)
	return e.Credential, !e.refused && e.Token != old.Token && now.Before(e.until)
}

// put keeps e, and returns what is to be used: an answer that was overtaken by one with a newer
// version is not.
func (c *credentials) put(e *credential) Credential {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at, ok := c.entries[e.key]; ok {
		before := at.Value.(*credential)
		if !before.refused && before.Version > e.Version {
			return before.Credential
		}
		at.Value = e
		return e.Credential
	}
	c.entries[e.key] = c.order.PushFront(e)
	if c.order.Len() > maxCredentials {
		last := c.order.Back()
		delete(c.entries, c.order.Remove(last).(*credential).key)
	}
	return e.Credential
}

// remove forgets one credential.
func (c *credentials) remove(key credentialKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at, ok := c.entries[key]; ok {
		c.order.Remove(at)
		delete(c.entries, key)
	}
}

// drop forgets the credentials that match.
func (c *credentials) drop(matches func(*credential) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for at := c.order.Front(); at != nil; {
		next := at.Next()
		if e := at.Value.(*credential); matches(e) {
			c.order.Remove(at)
			delete(c.entries, e.key)
		}
		at = next
	}
}

func (c *credentials) clear() { c.drop(func(*credential) bool { return true }) }

// LogValue keeps the token out of logs.
func (c Credential) LogValue() slog.Value { return slog.StringValue(c.String()) }

// String keeps the token out of texts.
func (c Credential) String() string { return "[credential]" }

// GoString keeps the token out of %#v.
func (c Credential) GoString() string { return c.String() }

// LogValue keeps the token out of logs.
func (c Caller) LogValue() slog.Value { return slog.StringValue(c.String()) }

// String keeps the token out of texts.
func (c Caller) String() string { return "[caller]" }

// GoString keeps the token out of %#v.
func (c Caller) GoString() string { return c.String() }

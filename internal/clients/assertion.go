package clients

import (
	"context"
	"errors"
	"net/url"
	"time"

	"signet/internal/oauth"
	"signet/jwt"
)

// Claimed returns the client id in a client assertion, which nothing proves yet, or "".
func Claimed(form url.Values) string {
	if !form.Has("client_assertion") {
		return ""
	}
	a, err := jwt.ParseAssertion(form.Get("client_assertion"))
	if err != nil {
		return ""
	}
	return a.Subject
}

// assert authenticates a client that signs (RFC 7523 §3). An assertion that is sent must
// be right, also where the client need not send one. Its ID is spent last, so that an
// assertion that failed a check has changed nothing.
func (r *Registry) assert(ctx context.Context, form url.Values, usedBasic bool) (*Client, error) {
	refuse := func(format string, args ...any) error { return invalid(format, args...) }
	switch {
	case usedBasic || form.Get("client_secret") != "":
		return nil, oauth.Errorf(oauth.InvalidRequest, "more than one method of client authentication") // OAuth 2.1 §2.4
	case form.Get("client_assertion_type") != oauth.AssertionType:
		return nil, refuse("client_assertion_type must be %s", oauth.AssertionType)
	case form.Get("client_assertion") == "":
		return nil, refuse("client_assertion is missing")
	}
	a, err := jwt.ParseAssertion(form.Get("client_assertion"))
	if err != nil {
		return nil, refuse("client assertion: %v", err)
	}
	if id := form.Get("client_id"); id != "" && id != a.Subject {
		return nil, refuse("client_id names another client than the assertion")
	}
	k, err := r.claimant(a.Subject)
	if err != nil {
		return nil, err
	}
	if k.keys == nil || r.o.Once == nil {
		return nil, refuse("this client has no keys for private_key_jwt")
	}
	if !k.Quirk.accepts(methodKey) {
		return nil, k.Quirk.refusal()
	}
	if err := r.checkAssertion(a, k); err != nil {
		return nil, err
	}
	fresh, err := r.o.Once(ctx, k.Hash()+" "+a.ID, a.Expires)
	switch {
	case err != nil:
		return nil, err
	case !fresh:
		return nil, refuse("client assertion: it was used before")
	}
	k.Method = methodKey
	return &k.Client, nil
}

// checkAssertion verifies an assertion with the keys of the client that are at hand. If none
// of them has signed it although one could have, the client may have replaced it by another of
// that name: then they are fetched behind the request, and the client is told to ask again.
func (r *Registry) checkAssertion(a *jwt.Assertion, k *known) error {
	keys, err := k.keys.atHand()
	if err != nil {
		return err
	}
	err = a.Verify(keys, r.o.Audiences, time.Now())
	if cache, url := r.source(k); errors.Is(err, jwt.ErrUnknownKey) && cache != nil && cache.Renewable(url) {
		go cache.Renew(context.Background(), url)
		return &OutageError{url, errors.New("the client may have newer keys")}
	}
	if err != nil {
		return invalid("client assertion: %v", err)
	}
	return nil
}

// renewer is a cache of documents.
type renewer interface {
	Renewable(url string) bool
	Renew(ctx context.Context, url string) error
}

// source returns where the keys of a client come from, or nil if they stay as they are.
func (r *Registry) source(k *known) (cache renewer, url string) {
	if k.keys.cache != nil {
		return k.keys.cache, k.keys.uri
	}
	if _, pinned := r.documents.pin(k.ID); k.Document == "" || pinned || r.documents.cached == nil {
		return nil, ""
	}
	return r.documents.cached, k.ID
}

// newer returns where to look for newer keys of a client whose assertion names none of those
// at hand, or nil.
func (r *Registry) newer(k *known, form url.Values) (cache renewer, url string) {
	a, err := jwt.ParseAssertion(form.Get("client_assertion"))
	if err != nil {
		return nil, ""
	}
	keys, err := k.keys.atHand()
	if err != nil || keys.MayHaveSigned(a) {
		return nil, ""
	}
	if cache, url = r.source(k); cache == nil || !cache.Renewable(url) {
		return nil, ""
	}
	return cache, url
}

package clients

import (
	"context"
	"errors"
	"net/url"
	"time"

	"signet/internal/oauth"
	"signet/jwt"
)

// assertionType is the only one that there is (RFC 7523 §2.2).
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

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
	case form.Get("client_assertion_type") != assertionType:
		return nil, refuse("client_assertion_type must be %s", assertionType)
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
	k, err := r.named(ctx, a.Subject)
	if err != nil {
		return nil, err
	}
	if k.keys == nil || r.o.Once == nil {
		return nil, refuse("this client has no keys for private_key_jwt")
	}
	if err := r.checkAssertion(ctx, a, &k); err != nil {
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

// checkAssertion verifies an assertion with the keys of the client. If none of them has
// signed it, the client may have newer ones.
func (r *Registry) checkAssertion(ctx context.Context, a *jwt.Assertion, k *known) error {
	for _, renew := range []bool{false, true} {
		keys, err := k.keys(ctx, renew)
		if err != nil {
			return keysError(err)
		}
		err = a.Verify(keys, r.o.Audiences, time.Now())
		if err == nil {
			return nil
		}
		if renew || !errors.Is(err, jwt.ErrUnknownKey) {
			return invalid("client assertion: %v", err)
		}
		if *k, err = r.renewed(ctx, k); err != nil {
			return err
		}
	}
	return nil
}

// renewed returns a client as its document says now, if it has one.
func (r *Registry) renewed(ctx context.Context, k *known) (known, error) {
	if k.Document == "" || r.documents.cached == nil {
		return *k, nil
	}
	if _, pinned := r.documents.pin(k.ID); pinned {
		return *k, nil
	}
	next, err := r.documents.cached.Renew(ctx, k.ID)
	switch {
	case err != nil:
		return *k, keysError(err)
	case next.keys == nil:
		return *k, invalid("this client has no keys for private_key_jwt")
	}
	return next, nil
}

// keysError is the answer where keys, or the document with them, cannot be had. That their
// host is down says nothing about the client.
func keysError(err error) error {
	if isOutage(err) {
		return err
	}
	return invalid("the keys of this client: %v", err)
}

package clients

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"signet/internal/oauth"
)

// ErrWrongSecret is the cause of the error for a wrong secret, if that may be a guess: the secret
// is not one that was derived from the client's id.
var ErrWrongSecret = errors.New("a wrong secret for a configured client")

// Authenticate identifies the client of a token, revocation or introspection
// request and authenticates it (OAuth 2.1 §2.4). Its errors are
// invalid_client, or invalid_request for a request that contradicts itself.
// usedBasic reports whether a 401 has to name the Basic scheme (RFC 6749 §5.2), also when
// there is an error.
//
// A registered client must use the method that it registered. A configured client has
// registered none, and client libraries use either Basic or the body, so both are
// accepted. A client that has a secret must always send it.
//
// The client comes without its redirect URIs: nothing is sent to them after such a request.
func (r *Registry) Authenticate(ctx context.Context, h http.Header, form url.Values) (c *Client, usedBasic bool, err error) {
	if len(h.Values("Authorization")) > 1 {
		return nil, false, oauth.Errorf(oauth.InvalidRequest, "more than one Authorization header")
	}
	basic, usedBasic, err := oauth.Basic(h.Get("Authorization"))
	if err != nil {
		return nil, usedBasic, err
	}
	if form.Has("client_assertion") || form.Has("client_assertion_type") {
		c, err = r.assert(ctx, form, usedBasic)
		return c, false, err
	}
	k, secrets, err := r.claimed(basic, usedBasic, form)
	if err != nil {
		return nil, usedBasic, err
	}
	if err := k.authenticate(secrets, usedBasic); err != nil {
		return nil, usedBasic, err
	}
	return &k.Client, usedBasic, nil
}

// claimed finds the client that a request names, with the possible readings of the secret
// in the request. A Basic header has two, because some clients form-encode it and others
// do not.
func (r *Registry) claimed(basic oauth.BasicCredentials, usedBasic bool, form url.Values) (*known, []string, error) {
	id, bodySecret := form.Get("client_id"), form.Get("client_secret")
	switch {
	case usedBasic && bodySecret != "":
		return nil, nil, oauth.Errorf(oauth.InvalidRequest, "credentials in the header and in the body") // OAuth 2.1 §2.4
	case !usedBasic && id == "":
		return nil, nil, invalid("client_id is missing")
	case !usedBasic:
		k, err := r.claimant(id)
		return k, []string{bodySecret}, err
	}
	k, err := r.claimant(basic.ID)
	if err != nil && basic.DecodedID != basic.ID {
		k, err = r.claimant(basic.DecodedID)
	}
	if err == nil && id != "" && id != k.ID {
		err = oauth.Errorf(oauth.InvalidRequest, "client_id names another client than the header")
	}
	return k, []string{basic.Secret, basic.DecodedSecret}, err
}

func (r *Registry) claimant(id string) (*known, error) {
	k, err := r.find(id)
	if err != nil {
		return nil, Refusal(err)
	}
	k.RedirectURIs, k.PostLogoutRedirectURIs = nil, nil // not checked, see [Registry.dropURIs]
	return k, nil
}

// Refusal is the answer to a client that cannot be found: invalid_client, if err says that
// there is none, and otherwise err.
func Refusal(err error) error {
	if err == nil {
		return nil
	}
	var document *DocumentError
	switch {
	case errors.Is(err, ErrBlocked):
		return invalid("this client is blocked")
	case errors.As(err, &document):
		return invalid("%v", document)
	case errors.Is(err, ErrUnknown):
		return invalid("no such client")
	}
	return err
}

// authenticate checks the secret that the client sent. It always compares all readings.
func (k *known) authenticate(secrets []string, usedBasic bool) error {
	sent, right := secrets[0] != "", false
	if k.Method == methodKey {
		return invalid("this client has to send an assertion: private_key_jwt")
	}
	if k.matches == nil {
		if sent {
			return invalid("this client is public and has no secret")
		}
		if !k.Quirk.accepts(methodNone) {
			return k.Quirk.refusal()
		}
		return nil
	}
	for _, s := range secrets {
		if k.matches(s) {
			right = true
			k.weak = !k.Registered && len(s) < madeSecret
		}
	}
	used := methodPost
	if usedBasic {
		used = methodBasic
	}
	switch {
	case !sent:
		return invalid("this client has to send its secret")
	case !k.Quirk.accepts(used):
		return k.Quirk.refusal()
	case k.strict && usedBasic != (k.Method == methodBasic):
		return invalid("this client registered %s", k.Method)
	case !right && !k.Registered:
		return invalid("wrong client secret").Because(ErrWrongSecret)
	case !right:
		return invalid("wrong client secret")
	}
	return nil
}

// invalid is an invalid_client. Its text begins with the words that clients of comparable servers
// look for.
func invalid(format string, args ...any) *oauth.Error {
	return oauth.Errorf(oauth.InvalidClient, "Invalid client: "+format, args...)
}

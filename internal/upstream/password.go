package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The longest credentials that are sent to a provider, in bytes.
const maxTyped, maxTypedPassword = 320, 4096

// call is a request with a JSON body to an API, and where in the answer things are.
type call struct {
	path string
	body any // a template: see fill

	access, refresh, expiresIn string
	fields
}

// Login signs a user in with a name and a password. The password is sent once and kept nowhere.
// The error is [ErrCredentials] if the provider refuses them.
func (p *Provider) Login(ctx context.Context, name, password string) (Identity, Tokens, error) {
	if p.kind != Password {
		return Identity{}, Tokens{}, fmt.Errorf("the provider %s takes no passwords", p.id)
	}
	name = strings.TrimSpace(name)
	if !isName(name) || password == "" || len(password) > maxTypedPassword || !utf8.ValidString(password) {
		return Identity{}, Tokens{}, ErrCredentials
	}
	ctx, cancel := p.within(ctx, maxTimeout)
	defer cancel()
	local, _, _ := strings.Cut(name, "@")
	obtained := time.Now().Unix()
	members, refused, err := p.call(ctx, p.login, map[string]string{typedName: name, localPart: local, typedPassword: password})
	var status *statusError
	switch {
	case refused, errors.As(err, &status) && status.status == http.StatusUnauthorized: // also with a page: the user can only try again
		return Identity{}, Tokens{}, ErrCredentials
	case err != nil:
		return Identity{}, Tokens{}, err
	}
	t := p.login.tokens(members, obtained)
	if err := t.check(); err != nil {
		return Identity{}, Tokens{}, fmt.Errorf("the login answer of %s: %w", p.id, err)
	}
	who, err := p.identify(p.login.fields, members, name)
	return who, t, err
}

func isName(s string) bool {
	return s != "" && len(s) <= maxTyped && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

func (c *call) tokens(members map[string]any, obtained int64) Tokens {
	t := Tokens{Access: text(lookup(members, c.access)), Obtained: obtained}
	if c.refresh != "" {
		t.Refresh = text(lookup(members, c.refresh))
	}
	life := int64(0)
	if c.expiresIn != "" {
		life, _ = seconds(lookup(members, c.expiresIn))
	}
	t.Expires = expiry(t.Access, obtained, life)
	return t
}

// call makes a call. The API refuses what was sent if it says so in JSON: 400, 401 or 403 of a
// proxy on the way, which are pages, are no verdict. A 401 without a page is a refusal, too.
func (p *Provider) call(ctx context.Context, c *call, values map[string]string) (members map[string]any, refused bool, err error) {
	body, err := fill(c.body, values)
	if err != nil {
		return nil, false, err
	}
	r, err := http.NewRequest(http.MethodPost, p.baseURL+c.path, bytes.NewReader(body))
	if err != nil {
		return nil, false, err
	}
	r.Header.Set("Content-Type", "application/json")
	a, err := p.send(ctx, r)
	if err != nil {
		return nil, false, err
	}
	v, err := parseJSON(a.body)
	members, isObject := v.(map[string]any)
	switch {
	case a.status/100 == 2 && err == nil && isObject:
		return members, false, nil
	case a.status/100 == 2 && err == nil:
		err = errors.New("not a JSON object")
	case a.status == http.StatusUnauthorized && !isPage(a.body):
		return nil, true, nil
	case a.status == http.StatusUnauthorized:
		return nil, false, &statusError{r.URL.String(), a.status}
	case a.status == http.StatusBadRequest, a.status == http.StatusUnauthorized, a.status == http.StatusForbidden:
		return nil, err == nil, err
	case a.status/100 != 2:
		return nil, false, fmt.Errorf("%s answered %d", r.URL, a.status)
	}
	return nil, false, fmt.Errorf("the answer of %s: %w", r.URL, err)
}

// isPage reports whether a body looks like HTML or XML.
func isPage(body []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(body), []byte("<")) }

func (p *Provider) refreshByAPI(ctx context.Context, t Tokens) (Tokens, error) {
	obtained := time.Now().Unix()
	members, refused, err := p.call(ctx, p.refresh, map[string]string{refreshToken: t.Refresh, accessToken: t.Access})
	switch {
	case refused:
		return Tokens{}, fmt.Errorf("%w: refresh at %s", ErrRefused, p.id)
	case err != nil:
		return Tokens{}, err
	}
	fresh := p.refresh.tokens(members, obtained)
	fresh.Scope = t.Scope
	if fresh.Refresh == "" {
		fresh.Refresh = t.Refresh
	}
	return fresh, fresh.check()
}

func (p *Provider) revokeByAPI(ctx context.Context, t Tokens) error {
	if p.revoke == nil {
		return nil
	}
	body, err := fill(p.revoke.body, map[string]string{refreshToken: t.Refresh, accessToken: t.Access})
	if err != nil {
		return err
	}
	r, err := http.NewRequest(http.MethodPost, p.baseURL+p.revoke.path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	return p.sent(ctx, r)
}

// sent makes a request whose answer says nothing but whether it worked.
func (p *Provider) sent(ctx context.Context, r *http.Request) error {
	a, err := p.send(ctx, r)
	if err == nil && a.status/100 != 2 {
		err = &statusError{r.URL.String(), a.status}
	}
	return err
}

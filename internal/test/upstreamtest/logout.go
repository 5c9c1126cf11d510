package upstreamtest

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// LogoutClaims returns the claims of a good logout token for a user (OpenID Connect Back-Channel
// Logout 1.0 §2.4).
func (p *Provider) LogoutClaims(name string) map[string]any {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	return map[string]any{
		"iss": p.Issuer(), "aud": p.o.ClientID, "sub": p.users[name].ID, "iat": now.Unix(), "exp": now.Add(2 * time.Minute).Unix(), "jti": random(),
		"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}},
	}
}

// SendLogout posts a logout token to a client and returns the status of the answer.
func (p *Provider) SendLogout(ctx context.Context, to, token string) (int, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(url.Values{"logout_token": {token}}.Encode()))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// LogOut ends a user's session at the provider, which tells the client.
func (p *Provider) LogOut(ctx context.Context, to, name string) (int, error) {
	return p.SendLogout(ctx, to, p.Sign(p.LogoutClaims(name)))
}

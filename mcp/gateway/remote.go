package gateway

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"signet/internal/oauth"
	"signet/internal/rawjson"
)

const (
	remoteTimeout   = 45 * time.Second // of one request; the issuer may wait for a provider
	maxRemoteAnswer = 256 << 10        // bytes
)

// RemoteIssuer is an authorization server in another process. Credentials come from its token
// endpoint, in exchange for the caller's token (RFC 8693). Nothing is sent anywhere else.
type RemoteIssuer struct {
	issuer string
	as     RemoteClient
	client *http.Client
}

// RemoteClient is the client that a gateway is at its issuer. It proves itself by a secret or, if Key
// is set, by that (RFC 7523), of which the issuer knows the public half.
type RemoteClient struct {
	ID, Secret string
	Key        crypto.Signer // RSA, or of the curve P-256
}

// NewRemoteIssuer returns a client of the issuer with a URL, which must be https, or http on
// loopback. The client must be allowed to exchange tokens for what the servers of the gateway need.
// It uses no proxy, as the client that fetches the issuer's keys.
func NewRemoteIssuer(issuer string, as RemoteClient) (*RemoteIssuer, error) {
	u, err := url.Parse(issuer)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("gateway: the issuer is not a URL of scheme, host and path")
	case u.Scheme != "https" && (u.Scheme != "http" || !oauth.IsLoopbackHost(u.Hostname())):
		return nil, fmt.Errorf("gateway: the issuer %s is neither https nor on loopback", u)
	case as.ID == "" || (as.Secret == "") == (as.Key == nil):
		return nil, errors.New("gateway: the id and either the secret or the key of the client are needed that exchanges tokens at the issuer")
	}
	client := &http.Client{Timeout: remoteTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if t, ok := http.DefaultTransport.(*http.Transport); ok {
		t = t.Clone()
		t.Proxy = nil
		t.MaxIdleConnsPerHost = 32
		client.Transport = t
	}
	return &RemoteIssuer{issuer: issuer, as: as, client: client}, nil
}

// ForAudience is [Issuer.ForAudience].
func (i *RemoteIssuer) ForAudience(ctx context.Context, caller Caller, audience string, scope []string) (Credential, error) {
	form := url.Values{"audience": {audience}, "requested_token_type": {oauth.TokenTypeAccess}}
	if len(scope) > 0 {
		form.Set("scope", oauth.FormatScope(scope))
	}
	return i.exchange(ctx, caller, form)
}

// OfUpstream is [Issuer.OfUpstream].
func (i *RemoteIssuer) OfUpstream(ctx context.Context, caller Caller, stale int64) (Credential, error) {
	if caller.Claims == nil || upstreamOf(caller) == "" {
		return Credential{}, errors.New("the user did not sign in by an upstream")
	}
	return i.provided(ctx, caller, oauth.UpstreamAudience+upstreamOf(caller), stale)
}

// OfConnection is [Issuer.OfConnection].
func (i *RemoteIssuer) OfConnection(ctx context.Context, caller Caller, connection string, stale int64) (Credential, error) {
	return i.provided(ctx, caller, oauth.ConnectionAudience+connection, stale)
}

// provided asks for a token that the issuer has from elsewhere.
func (i *RemoteIssuer) provided(ctx context.Context, caller Caller, audience string, stale int64) (Credential, error) {
	form := url.Values{"audience": {audience}, "requested_token_type": {oauth.TokenTypeUpstream}}
	if stale != 0 {
		form.Set("stale", strconv.FormatInt(stale, 10))
	}
	return i.exchange(ctx, caller, form)
}

// exchange completes form and sends it. A request that no server has answered is sent once more:
// an exchange changes nothing that another one would notice.
func (i *RemoteIssuer) exchange(ctx context.Context, caller Caller, form url.Values) (Credential, error) {
	if caller.Token == "" {
		return Credential{}, errors.New("the issuer is asked on behalf of callers only")
	}
	form.Set("grant_type", oauth.GrantTokenExchange)
	form.Set("subject_token", caller.Token)
	form.Set("subject_token_type", oauth.TokenTypeAccess)
	begin := time.Now()
	resp, err := i.post(ctx, form)
	if ctx.Err() == nil && (err != nil || resp.StatusCode == http.StatusBadGateway || resp.StatusCode == http.StatusGatewayTimeout) {
		if err == nil {
			resp.Body.Close()
		}
		resp, err = i.post(ctx, form)
	}
	if err != nil {
		return Credential{}, fmt.Errorf("asking the issuer: %w", err)
	}
	defer resp.Body.Close()
	answer, err := readRemoteAnswer(resp)
	if err != nil {
		return Credential{}, err
	}
	return answer.credential(resp, form, begin)
}

// post sends a request. With a key, each one has a proof of its own: the issuer takes none twice.
func (i *RemoteIssuer) post(ctx context.Context, form url.Values) (*http.Response, error) {
	if i.as.Key != nil {
		if err := oauth.SetAssertion(form, i.as.Key, i.as.ID, i.issuer); err != nil {
			return nil, err
		}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(i.issuer, "/")+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	if i.as.Key == nil {
		r.SetBasicAuth(url.QueryEscape(i.as.ID), url.QueryEscape(i.as.Secret)) // RFC 6749 §2.3.1
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/json")
	return i.client.Do(r)
}

// remoteAnswer is an answer of the token endpoint.
type remoteAnswer struct {
	Token   string `json:"access_token"`
	Kind    string `json:"token_type"`
	Issued  string `json:"issued_token_type"`
	Expires *int64 `json:"expires_in"` // seconds
	Version int64  `json:"version"`

	Error       oauth.Code `json:"error"`
	Description string     `json:"error_description"`
	Declined    bool       `json:"declined"`
}

// readRemoteAnswer reads one JSON object. Its errors contain nothing of the body.
func readRemoteAnswer(resp *http.Response) (a remoteAnswer, err error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxRemoteAnswer+1))
	if err != nil {
		return a, fmt.Errorf("reading the issuer's answer: %w", err)
	}
	if len(body) > maxRemoteAnswer {
		return a, fmt.Errorf("the issuer's answer is longer than %d bytes", maxRemoteAnswer)
	}
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if media != "application/json" || json.Unmarshal(body, &a) != nil {
		return remoteAnswer{}, fmt.Errorf("the issuer answered %s, and not the JSON of a token endpoint", resp.Status)
	}
	seen := map[string]bool{}
	for key := range rawjson.Members(body) {
		if key = strings.ToLower(key); seen[key] {
			return remoteAnswer{}, errors.New("the issuer's answer has a member twice")
		}
		seen[key] = true
	}
	return a, nil
}

// credential returns what is in the answer to form.
func (a remoteAnswer) credential(resp *http.Response, form url.Values, begin time.Time) (Credential, error) {
	if resp.StatusCode != http.StatusOK {
		return Credential{}, a.refusal(resp, form)
	}
	switch {
	case a.Token == "":
		return Credential{}, errors.New("the issuer's answer has no access_token")
	case !strings.EqualFold(a.Kind, "Bearer"):
		return Credential{}, errors.New("the issuer's answer has another token_type than Bearer")
	case a.Issued != form.Get("requested_token_type"):
		return Credential{}, errors.New("the issuer's answer has another issued_token_type than was requested")
	case a.Expires != nil && *a.Expires <= 0:
		return Credential{}, errors.New("the issuer's answer has a token that has expired")
	}
	c := Credential{Token: a.Token, Version: a.Version}
	if a.Expires != nil {
		c.Expires = begin.Add(time.Duration(min(*a.Expires, maxExpires)) * time.Second)
	}
	return c, nil
}

const maxExpires = 10 * 365 * 24 * 60 * 60 // seconds; what is said to live longer lives so long

// refusal returns the error for an answer that is none. Of the answers that concern this client,
// or that say nothing, none is a verdict about the caller.
func (a remoteAnswer) refusal(resp *http.Response, form url.Values) error {
	audience := form.Get("audience")
	bad := resp.StatusCode == http.StatusBadRequest
	switch {
	case bad && a.Error == oauth.InteractionRequired && strings.HasPrefix(audience, oauth.ConnectionAudience):
		return &Missing{Connection: strings.TrimPrefix(audience, oauth.ConnectionAudience), Declined: a.Declined}
	case bad && (a.Error == oauth.InvalidGrant || a.Error == oauth.InvalidRequest && a.Description == oauth.NoSubject):
		return fmt.Errorf("%w: the issuer answered %s", ErrEnded, a.Error)
	case bad && (a.Error == oauth.InvalidTarget || a.Error == oauth.UnauthorizedClient):
		return fmt.Errorf("the issuer answered %s: the client of this gateway may not exchange tokens for %s", a.Error, audience)
	case bad && a.Error == oauth.UnsupportedGrantType:
		return errors.New("the issuer exchanges no tokens, because none of its clients may: make the client of this gateway there")
	case resp.StatusCode == http.StatusUnauthorized && a.Error == oauth.InvalidClient:
		return errors.New("the issuer does not know the client of this gateway, or its secret or key is wrong")
	}
	return fmt.Errorf("the issuer answered %s for %s", resp.Status, audience)
}

package mcp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"signet/internal/oauth"
)

// defaultUpstreamTimeout is that of a provider that has none.
const defaultUpstreamTimeout = 30 * time.Second

// Client returns a client that adds the caller's token to its requests, as a bearer token. It
// sends them to the origin of the provider's base URL and to the origins of apis, such as
// "https://api.example", and returns an error for any other, and for http except on
// loopback. A redirect to another origin is not followed: the caller of the client gets it
// as the response.
//
// If the upstream answers 401, the client has the token renewed, and repeats the request once
// if it has no body or a GetBody; else it returns an error, and the next request has the new
// token. Errors are for [UpstreamCaller.Failure]. A request ends,
// with the time for a renewal, after the provider's timeout.
func (c *UpstreamCaller) Client(apis ...string) *http.Client {
	b := &bearer{caller: c, next: c.provider.Transport}
	if b.next == nil {
		b.next = http.DefaultTransport
	}
	for _, api := range append([]string{c.provider.BaseURL}, apis...) {
		if u, err := url.Parse(api); err == nil && u.Host != "" {
			b.origins = append(b.origins, origin(u))
		}
	}
	timeout := c.provider.Timeout
	if timeout <= 0 {
		timeout = defaultUpstreamTimeout
	}
	return &http.Client{Transport: b, CheckRedirect: b.checkRedirect, Timeout: timeout}
}

// bearer is the transport of a Client.
type bearer struct {
	caller  *UpstreamCaller
	origins []string
	next    http.RoundTripper
}

// originError refuses a request that must not have the token. It is the program's mistake.
type originError struct{ text string }

func (e *originError) Error() string { return e.text }

func (b *bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := b.begin(r)
	if err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, err
	}
	resp, err := b.send(r, r.Body, token)
	call := b.caller.call
	if err != nil || resp.StatusCode != http.StatusUnauthorized || !call.upstreams.worthRenewing(call.claims.GrantID, token.Version) {
		return resp, err
	}
	newer, err := b.caller.renew(r.Context(), token.Version)
	if err != nil {
		discard(resp)
		return nil, err
	}
	discard(resp)
	body, again := repeatable(r)
	if !again {
		return nil, &renewedError{b.caller.name()}
	}
	if resp, err = b.send(r, body, newer); err == nil && resp.StatusCode == http.StatusUnauthorized {
		call.upstreams.refuse(call.claims.GrantID, newer.Version)
	}
	return resp, err
}

// begin returns the token for r.
func (b *bearer) begin(r *http.Request) (UpstreamToken, error) {
	if err := b.check(r.URL); err != nil {
		return UpstreamToken{}, err
	}
	return b.caller.token(r.Context())
}

func (b *bearer) check(u *url.URL) error {
	switch o := origin(u); {
	case len(b.origins) == 0:
		return &originError{fmt.Sprintf("the base URL of %s is not known: name the origin of its API", b.caller.name())}
	case !slices.Contains(b.origins, o):
		return &originError{fmt.Sprintf("%s is not an origin of %s: its token is not sent there", o, b.caller.name())}
	case u.Scheme != "https" && !oauth.IsLoopbackHost(u.Hostname()):
		return &originError{fmt.Sprintf("%s is not https: the token of %s is not sent there", o, b.caller.name())}
	}
	return nil
}

// send sends r with body and token. The request of the caller is not changed.
func (b *bearer) send(r *http.Request, body io.ReadCloser, token UpstreamToken) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Body = body
	r.Header.Set("Authorization", "Bearer "+token.Access)
	return b.next.RoundTrip(r)
}

// repeatable returns the body of r for a second attempt, and whether there can be one.
func repeatable(r *http.Request) (io.ReadCloser, bool) {
	if r.Body == nil || r.Body == http.NoBody {
		return r.Body, true
	}
	if r.GetBody == nil {
		return nil, false
	}
	body, err := r.GetBody()
	return body, err == nil
}

// discard closes a response, and reads it if it is short, so that the connection can be used
// again.
func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
	resp.Body.Close()
}

func (b *bearer) checkRedirect(r *http.Request, via []*http.Request) error {
	if b.check(r.URL) != nil {
		return http.ErrUseLastResponse
	}
	if len(via) >= 10 {
		return errors.New("more than 10 redirects")
	}
	return nil
}

// origin returns the origin of u in the one spelling of RFC 6454 §6.2.
func origin(u *url.URL) string {
	scheme, host, port := strings.ToLower(u.Scheme), strings.ToLower(u.Hostname()), u.Port()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port == "" || scheme == "https" && port == "443" || scheme == "http" && port == "80" {
		return scheme + "://" + host
	}
	return scheme + "://" + host + ":" + port
}

// timedOut reports whether err is the end of a deadline.
func timedOut(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &n) && n.Timeout()
}

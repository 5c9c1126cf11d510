package upstream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpproxy"
)

const (
	maxAnswer = 1 << 20 // bytes of a provider's answer
	maxHeader = 64 << 10
	agent     = "Signet"

	// keysAge is how long the keys of logout tokens are not fetched again, whatever key a token
	// names: anybody can send one.
	keysAge = 2 * time.Second
)

// newTransport returns the way to the operator's providers, which may be in a private network.
// A mandatory proxy and private certificates work by the usual variables HTTPS_PROXY, NO_PROXY,
// SSL_CERT_FILE and SSL_CERT_DIR. A connection is for one request: on a connection that a
// provider has just closed, a request may be lost or sent twice.
func newTransport() *http.Transport {
	proxy := httpproxy.FromEnvironment().ProxyFunc()
	return &http.Transport{
		Proxy:             func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },
		DialContext:       (&net.Dialer{Timeout: maxTimeout}).DialContext,
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeader,
	}
}

// bounded sends requests and reads each answer as a whole, up to maxAnswer bytes.
type bounded struct{ way http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("User-Agent", agent)
	if r.Header.Get("Accept") == "" {
		r.Header.Set("Accept", "application/json")
	}
	resp, err := b.way.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.Header.Get("Content-Encoding") != "" {
		return nil, errors.New("the answer is compressed")
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, err
	case len(body) > maxAnswer:
		return nil, fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	return withBody(resp, body), nil
}

func withBody(resp *http.Response, body []byte) *http.Response {
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return resp
}

// client returns an HTTP client that follows no redirects and keeps no cookies.
func client(way http.RoundTripper, timeout time.Duration) *http.Client {
	return &http.Client{Transport: way, Timeout: timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// answer is what a provider answered.
type answer struct {
	status int
	body   []byte
}

// send makes one request. Its error names the URL and nothing that was sent.
func (p *Provider) send(ctx context.Context, r *http.Request) (*answer, error) {
	resp, err := client(bounded{p.way}, p.timeout).Do(r.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return &answer{resp.StatusCode, body}, err
}

// statusError is an answer of a status that is not understood.
type statusError struct {
	url    string
	status int
}

func (e *statusError) Error() string { return fmt.Sprintf("%s answered %d", e.url, e.status) }

// get reads the JSON object at a URL.
func (p *Provider) get(ctx context.Context, rawURL, bearer string) (map[string]any, []byte, error) {
	v, body, err := p.getJSON(ctx, rawURL, bearer)
	if err != nil {
		return nil, nil, err
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, nil, fmt.Errorf("the answer of %s is not a JSON object", rawURL)
	}
	return object, body, nil
}

// getJSON reads the JSON value at a URL.
func (p *Provider) getJSON(ctx context.Context, rawURL, bearer string) (any, []byte, error) {
	r, err := http.NewRequest(http.MethodGet, rawURL, nil)
	if err != nil {
		return nil, nil, err
	}
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	a, err := p.send(ctx, r)
	switch {
	case err != nil:
		return nil, nil, err
	case a.status != http.StatusOK:
		return nil, nil, &statusError{rawURL, a.status}
	}
	v, err := parseJSON(a.body)
	if err != nil {
		return nil, nil, fmt.Errorf("the answer of %s: %w", rawURL, err)
	}
	return v, a.body, nil
}

// tokenAnswers turns the answers of a token endpoint, JSON or a form, into JSON objects that have
// only the members of RFC 6749 §5 and of OpenID Connect, each once and of the right type.
type tokenAnswers struct{ way http.RoundTripper }

// tokenAnswer is an answer of a token endpoint (RFC 6749 §5.1, §5.2).
type tokenAnswer struct {
	AccessToken      string `json:"access_token,omitempty"`
	TokenType        string `json:"token_type,omitempty"`
	RefreshToken     string `json:"refresh_token,omitempty"`
	ExpiresIn        int64  `json:"expires_in,omitempty"`
	Scope            string `json:"scope,omitempty"`
	IDToken          string `json:"id_token,omitempty"`
	Error            string `json:"error,omitempty"`
	ErrorDescription string `json:"error_description,omitempty"`
}

func (t tokenAnswers) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.way.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	members, err := parseTokenAnswer(resp.Header.Get("Content-Type"), body)
	if err != nil && resp.StatusCode == http.StatusUnauthorized {
		members, err = map[string]any{"error": "invalid_client"}, nil // for which 401 is (RFC 6749 §5.2)
	}
	if err != nil {
		return nil, fmt.Errorf("status %d: the answer of the token endpoint: %w", resp.StatusCode, err)
	}
	life, _ := seconds(members["expires_in"])
	clean, err := json.Marshal(tokenAnswer{
		AccessToken: text(members["access_token"]), TokenType: text(members["token_type"]), RefreshToken: text(members["refresh_token"]), ExpiresIn: life,
		Scope: strings.Join(texts(members["scope"]), " "), IDToken: text(members["id_token"]), Error: text(members["error"]), ErrorDescription: text(members["error_description"]),
	})
	if err != nil {
		return nil, err
	}
	resp.Header.Set("Content-Type", "application/json")
	return withBody(resp, clean), nil
}

func parseTokenAnswer(contentType string, body []byte) (map[string]any, error) {
	kind, _, _ := mime.ParseMediaType(contentType)
	if kind != "application/x-www-form-urlencoded" {
		return parseObject(body)
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, errors.New("not a form")
	}
	members := map[string]any{}
	for name, values := range form {
		if len(values) > 1 {
			return nil, fmt.Errorf("the member %q is there twice", cut(name, 64))
		}
		members[name] = values[0]
	}
	return members, nil
}

// errKeys is wrapped by errors of a key set that cannot be had.
var errKeys = errors.New("the provider's keys are not available")

// keysAnswers passes on key sets that are whole, and the last one again up to an age.
type keysAnswers struct {
	way http.RoundTripper
	age time.Duration

	mu      sync.Mutex
	body    []byte
	fetched time.Time
}

func (k *keysAnswers) RoundTrip(r *http.Request) (*http.Response, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.body != nil && time.Since(k.fetched) < k.age {
		return withBody(&http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Request: r}, k.body), nil
	}
	resp, err := k.way.RoundTrip(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errKeys, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", resp.StatusCode)
	}
	if err == nil {
		_, err = parseObject(body)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errKeys, err)
	}
	k.body, k.fetched = body, time.Now()
	return withBody(resp, body), nil
}

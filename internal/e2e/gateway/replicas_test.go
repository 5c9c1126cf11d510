package gateway

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"signet/internal/e2e"
	"signet/internal/test/backends"
	"signet/internal/test/cluster"
	"signet/internal/test/process"
	"signet/internal/test/upstreamtest"
)

// fleet is two issuers on one database, and three gateways that hold no secret but that of their
// client. nginx is in front of all.
type fleet struct {
	*delegated
	c     *cluster.Cluster
	kills atomic.Int64
}

func startFleet(t *testing.T) *fleet {
	t.Helper()
	if err := cluster.Missing(); err != nil {
		if os.Getenv("SIGNET_TEST_ALL") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	p := upstreamtest.New(t, upstreamtest.Options{Manner: upstreamtest.Strict, ClientID: "client-of-tickets"})
	be := backends.New(t, backends.Options{Accept: func(token string) bool { return p.Owner(token) != "" && p.Live(token) }})
	own := backends.New(t, backends.Options{})
	file := filepath.Join(t.TempDir(), "gateway.yaml")
	config := fmt.Sprintf(`servers:
  - id: tickets
    type: http
    auth_strategy: delegate_oauth
    ask: error
    auth_config: {provider: custom, issuer: %q, client_id: client-of-tickets, client_secret: env:TICKETS_SECRET, scopes: [openid, offline_access]}
    config: {url: %s}
  - id: own
    type: http
    auth_strategy: master_oauth
    config: {url: %s}
`, p.Issuer(), be.Endpoint(), own.Endpoint())
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := cluster.Start(t.Context(), cluster.Options{
		Program: e2e.Binary(t), Gateway: file, Users: map[string]string{"ann": e2e.AnnsPassword, "bob": bobsPassword},
		EnvOf: func(replica string) []string {
			if strings.HasPrefix(replica, "auth-") {
				return []string{"TICKETS_SECRET=" + p.ClientSecret()}
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { endCluster(t, c) })
	p.Register(c.URL + "/oauth/callback")
	w := &world{Program: &e2e.Program{T: t, Issuer: c.URL}, t: t, file: file}
	return &fleet{delegated: &delegated{w, p, be}, c: c}
}

func endCluster(t *testing.T, c *cluster.Cluster) {
	if t.Failed() {
		for _, r := range c.Replicas() {
			t.Logf("the last of %s:\n%s", r.Name, cluster.Tail(r.Log, 15))
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// errAgain says that a request got no answer of a replica, and may be sent again.
var errAgain = errors.New("no replica answered")

// post sends a request and returns the body of the answer.
func post(ctx context.Context, to, token, media, body string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	r.Header = e2e.CallRequest(to, token).Header
	r.Header.Set("Content-Type", media)
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errAgain, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return "", fmt.Errorf("%w: %w", errAgain, err)
	case resp.StatusCode == http.StatusBadGateway || resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusGatewayTimeout:
		return "", fmt.Errorf("%w: %s", errAgain, resp.Status)
	case resp.StatusCode != http.StatusOK:
		return "", fmt.Errorf("%s: %s", resp.Status, b)
	}
	for _, message := range messages(resp.Header, string(b)) {
		b = []byte(message)
	}
	return string(b), nil
}

// whoami calls the tool of a server at a gateway, or at nginx. It returns the text of the result.
func whoami(ctx context.Context, base, token, server string) (string, error) {
	answer, err := post(ctx, base+"/mcp", token, "application/json", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"`+server+`.whoami","arguments":{}}}`)
	if err != nil {
		return "", err
	}
	var a reply
	if err := json.Unmarshal([]byte(answer), &a); err != nil {
		return "", err
	}
	text, failed := a.text()
	if failed || text == "" {
		return text, fmt.Errorf("the result is an error: %.300s", answer)
	}
	return text, nil
}

// caller is a compliant client of one user: it sends again what got no answer.
type caller struct {
	*fleet
	name   string
	client *e2e.Client
	tokens e2e.Tokens
	calls  atomic.Int64
}

// repeat calls f until a replica answers.
func repeat(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, process.Patience)
	defer cancel()
	for {
		err := f()
		if !errors.Is(err, errAgain) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// refresh gets other tokens with the refresh handle.
func (c *caller) refresh(ctx context.Context) error {
	return repeat(ctx, func() error {
		answer, err := post(ctx, c.Issuer+"/token", "", "application/x-www-form-urlencoded", c.client.RefreshForm(c.tokens.RefreshToken).Encode())
		if err != nil {
			return err
		}
		return json.Unmarshal([]byte(answer), &c.tokens)
	})
}

// check calls both servers, and checks that each call is made as its user.
func (c *caller) check(ctx context.Context, base string) error {
	return repeat(ctx, func() error {
		text, err := whoami(ctx, base, c.tokens.AccessToken, "tickets")
		if err != nil {
			return err
		}
		if owner := c.p.Owner(text); owner != c.name {
			return fmt.Errorf("a call of %s was made as %q", c.name, owner)
		}
		if text, err = whoami(ctx, base, c.tokens.AccessToken, "own"); err != nil {
			return err
		}
		if text == c.tokens.AccessToken || claims(c.t, text)["sub"] != c.name {
			return fmt.Errorf("a call of %s reached its own server with another token", c.name)
		}
		return nil
	})
}

// work calls the servers through nginx until ctx ends, and refreshes its tokens after each kill.
func (c *caller) work(ctx context.Context) {
	for seen := int64(0); ctx.Err() == nil; c.calls.Add(1) {
		err := c.check(ctx, c.Issuer)
		if kills := c.kills.Load(); err == nil && kills != seen {
			seen = kills
			err = c.refresh(ctx)
		}
		if err != nil && ctx.Err() == nil {
			c.t.Errorf("%s: %v", c.name, err)
			return
		}
	}
}

// caller signs a user in, who connects the server with accounts of its own.
func (f *fleet) caller(name string) *caller {
	f.t.Helper()
	c := &caller{fleet: f, name: name}
	c.client, c.tokens = f.login(name)
	text, err := whoami(f.t.Context(), f.Issuer, c.tokens.AccessToken, "tickets")
	link := anyLink.FindString(text)
	if err == nil || link == "" {
		f.t.Fatalf("%s is not asked to connect: %q, %v", name, text, err)
	}
	if page := f.connect(visitor(name), link); page.StatusCode != http.StatusOK {
		f.t.Fatalf("%s connects: %s", name, page)
	}
	return c
}

// Three gateways behind nginx get the users' credentials from two issuers. Each of the five is
// killed in turn while users call: no call is made with the credential of another user, no client
// is logged out, and no user has to do anything. A provider's token that has ended is refreshed
// once for all gateways, and a gateway has no secret that would open the store.
func TestGatewaysWithoutSecretsActForTheirUsers_Row57_Row58_Row89(t *testing.T) {
	f := startFleet(t)
	callers := []*caller{f.caller("ann"), f.caller("bob")}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var work sync.WaitGroup
	for _, c := range callers {
		work.Go(func() { c.work(ctx) })
	}
	goOn := func() { // until each has called a few times more
		t.Helper()
		for _, c := range callers {
			before := c.calls.Load()
			e2e.Eventually(t, func() bool { return c.calls.Load() > before+5 || t.Failed() })
		}
	}
	for _, r := range f.c.Replicas() {
		goOn()
		if err := r.Kill(); err != nil {
			t.Fatal(err)
		}
		f.kills.Add(1)
		goOn()
		if err := errors.Join(r.Start(t.Context()), r.Ready(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	goOn()
	stop()
	work.Wait()
	refreshes, ann := f.p.Count("refresh"), callers[0]
	f.p.InvalidateUser("ann")
	for i := range 12 {
		work.Go(func() {
			if err := ann.check(t.Context(), f.c.MCP[i%len(f.c.MCP)].URL); err != nil {
				t.Errorf("%s: %v", f.c.MCP[i%len(f.c.MCP)].Name, err)
			}
		})
	}
	work.Wait()
	if n := f.p.Count("refresh") - refreshes; n != 1 {
		t.Errorf("the token of ann was refreshed %d times, want 1", n)
	}
	for _, r := range f.c.MCP {
		log := cluster.Tail(r.Log, 1<<30)
		for _, secret := range []string{f.p.ClientSecret(), f.c.Secret, ann.tokens.AccessToken, callers[1].tokens.AccessToken} {
			if log == "" || strings.Contains(log, secret) {
				t.Errorf("the log of %s is empty or has a secret", r.Name)
			}
		}
	}
	if f.be.Log() == "" || strings.Contains(f.be.Log(), ann.tokens.AccessToken) {
		t.Error("the server has seen the caller's token")
	}
}

// keyPair writes a private key, and the JWK Set with its public half.
func keyPair(t *testing.T) (private, public string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	private, public = filepath.Join(dir, "key.pem"), filepath.Join(dir, "jwks.json")
	for path, text := range map[string][]byte{private: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), public: set} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return private, public
}

// A gateway may prove itself to its issuer by a key in place of a secret. Another key gets nothing.
func TestGatewayProvesItselfByAKey_Row57_Row60(t *testing.T) {
	own := backends.New(t, backends.Options{})
	issuer := prepare(t, fmt.Sprintf("servers:\n  - {id: own, type: http, auth_strategy: master_oauth, config: {url: %s}}\n", own.Endpoint()), "SIGNET_ROLE=auth")
	private, public := keyPair(t)
	other, _ := keyPair(t)
	issuer.Env = append(issuer.Env, "SIGNET_RESOURCES="+issuer.Issuer+"/mcp")
	issuer.Start()
	issuer.TakesUp("clients", func() { issuer.Must("client", "add", "gw", "--exchange", "gateway", "--jwks", public) })
	for key, good := range map[string]bool{private: true, other: false} {
		g := e2e.Start(t, []string{
			"SIGNET_ISSUER=" + issuer.Issuer, "SIGNET_LISTEN=127.0.0.1:" + e2e.FreePort(t), "SIGNET_RESOURCES=" + issuer.Issuer + "/mcp", "SIGNET_GATEWAY_CONFIG=" + issuer.file,
			"SIGNET_GATEWAY_CLIENT_ID=gw", "SIGNET_GATEWAY_CLIENT_KEY=" + key,
		}, "--role", "mcp")
		for range 2 { // a proof counts once
			text, err := whoami(t.Context(), g.URL(), issuer.token("ann"), "own")
			if (err == nil) != good || good && claims(t, text)["sub"] != "ann" {
				t.Errorf("good key %t: %q, %v", good, text, err)
			}
		}
	}
}

package operate

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/internal/e2e"
	"signet/internal/seal"
	"signet/internal/test/pgtest"
	"signet/jwt"
	"signet/keys"
)

// keyInfo is a key of `signet key list --json`.
type keyInfo struct {
	ID             string     `json:"kid"`
	State          keys.State `json:"state"`
	Private        bool       `json:"private_half"`
	PublishedAt    *time.Time `json:"published_at,omitempty"`
	SignsFrom      *time.Time `json:"signs_from,omitempty"`
	SignsUntil     *time.Time `json:"signs_until,omitempty"`
	PublishedUntil *time.Time `json:"published_until,omitempty"`
	WithdrawnAt    *time.Time `json:"withdrawn_at,omitempty"`
}

// keyList is what `signet key list --json` prints.
func keyList(d *e2e.Program) (list []keyInfo) {
	d.T.Helper()
	out, errOut, status := d.Signet("", "key", "list", "--json")
	if err := json.Unmarshal([]byte(out), &list); err != nil || status != 0 {
		d.T.Fatalf("key list --json: %d %v\n%s%s", status, err, out, errOut)
	}
	return list
}

func keyInState(d *e2e.Program, state keys.State) (k keyInfo) {
	d.T.Helper()
	for _, k := range keyList(d) {
		if k.State == state {
			return k
		}
	}
	d.T.Fatalf("no key is %s: %+v", state, keyList(d))
	return k
}

// headerCache is a verifier's key source that caches the JWK Set over HTTP for as long
// as the headers say, fetches it for no other reason, and remembers what it saw.
type headerCache struct {
	t    *testing.T
	url  string
	mu   sync.Mutex
	keys map[string]*ecdsa.PublicKey
	till time.Time
	seen map[string]string // all keys ever seen, by key ID
}

func newHeaderCache(t *testing.T, issuer string) *headerCache {
	return &headerCache{t: t, url: issuer + "/.well-known/jwks.json", seen: map[string]string{}}
}

func (c *headerCache) Key(_ context.Context, kid string) (*ecdsa.PublicKey, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !time.Now().Before(c.till) {
		c.fetch()
	}
	if c.keys[kid] == nil {
		return nil, jwt.ErrUnknownKey
	}
	return c.keys[kid], nil
}

var maxAge = regexp.MustCompile(`max-age=([0-9]+)`)

func (c *headerCache) fetch() {
	asked := time.Now()
	resp, err := http.Get(c.url)
	if err != nil {
		c.t.Error(err)
		return
	}
	defer resp.Body.Close()
	var set struct {
		Keys []struct{ Kid, X, Y string }
	}
	age := maxAge.FindStringSubmatch(resp.Header.Get("Cache-Control"))
	if err := json.NewDecoder(resp.Body).Decode(&set); err != nil || age == nil || resp.StatusCode != 200 {
		c.t.Errorf("JWKS: %d %v %v", resp.StatusCode, resp.Header, err)
		return
	}
	seconds, _ := time.ParseDuration(age[1] + "s")
	c.keys, c.till = map[string]*ecdsa.PublicKey{}, asked.Add(seconds)
	for _, k := range set.Keys {
		if was := c.seen[k.Kid]; was != "" && was != k.X {
			c.t.Errorf("key ID %s names two keys", k.Kid)
		}
		c.seen[k.Kid] = k.X
		x, _ := base64.RawURLEncoding.DecodeString(k.X)
		y, _ := base64.RawURLEncoding.DecodeString(k.Y)
		if c.keys[k.Kid], err = ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y)); err != nil {
			c.t.Errorf("JWKS: %v", err)
		}
	}
}

func kidOf(rawToken string) string {
	var h struct{ Kid string }
	text, _, _ := strings.Cut(rawToken, ".")
	b, _ := base64.RawURLEncoding.DecodeString(text)
	json.Unmarshal(b, &h)
	return h.Kid
}

// Under refreshes and MCP calls the operator rotates keys again and again. A verifier
// that caches by the headers never meets a key that it cannot know. Then the operator
// withdraws the signing key: its tokens are refused, and the next refresh brings a
// valid one.
func TestKeysRotateUnderLoad_F12_INV9(t *testing.T) {
	d := e2e.Start(t, []string{"SIGNET_KEY_ROTATION=4s"}, "--demo")
	replica := e2e.Start(t, []string{"SIGNET_ISSUER=" + d.Issuer}, "--role", "mcp")
	cache := newHeaderCache(t, d.Issuer)
	v, err := jwt.NewVerifier(jwt.VerifierOptions{Issuer: d.Issuer, Audiences: []string{d.Issuer + "/mcp"}, Keys: cache})
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var workers sync.WaitGroup
	var mu sync.Mutex
	signed := map[string]int{}
	latest := make([]e2e.Tokens, 2)
	clients := make([]*e2e.Client, len(latest))
	for i := range latest {
		clients[i], latest[i] = d.Login()
		workers.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(10 * time.Millisecond):
				}
				tok, status := clients[i].Refresh(t, latest[i].RefreshToken)
				if status != 200 {
					t.Errorf("refresh: %d %+v", status, tok)
					return
				}
				latest[i] = tok
				if _, err := v.Verify(context.Background(), tok.AccessToken); err != nil {
					t.Errorf("a verifier that caches by the headers: %v", err)
				}
				for _, at := range []string{d.Issuer, replica.URL()} {
					if status := e2e.Call(t, at+"/mcp", tok.AccessToken); status != 200 {
						t.Errorf("%s: %d", at, status)
					}
				}
				mu.Lock()
				signed[kidOf(tok.AccessToken)]++
				mu.Unlock()
			}
		})
	}
	keysSeen := func() int { mu.Lock(); defer mu.Unlock(); return len(signed) }
	for n := 0; n < 8 || keysSeen() < 4 && n < 60 && !t.Failed(); n++ {
		if out, errOut, status := d.Signet("", "key", "rotate"); status != 0 || !strings.Contains(out, " signs ") {
			t.Errorf("key rotate: %d %s%s", status, out, errOut)
		}
		time.Sleep(time.Second)
	}
	close(stop)
	workers.Wait()
	if t.Failed() {
		t.FailNow()
	}
	if len(signed) < 4 {
		t.Errorf("%d keys signed while others were brought forward: the test is idle", len(signed))
	}
	now := newHeaderCache(t, d.Issuer)
	for kid := range signed { // their tokens live for minutes
		if _, err := now.Key(t.Context(), kid); err != nil {
			t.Errorf("%s has signed, and is no longer published", kid)
		}
	}

	tok, _ := clients[0].Refresh(t, latest[0].RefreshToken)
	kid := kidOf(tok.AccessToken)
	out, errOut, status := d.Signet("", "key", "rotate", "--revoke", kid)
	if status != 0 || !strings.Contains(out, kid+" is withdrawn") || !strings.Contains(out, "up to 1 s more") {
		t.Fatalf("--revoke: %d %s%s", status, out, errOut)
	}
	e2e.Eventually(t, func() bool { return e2e.Call(t, d.Issuer+"/mcp", tok.AccessToken) == 401 })
	e2e.Eventually(t, func() bool { return e2e.Call(t, replica.URL()+"/mcp", tok.AccessToken) == 401 })
	next, status := clients[0].Refresh(t, tok.RefreshToken)
	if status != 200 || kidOf(next.AccessToken) == kid || e2e.Call(t, d.Issuer+"/mcp", next.AccessToken) != 200 {
		t.Errorf("after that: %d, signed by %s", status, kidOf(next.AccessToken))
	}
	if _, errOut, status := d.Signet("", "key", "rotate", "--revoke", kid); status != 1 || !strings.Contains(errOut, "withdrawn already") {
		t.Errorf("--revoke twice: %d %s", status, errOut)
	}
}

// Two replicas on PostgreSQL follow a withdrawal.
func TestKeyCommandsWithReplicas(t *testing.T) {
	shared := []string{"SIGNET_STORE=" + pgtest.URL(t), "SIGNET_SECRET=" + seal.NewSecret(), "SIGNET_KEY_ROTATION=4s"}
	a := e2e.Start(t, shared, "--demo")
	b := e2e.Start(t, append(shared, "SIGNET_ISSUER="+a.Issuer), "--demo")
	client, tok := a.Login()
	if list := keyList(b); len(list) < 2 {
		t.Fatalf("key list: %+v", list)
	}
	kid := kidOf(tok.AccessToken)
	if _, errOut, status := b.Signet("", "key", "rotate", "--revoke", kid); status != 0 {
		t.Fatal(errOut)
	}
	for _, at := range []string{a.Issuer, b.URL()} {
		e2e.Eventually(t, func() bool { return e2e.Call(t, at+"/mcp", tok.AccessToken) == 401 })
		cache := newHeaderCache(t, at)
		if _, err := cache.Key(t.Context(), kid); err == nil {
			t.Errorf("%s publishes the withdrawn key", at)
		}
	}
	handle := tok.RefreshToken
	for _, at := range []string{a.Issuer, b.URL()} {
		next, status := client.At(at).Refresh(t, handle)
		if status != 200 || kidOf(next.AccessToken) == kid {
			t.Errorf("%s: %d, signed by %s", at, status, kidOf(next.AccessToken))
		}
		handle = next.RefreshToken
	}
	if k := keyInState(a, keys.Withdrawn); k.ID != kid || k.WithdrawnAt == nil {
		t.Errorf("withdrawn: %+v", k)
	}
}

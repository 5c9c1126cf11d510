package mcp_test

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/modelcontextprotocol/go-sdk/auth"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/jwt"
	"signet/mcp"
)

// Clients probe with GET and need the challenge there, not a 405.
func TestEveryMethodMeetsTheBearerCheckFirst_J01(t *testing.T) {
	w := newWorld(t)
	expired := w.token(t, func(c *jwt.Claims) { c.IssuedAt -= 1000; c.ExpiresAt = c.IssuedAt + 300 })
	w.revoked["gone"] = true
	plain := map[string]string{"resource_metadata": metadataURL, "scope": "read"}
	withError := func(description string) map[string]string {
		return map[string]string{"resource_metadata": metadataURL, "scope": "read", "error": "invalid_token", "error_description": description}
	}
	const wrong = "the access token is not valid for this resource"
	good := w.token(t, nil)
	tests := []struct {
		name, header string
		want         map[string]string
	}{
		{"no header", "", plain},
		{"other scheme", "Basic YTpi", plain},
		{"DPoP", "DPoP " + good, plain},
		{"token without scheme", good, plain},
		{"no token", "Bearer", withError("malformed bearer token")},
		{"empty token", "Bearer  ", withError("malformed bearer token")},
		{"two words", "Bearer a b", withError("malformed bearer token")},
		{"a tab", "Bearer a\tb", withError("malformed bearer token")},
		{"garbage", "Bearer garbage", withError(wrong)},
		{"bad signature", "Bearer " + good[:len(good)-8] + "AAAAAAAA", withError(wrong)},
		{"expired", "Bearer " + expired, withError("Token expired: the access token has expired")},
		{"revoked", "Bearer " + w.token(t, func(c *jwt.Claims) { c.GrantID = "gone" }), withError("the access token was revoked")},
		{"of no grant", "Bearer " + w.token(t, func(c *jwt.Claims) { c.GrantID = "" }), withError("the access token belongs to no grant")},
		{"bound to a key", "Bearer " + w.token(t, func(c *jwt.Claims) { c.Confirm = &jwt.Confirmation{Thumbprint: strings.Repeat("x", 43)} }), withError(wrong)},
	}
	handlers := map[string]http.Handler{"Handler": w.handler(t), "Guard": mcp.Guard(w.options, unreachable(t))}
	for name, h := range handlers {
		for _, tt := range tests {
			for _, method := range []string{"POST", "GET", "DELETE", "HEAD", "PUT"} {
				r := w.call(t, "whoami", "{}")
				r.Method = method
				r.Header.Del("Authorization")
				if tt.header != "" {
					r.Header.Set("Authorization", tt.header)
				}
				got := serve(h, r)
				if got.Code != http.StatusUnauthorized {
					t.Errorf("%s: %s: %s: status %d, want 401", name, tt.name, method, got.Code)
					continue
				}
				if diff := cmp.Diff(tt.want, challenge(t, got)); diff != "" {
					t.Errorf("%s: %s: %s: challenge (-want +got):\n%s", name, tt.name, method, diff)
				}
				if body := decode(t, got); string(body.Error) != `"invalid_token"` {
					t.Errorf("%s: %s: %s: error %s, want invalid_token", name, tt.name, method, body.Error)
				}
				if got.Header().Get("Cache-Control") != "no-store" {
					t.Errorf("%s: %s: %s: may be stored", name, tt.name, method)
				}
			}
		}
	}
	// The scheme is case-insensitive (RFC 9110 §11.1), and space around is allowed.
	for _, header := range []string{"bearer " + good, "BEARER   " + good, " Bearer " + good + " "} {
		r := w.call(t, "whoami", "{}")
		r.Header.Set("Authorization", header)
		if got := serve(handlers["Handler"], r); got.Code != http.StatusOK {
			t.Errorf("%.10q...: status %d, want 200: %s", header, got.Code, got.Body)
		}
	}
}

// For clients of the older protocol it also names the scopes that they have, which they would
// lose.
func TestChallengeNamesAllNeededScopes_J02(t *testing.T) {
	w := newWorld(t)
	w.options.Required = []string{"read", "admin"}
	for name, h := range map[string]http.Handler{"Handler": w.handler(t), "Guard": mcp.Guard(w.options, unreachable(t))} {
		for _, tt := range []struct {
			era  string
			edit func(*http.Request)
			want string
		}{
			{"sessionless", func(*http.Request) {}, "read admin"},
			{"sessions", legacy, "write admin read"},
		} {
			r := w.call(t, "whoami", "{}")
			tt.edit(r)
			r.Header.Set("Authorization", "Bearer "+w.token(t, func(c *jwt.Claims) { c.Scope = "write offline_access admin" }))
			got := serve(h, r)
			if got.Code != http.StatusForbidden {
				t.Errorf("%s: %s: status %d, want 403", name, tt.era, got.Code)
				continue
			}
			want := map[string]string{
				"error": "insufficient_scope", "scope": tt.want, "resource_metadata": metadataURL,
				"error_description": "the access token lacks a scope that this operation needs",
			}
			if diff := cmp.Diff(want, challenge(t, got)); diff != "" {
				t.Errorf("%s: %s: challenge (-want +got):\n%s", name, tt.era, diff)
			}
			if body := decode(t, got); string(body.Error) != `"insufficient_scope"` {
				t.Errorf("%s: %s: error %s", name, tt.era, body.Error)
			}
		}
	}
	r := w.call(t, "echo", `{"message":"hi"}`)
	r.Header.Set("Authorization", "Bearer "+w.token(t, func(c *jwt.Claims) { c.Scope = "admin write read" }))
	if got := serve(w.handler(t), r); got.Code != http.StatusOK {
		t.Errorf("with more than the required scopes: status %d, want 200", got.Code)
	}
}

// The header holds one token.
func TestTokenIsTakenFromTheAuthorizationHeaderAlone_J03(t *testing.T) {
	w := newWorld(t)
	good := w.token(t, nil)
	h := w.handler(t)
	tests := []struct {
		name   string
		edit   func(*http.Request)
		status int
		code   string
	}{
		{"query", func(r *http.Request) { r.URL.RawQuery = "access_token=" + good }, 401, ""},
		{"cookie", func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "access_token", Value: good}) }, 401, ""},
		{"form body", func(r *http.Request) {
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			setBody(r, "access_token="+good)
		}, 401, ""},
		{"two headers", func(r *http.Request) { r.Header["Authorization"] = []string{"Bearer " + good, "Bearer " + good} }, 400, "invalid_request"},
		{"comma list", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+good+", Bearer "+good) }, 400, "invalid_request"},
		{"comma list without space", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+good+",Basic") }, 400, "invalid_request"},
	}
	for _, tt := range tests {
		r := w.call(t, "whoami", "{}")
		r.Header.Del("Authorization")
		tt.edit(r)
		got := serve(h, r)
		if got.Code != tt.status {
			t.Errorf("%s: status %d, want %d", tt.name, got.Code, tt.status)
			continue
		}
		if code := challenge(t, got)["error"]; code != tt.code {
			t.Errorf("%s: error %q, want %q", tt.name, code, tt.code)
		}
		decode(t, got)
	}
}

// A guard whose verifier serves several resources refuses it too.
func TestTokenForAnotherResourceIsRefused_J04(t *testing.T) {
	w := newWorld(t)
	for _, other := range []string{
		resource + "/", resource + "b", "http://mcp.example/mcp", "https://mcp.example", "https://mcp.example/MCP", "https://other.example/mcp",
	} {
		w.options.Verifier = w.verifier(t, resource, other)
		r := w.call(t, "whoami", "{}")
		r.Header.Set("Authorization", "Bearer "+w.token(t, func(c *jwt.Claims) { c.Audience = other }))
		got := serve(w.handler(t), r)
		if got.Code != http.StatusUnauthorized || challenge(t, got)["error"] != "invalid_token" {
			t.Errorf("audience %s: status %d, want 401 invalid_token", other, got.Code)
		}
	}
}

// Each row changes one claim of a good token, which is signed all the same.
func TestIssuerAndAudienceAreComparedWhole_F10(t *testing.T) {
	w := newWorld(t)
	h := w.handler(t)
	for name, edit := range map[string]func(*jwt.Claims){
		"issuer prefix": func(c *jwt.Claims) { c.Issuer = "https://auth.exampl" },
		"issuer suffix": func(c *jwt.Claims) { c.Issuer = issuer + ".evil.example" },
		"issuer slash":  func(c *jwt.Claims) { c.Issuer = issuer + "/" },
		"issuer scheme": func(c *jwt.Claims) { c.Issuer = "http://auth.example" },
		"issuer case":   func(c *jwt.Claims) { c.Issuer = "https://Auth.example" },
		"audience":      func(c *jwt.Claims) { c.Audience = issuer },
		"not yet":       func(c *jwt.Claims) { c.IssuedAt += 1000; c.ExpiresAt += 1000 },
	} {
		r := w.call(t, "whoami", "{}")
		r.Header.Set("Authorization", "Bearer "+w.token(t, edit))
		got := serve(h, r)
		if got.Code != http.StatusUnauthorized || challenge(t, got)["error"] != "invalid_token" {
			t.Errorf("%s: status %d, want 401 invalid_token", name, got.Code)
		}
	}
}

func TestRefreshHandleIsNoAccessToken_E15(t *testing.T) {
	w := newWorld(t)
	r := w.call(t, "whoami", "{}")
	r.Header.Set("Authorization", "Bearer sr_"+strings.Repeat("Ab-_9", 40))
	got := serve(w.handler(t), r)
	if got.Code != http.StatusUnauthorized || challenge(t, got)["error"] != "invalid_token" {
		t.Errorf("status %d, want 401 invalid_token", got.Code)
	}
}

// The token may be good, and a 401 would make clients throw it away.
func TestGuardWithoutKeysGivesNoVerdict(t *testing.T) {
	w := newWorld(t)
	w.keys = nil
	w.options.Verifier = w.verifier(t, resource)
	got := serve(w.handler(t), w.call(t, "whoami", "{}"))
	if got.Code != http.StatusServiceUnavailable {
		t.Errorf("status %d, want 503", got.Code)
	}
	if got.Header().Get("Retry-After") == "" || got.Header().Get("WWW-Authenticate") != "" {
		t.Errorf("Retry-After %q, WWW-Authenticate %q; want only the first", got.Header().Get("Retry-After"), got.Header().Get("WWW-Authenticate"))
	}
	if body := decode(t, got); string(body.Error) != `"temporarily_unavailable"` {
		t.Errorf("error %s, want temporarily_unavailable", body.Error)
	}
	if !strings.Contains(w.log.String(), "no keys available") {
		t.Errorf("the log does not say why: %s", w.log)
	}
}

func TestGuardShowsCaller(t *testing.T) {
	w := newWorld(t)
	called := false
	h := mcp.Guard(w.options, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		called = true
		claims, ok := mcp.Caller(r.Context())
		if !ok || claims.Subject != "alice" || claims.ClientID != "c1" || claims.GrantID != "g1" {
			t.Errorf("Caller: %+v, %t", claims, ok)
		}
		info := auth.TokenInfoFromContext(r.Context())
		if info == nil || info.UserID != "alice" || !cmp.Equal(info.Scopes, []string{"read"}) || !info.Expiration.Equal(claims.Expires()) {
			t.Fatalf("TokenInfo: %+v", info)
		}
		if info.Extra["client_id"] != "c1" || info.Extra["gid"] != "g1" {
			t.Errorf("Extra: %v", info.Extra)
		}
	}))
	r := httptest.NewRequest("PATCH", resource, nil)
	r.Header.Set("Authorization", "Bearer "+w.token(t, nil))
	if serve(h, r); !called {
		t.Error("the guarded handler was not called")
	}
	if _, ok := mcp.Caller(t.Context()); ok {
		t.Error("a caller without a token")
	}
}

// The caller is not that of the call that opened the session, and only the user who opened
// the session may use it.
func TestEachCallOfASessionHasItsOwnCaller(t *testing.T) {
	w := newWorld(t)
	h := mcp.Guard(w.options, sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return w.options.Server },
		&sdk.StreamableHTTPOptions{JSONResponse: true}))
	call := func(session, body string, edit func(*jwt.Claims)) *httptest.ResponseRecorder {
		r := w.call(t, "echo", "{}")
		legacy(r)
		setBody(r, body)
		r.Header.Set("Mcp-Session-Id", session)
		r.Header.Set("Authorization", "Bearer "+w.token(t, edit))
		return serve(h, r)
	}
	const initialize = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","clientInfo":{"name":"c","version":"1"},"capabilities":{}}}`
	const initialized = `{"jsonrpc":"2.0","method":"notifications/initialized"}`
	const whoami = `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"whoami"}}`
	session := call("", initialize, nil).Header().Get("Mcp-Session-Id")
	if got := call(session, initialized, nil); got.Code != http.StatusAccepted {
		t.Fatalf("initialized: status %d: %s", got.Code, got.Body)
	}
	got := call(session, whoami, func(c *jwt.Claims) { c.ClientID, c.Scope = "c2", "read write" })
	if !strings.Contains(got.Body.String(), `"client_id":"c2"`) || !strings.Contains(got.Body.String(), `"read write"`) {
		t.Errorf("status %d: %s; want the second token's client and scope", got.Code, got.Body)
	}
	if got := call(session, whoami, func(c *jwt.Claims) { c.Subject = "mallory" }); got.Code != http.StatusForbidden {
		t.Errorf("another user in the session: status %d, want 403: %s", got.Code, got.Body)
	}
	r := httptest.NewRequest("DELETE", resource, nil)
	r.Header.Set("Authorization", "Bearer "+w.token(t, nil))
	r.Header.Set("Mcp-Session-Id", session)
	if got := serve(h, r); got.Code != http.StatusNoContent {
		t.Errorf("ending the session: status %d: %s", got.Code, got.Body)
	}
}

// The verifier accepts tokens a little after their end because clocks differ.
func TestSDKAcceptsTokensWithinTheLeeway(t *testing.T) {
	w := newWorld(t)
	r := w.call(t, "whoami", "{}")
	r.Header.Set("Authorization", "Bearer "+w.token(t, func(c *jwt.Claims) { c.IssuedAt -= 340; c.ExpiresAt = c.IssuedAt + 300 }))
	if got := serve(w.handler(t), r); got.Code != http.StatusOK {
		t.Errorf("40 s after expiry: status %d, want 200: %s", got.Code, got.Body)
	}
}

// Where the clock of the verifier is that of the issuer, the endpoint takes no token from
// its exp on, and a stream ends by then.
func TestGuardWithTheIssuersClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		v, err := jwt.NewVerifier(jwt.VerifierOptions{Issuer: issuer, Audiences: []string{resource}, Keys: w.keys, SameClock: true})
		if err != nil {
			t.Fatal(err)
		}
		w.options.Verifier = v
		h, token := w.handler(t), w.token(t, nil)
		ask := func() int {
			r := w.call(t, "whoami", "{}")
			r.Header.Set("Authorization", "Bearer "+token)
			return serve(h, r).Code
		}
		stream := make(chan time.Duration, 1)
		go serve(mcp.Guard(w.options, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			began := time.Now()
			<-r.Context().Done()
			stream <- time.Since(began)
		})), func() *http.Request {
			r := httptest.NewRequest("GET", resource, nil)
			r.Header.Set("Accept", "text/event-stream")
			r.Header.Set("Authorization", "Bearer "+token)
			return r
		}())
		time.Sleep(5*time.Minute - time.Second)
		if got := ask(); got != http.StatusOK {
			t.Errorf("a second before exp: status %d, want 200", got)
		}
		time.Sleep(time.Second)
		if got := ask(); got != http.StatusUnauthorized {
			t.Errorf("at exp: status %d, want 401", got)
		}
		if lasted := <-stream; lasted > 5*time.Minute {
			t.Errorf("a stream lasted %v, want until exp", lasted)
		}
	})
}

// A flood of tokens that cannot be verified does not flood the log.
func TestGuardLogsAnOutageOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		v, err := jwt.NewVerifier(jwt.VerifierOptions{Issuer: issuer, Audiences: []string{resource}, Keys: noKeys{}})
		if err != nil {
			t.Fatal(err)
		}
		w.options.Verifier = v
		h := mcp.Guard(w.options, unreachable(t))
		for range 100 {
			if got := serve(h, w.call(t, "whoami", "{}")); got.Code != http.StatusServiceUnavailable || got.Header().Get("Retry-After") == "" || got.Header().Get("WWW-Authenticate") != "" {
				t.Fatalf("status %d, headers %v, want 503 with Retry-After and no challenge", got.Code, got.Header())
			}
			time.Sleep(20 * time.Millisecond)
		}
		if n := strings.Count(w.log.String(), "level=ERROR"); n < 1 || n > 3 {
			t.Errorf("%d errors in the log in two seconds, want one a second", n)
		}
	})
}

// noKeys is a key source without an answer.
type noKeys struct{}

func (noKeys) Key(context.Context, string) (*ecdsa.PublicKey, error) {
	return nil, jwt.ErrKeysUnavailable
}

// An ordinary request is not cut short.
func TestStreamEndsWithItsToken(t *testing.T) {
	w := newWorld(t)
	soon := w.token(t, func(c *jwt.Claims) { c.IssuedAt -= 358; c.ExpiresAt = c.IssuedAt + 300 })
	h := mcp.Guard(w.options, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		deadline, ok := r.Context().Deadline()
		if stream := r.Header.Get("Accept") == "text/event-stream"; ok != stream {
			t.Errorf("Accept %q: deadline %t", r.Header.Get("Accept"), ok)
		}
		if ok && time.Until(deadline) > 3*time.Second {
			t.Errorf("the stream ends in %v, want at most 3 s", time.Until(deadline))
		}
	}))
	for _, accept := range []string{"text/event-stream", "application/json"} {
		r := httptest.NewRequest("GET", resource, nil)
		r.Header.Set("Authorization", "Bearer "+soon)
		r.Header.Set("Accept", accept)
		serve(h, r)
	}
}

func unreachable(t *testing.T) http.Handler {
	return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s reached the guarded handler", r.Method)
	})
}

func TestTokensOfOthersCountOnlyIfTheyAreChecked_Row53(t *testing.T) {
	w := newWorld(t)
	others := map[string]error{"good": nil, "bad": fmt.Errorf("%w: not one of theirs", jwt.ErrInvalid), "unknown": errors.New("their keys cannot be had")}
	w.options.Others = func(_ context.Context, raw string) (*jwt.Claims, error) {
		err, known := others[raw]
		if !known {
			return nil, jwt.ErrInvalid
		}
		return &jwt.Claims{Subject: "other:carol", Scope: "read", GrantID: "other:1", ExpiresAt: time.Now().Unix() + 300}, err
	}
	h := w.handler(t)
	for token, status := range map[string]int{"good": 200, "bad": 401, "unknown": 503, "nobody's": 401, w.token(t, nil): 200, w.token(t, func(c *jwt.Claims) { c.ExpiresAt -= 3600; c.IssuedAt -= 3600 }): 401} {
		r := w.call(t, "echo", `{"message":"hi"}`)
		r.Header.Set("Authorization", "Bearer "+token)
		if got := serve(h, r); got.Code != status {
			t.Errorf("%.20s: status %d, want %d: %s", token, got.Code, status, got.Body)
		}
	}
}

// What Caller returns is the request's own: a program that changes it changes no other
// request with the same token.
func TestCallerIsACopy(t *testing.T) {
	w := newWorld(t)
	h := mcp.Guard(w.options, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		c, ok := mcp.Caller(r.Context())
		if !ok || c.Subject != "alice" || c.Actor.Subject != "bot" {
			t.Errorf("Caller = %+v, %v", c, ok)
			return
		}
		c.Subject, c.Actor.Subject = "admin", "admin"
	}))
	r := w.call(t, "echo", "{}")
	r.Header.Set("Authorization", "Bearer "+w.token(t, func(c *jwt.Claims) { c.Actor = &jwt.Actor{Subject: "bot"} }))
	for range 3 {
		if got := serve(h, r); got.Code != http.StatusOK {
			t.Fatalf("%d %s", got.Code, got.Body)
		}
	}
}

// For a token that was verified before, a Guard makes one object, which is the context and the
// copy of the request that has it. All else is made when a handler asks.
func TestGuardAllocatesTheRequestAndItsContextAlone(t *testing.T) {
	w := newWorld(t)
	h := mcp.Guard(w.options, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for _, accept := range []string{"application/json", "application/json, text/event-stream"} {
		r, rw := w.call(t, "echo", "{}"), &discard{http.Header{}}
		r.Header.Set("Accept", accept)
		h.ServeHTTP(rw, r)
		if n := testing.AllocsPerRun(1000, func() { h.ServeHTTP(rw, r) }); n > 1 {
			t.Errorf("Accept %s: %.0f allocations, want 1", accept, n)
		}
	}
}

// The TokenInfo is the request's own, and the same whoever asks.
func TestEachRequestHasItsOwnTokenInfo(t *testing.T) {
	w := newWorld(t)
	w.options.Hierarchy = mcp.Hierarchy{"admin": {"read"}}
	h := mcp.Guard(w.options, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		type key struct{}
		info := auth.TokenInfoFromContext(context.WithValue(r.Context(), key{}, 1))
		if info == nil || info != auth.TokenInfoFromContext(r.Context()) {
			t.Fatal("no TokenInfo, or another one each time")
		}
		if !cmp.Equal(info.Scopes, []string{"admin", "read"}) || info.Extra["gid"] != "g1" {
			t.Errorf("TokenInfo: %+v", info)
		}
		info.Scopes[0], info.Extra["gid"] = "changed", "changed"
	}))
	r := w.call(t, "echo", "{}")
	r.Header.Set("Authorization", "Bearer "+w.token(t, func(c *jwt.Claims) { c.Scope = "admin" }))
	for range 2 {
		if got := serve(h, r); got.Code != http.StatusOK {
			t.Fatalf("status %d", got.Code)
		}
	}
}

package upstream_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"signet/internal/test/upstreamtest"
	"signet/internal/upstream"
)

func TestCallersMayBringTokensOfAnotherIssuer_Row53(t *testing.T) {
	p, other := upstreamtest.New(t, upstreamtest.Options{}), upstreamtest.New(t, upstreamtest.Options{})
	v := upstream.NewCallerVerifier(p.Issuer(), p.URL()+"/jwks", "gateway")
	now := time.Now().Unix()
	good := func() map[string]any {
		return map[string]any{"iss": p.Issuer(), "sub": "carol", "aud": "gateway", "iat": now, "exp": now + 300, "scope": "read write", "client_id": "c1"}
	}
	who, err := v.Verify(context.Background(), p.Sign(good()))
	if err != nil || who.Subject != "carol" || who.ClientID != "c1" || len(who.Scopes) != 2 || who.Expires.Unix() != now+300 || who.Token == "" {
		t.Fatalf("%+v, %v", who, err)
	}
	for name, change := range map[string]func(c map[string]any){
		"other issuer":   func(c map[string]any) { c["iss"] = other.Issuer() },
		"other audience": func(c map[string]any) { c["aud"] = "someone" },
		"expired":        func(c map[string]any) { c["exp"] = now - 120 },
		"no sub":         func(c map[string]any) { delete(c, "sub") },
		"id token":       func(c map[string]any) { c["nonce"] = "n" },
		"bound":          func(c map[string]any) { c["cnf"] = map[string]any{"jkt": "x"} },
	} {
		c := good()
		change(c)
		if who, err := v.Verify(context.Background(), p.Sign(c)); !errors.Is(err, upstream.ErrCaller) {
			t.Errorf("%s: %+v, %v", name, who, err)
		}
	}
	if _, err := v.Verify(context.Background(), other.Sign(good())); !errors.Is(err, upstream.ErrCaller) {
		t.Errorf("signed by a key of another issuer: %v", err)
	}
	const none = "eyJhbGciOiJub25lIn0.e30."
	if _, err := v.Verify(context.Background(), none); !errors.Is(err, upstream.ErrCaller) {
		t.Errorf("alg none: %v", err)
	}
	p.Down()
	fresh := upstream.NewCallerVerifier(p.Issuer(), p.URL()+"/jwks", "gateway")
	if _, err := fresh.Verify(context.Background(), p.Sign(good())); err == nil || errors.Is(err, upstream.ErrCaller) {
		t.Errorf("keys that cannot be had are a verdict: %v", err)
	}
}

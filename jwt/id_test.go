package jwt_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"signet/jwt"
)

func goodID() jwt.IDClaims {
	now := time.Now()
	return jwt.IDClaims{
		Issuer: issuer, Subject: "alice", Audience: "client", IssuedAt: now.Unix(), ExpiresAt: now.Add(5 * time.Minute).Unix(),
		AuthTime: now.Unix(), Nonce: "n-0S6_WzA2Mj", AccessTokenHash: jwt.AccessTokenHash("x"),
	}
}

func (w *world) idToken(t testing.TB, change func(*jwt.IDClaims)) string {
	t.Helper()
	c := goodID()
	if change != nil {
		change(&c)
	}
	raw, err := w.signer.SignID(c, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestIDTokenHasItsProfile(t *testing.T) {
	w := newWorld(t)
	header, payload, err := jwt.UnsafeClaims(w.idToken(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"alg":"ES256","typ":"JWT","kid":"` + keyID + `"}`; string(header) != want {
		t.Errorf("header %s, want %s", header, want)
	}
	var got map[string]any
	if err := json.Unmarshal(payload, &got); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"iss", "sub", "aud", "iat", "exp", "auth_time", "nonce", "at_hash"} {
		if got[name] == nil {
			t.Errorf("%s is missing", name)
		}
	}
	if len(got) != 8 {
		t.Errorf("claims %v, want eight", got)
	}
}

// The vector of OpenID Connect Core §A.3: an access token, and the at_hash of an id token
// that is signed with SHA-256.
func TestAccessTokenHashIsThatOfTheVector(t *testing.T) {
	if got, want := jwt.AccessTokenHash("jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y"), "77QmUPtjPfzWtF2AnpK9RQ"; got != want {
		t.Errorf("at_hash %s, want %s", got, want)
	}
}

func TestSignIDRefusesBadClaims(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(*jwt.IDClaims){
		"iss":         func(c *jwt.IDClaims) { c.Issuer = "" },
		"sub":         func(c *jwt.IDClaims) { c.Subject = "" },
		"aud":         func(c *jwt.IDClaims) { c.Audience = "" },
		"nonce":       func(c *jwt.IDClaims) { c.Nonce = "\xff" },
		"name":        func(c *jwt.IDClaims) { c.Name = "\xff" },
		"login name":  func(c *jwt.IDClaims) { c.PreferredUsername = "\xff" },
		"email":       func(c *jwt.IDClaims) { c.Email = "\xff" },
		"expired":     func(c *jwt.IDClaims) { c.ExpiresAt = c.IssuedAt },
		"unissued":    func(c *jwt.IDClaims) { c.IssuedAt = 0 },
		"auth before": func(c *jwt.IDClaims) { c.AuthTime = -1 },
	} {
		c := goodID()
		change(&c)
		if raw, err := w.signer.SignID(c, time.Now()); err == nil {
			t.Errorf("%s: signed %s", name, raw)
		}
	}
}

// An id token does not pass for an access token, nor an access token for an id token.
func TestIDTokenIsNoAccessToken(t *testing.T) {
	w := newWorld(t)
	if _, err := w.verifier.Verify(t.Context(), w.idToken(t, nil)); !errors.Is(err, jwt.ErrInvalid) {
		t.Errorf("id token as an access token: %v", err)
	}
	if _, err := jwt.VerifyIDHint(t.Context(), w.source, issuer, w.token(t, nil)); !errors.Is(err, jwt.ErrInvalid) {
		t.Errorf("access token as an id token: %v", err)
	}
	// The same with all claims of an access token in the id token.
	header := goodHeader()
	header["typ"] = "JWT"
	if _, err := w.verifier.Verify(t.Context(), handmade(t, w.key, marshal(t, header), marshal(t, goodPayload()))); !errors.Is(err, jwt.ErrInvalid) {
		t.Errorf("id token with the claims of an access token: %v", err)
	}
}

func TestIDHintMayBeExpiredButNotForged(t *testing.T) {
	w, ctx := newWorld(t), context.Background()
	old := w.idToken(t, func(c *jwt.IDClaims) { c.IssuedAt, c.ExpiresAt = 1_000_000, 1_000_300 })
	if c, err := jwt.VerifyIDHint(ctx, w.source, issuer, old); err != nil || c.Subject != "alice" || c.Audience != "client" {
		t.Fatalf("expired hint: %+v, %v", c, err)
	}
	good := w.idToken(t, nil)
	header := map[string]any{"alg": "ES256", "typ": "JWT", "kid": keyID}
	for name, raw := range map[string]string{
		"empty":               "",
		"another issuer":      w.idToken(t, func(c *jwt.IDClaims) { c.Issuer = "https://other.test" }),
		"another key":         handmade(t, newKey(t), marshal(t, header), `{"iss":"`+issuer+`","sub":"alice","aud":"client"}`),
		"no subject":          handmade(t, w.key, marshal(t, header), `{"iss":"`+issuer+`","aud":"client"}`),
		"no audience":         handmade(t, w.key, marshal(t, header), `{"iss":"`+issuer+`","sub":"alice"}`),
		"several audiences":   handmade(t, w.key, marshal(t, header), `{"iss":"`+issuer+`","sub":"alice","aud":["client"]}`),
		"audience twice":      handmade(t, w.key, marshal(t, header), `{"iss":"`+issuer+`","sub":"alice","aud":"client","aud":"other"}`),
		"changed":             strings.Replace(good, ".", "A.", 1),
		"alg none":            b64([]byte(`{"alg":"none","typ":"JWT","kid":"`+keyID+`"}`)) + "." + b64([]byte(`{"iss":"`+issuer+`","sub":"alice","aud":"client"}`)) + ".",
		"longer than MaxSize": good + strings.Repeat("A", jwt.MaxSize),
	} {
		if c, err := jwt.VerifyIDHint(ctx, w.source, issuer, raw); !errors.Is(err, jwt.ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	if _, err := jwt.VerifyIDHint(ctx, publish("another", w.key), issuer, good); !errors.Is(err, jwt.ErrUnknownKey) || errors.Is(err, jwt.ErrInvalid) {
		t.Errorf("hint whose key is gone: %v, want ErrUnknownKey alone", err)
	}
}

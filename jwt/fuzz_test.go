package jwt_test

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"signet/jwt"
)

// go-jose accepts every token that Verify accepts, and a plain JSON reader finds the
// same claims in it: the signature is by the one key, over the text that was read.
func FuzzVerify(f *testing.F) {
	w := newWorld(f)
	good := w.token(f, nil)
	f.Add(good)
	for _, raw := range bombs(f, w) {
		if len(raw) < 10_000 {
			f.Add(raw)
		}
	}
	f.Fuzz(func(t *testing.T, raw string) {
		c, err := w.verifier.Verify(context.Background(), raw)
		if err != nil {
			if c != nil {
				t.Error("claims come with an error")
			}
			return
		}
		jws, err := jose.ParseSignedCompact(raw, []jose.SignatureAlgorithm{jose.ES256})
		if err != nil {
			t.Fatalf("go-jose refuses: %v", err)
		}
		payload, err := jws.Verify(&w.key.PublicKey)
		if err != nil {
			t.Fatalf("go-jose refuses: %v", err)
		}
		var plain jwt.Claims
		if err := json.Unmarshal(payload, &plain); err != nil || plain != *c {
			t.Errorf("read as %+v, by encoding/json as %+v, %v", *c, plain, err)
		}
	})
}

// FuzzSigned signs any header and payload, so that it reaches the checks after the
// signature.
func FuzzSigned(f *testing.F) {
	w := newWorld(f)
	f.Add(marshal(f, goodHeader()), marshal(f, goodPayload()))
	for _, raw := range bombs(f, w) {
		if header, payload, err := jwt.UnsafeClaims(raw); err == nil {
			f.Add(string(header), string(payload))
		}
	}
	f.Fuzz(func(t *testing.T, header, payload string) {
		raw := handmade(t, w.key, header, payload)
		c, err := w.verifier.Verify(context.Background(), raw)
		if err != nil {
			return
		}
		jws, err := jose.ParseSignedCompact(raw, []jose.SignatureAlgorithm{jose.ES256})
		if err != nil {
			t.Fatalf("go-jose refuses: %v", err)
		}
		if _, err := jws.Verify(&w.key.PublicKey); err != nil {
			t.Fatalf("go-jose refuses: %v", err)
		}
		var plain map[string]any
		if err := json.Unmarshal([]byte(payload), &plain); err != nil {
			t.Fatal(err)
		}
		if plain["iss"] != issuer || plain["aud"] != c.Audience || plain["sub"] != c.Subject || plain["cnf"] != nil || c.Subject == "" {
			t.Errorf("%s read as %+v", payload, c)
		}
	})
}

// The scanner accepts no text that is not JSON, and reads strings as encoding/json does.
func FuzzScan(f *testing.F) {
	for _, s := range []string{
		`{}`, ` { "a" : [ 1 , -0.5e+10 , true , false , null , "x" , {} ] } `, `{"a":"\u0061\ud83d\ude00\n\/"}`, `{"a":"\ud800"}`,
		`{"a":1,"a":2}`, `{"a":01}`, `{"a":1.}`, `{"a":.1}`, `{"a":-}`, `{"a":1e}`, `{"a"}`, `{"a":}`, `{,}`, `[`, `"`, `{"a":"\x"}`, "{\"a\":\"\xff\"}", "{\"a\":\"\t\"}", `{"a":nul}`, `{"a":truex}`, "\x00", `{"a":"\u12`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if jwt.ScanObject(text) == nil {
			if !json.Valid(text) || !utf8.Valid(text) || bytes.TrimLeft(text, " \t\r\n")[0] != '{' {
				t.Errorf("accepted %q", text)
			}
			var m map[string]any
			if err := json.Unmarshal(text, &m); err != nil && !bytes.ContainsAny(text, "eE") { // 1e999 is JSON but no float
				t.Errorf("accepted %q: %v", text, err)
			}
		}
		if value, err := jwt.ScanString(text); err == nil && value != "" {
			var m map[string]string
			if err := json.Unmarshal(text, &m); err != nil {
				t.Errorf("accepted %q: %v", text, err)
			}
			for _, other := range m {
				if len(m) == 1 && other != value {
					t.Errorf("%q read as %q, by encoding/json as %q", text, value, other)
				}
			}
		}
	})
}

// No body makes parseSet panic, or accept a key that cannot verify.
func FuzzParseSet(f *testing.F) {
	key := newKey(f)
	f.Add(setOf("a", key))
	f.Add([]byte(`{"keys":[` + jwkOf("x", key, `,"d":"AAAA"`) + "," + jwkOf("y", key, `,"use":"enc"`) + `]}`))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AA"},7,null,[]]}`))
	f.Add([]byte(jwkOf("a", key, "")))
	f.Add([]byte(`{"keys":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		keys, err := jwt.ParseSet(body)
		if (err == nil) != (len(keys) > 0) {
			t.Errorf("%d keys and %v", len(keys), err)
		}
		for kid, key := range keys {
			if _, err := key.ECDH(); err != nil || kid == "" {
				t.Errorf("accepted %q: %v", kid, err)
			}
		}
	})
}

// The claims of a revocation feed are those that a plain JSON reader finds, and a feed
// that two readers could read differently is refused.
func FuzzFeed(f *testing.F) {
	f.Add([]byte(`{"iss":"https://auth.test","iat":1,"exp":2,"ttl":10,"revoked":{"a":1,"b":2}}`))
	f.Add([]byte(`{"iss":"https://auth.test","iat":1,"exp":2,"ttl":10,"revoked":{}}`))
	f.Add([]byte(`{"iss":"x","iat":1,"exp":2,"ttl":10,"revoked":{"a":1,"a":2},"Revoked":{"b":1}}`))
	f.Add([]byte(`{"iss":"x","iat":1.5e3,"exp":1e309,"ttl":-1,"revoked":{"\u0061":1,"__proto__":2}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := jwt.ParseFeed(string(text))
		if err != nil {
			return
		}
		var plain jwt.FeedClaims
		if err := json.Unmarshal(text, &plain); err != nil {
			t.Fatalf("encoding/json refuses: %v", err)
		}
		if diff := cmp.Diff(plain, *c); diff != "" {
			t.Errorf("read differently (-encoding/json +scanner):\n%s", diff)
		}
		if c.Issuer == "" || c.IssuedAt <= 0 || c.ExpiresAt <= c.IssuedAt || c.Revoked == nil {
			t.Errorf("accepted %+v", c)
		}
	})
}

package jwt_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"signet/jwt"
)

func (w *world) refuses(t *testing.T, name, raw string) {
	t.Helper()
	c, err := w.verifier.Verify(t.Context(), raw)
	if !errors.Is(err, jwt.ErrInvalid) || c != nil {
		t.Errorf("%s: Verify = %v, %v; want ErrInvalid", name, c, err)
	}
}

func (w *world) accepts(t *testing.T, name, raw string) {
	t.Helper()
	if _, err := w.verifier.Verify(t.Context(), raw); err != nil {
		t.Errorf("%s: Verify = %v", name, err)
	}
}

// The token has exactly the members of the profile, and verifies.
func TestTokenHasExactlyItsProfile_F01(t *testing.T) {
	w := newWorld(t)
	raw := w.token(t, nil)
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	header, payload, err := jwt.UnsafeClaims(raw)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(header), `{"alg":"ES256","typ":"at+jwt","kid":"`+keyID+`"}`; got != want {
		t.Errorf("header %s, want %s", got, want)
	}
	var members map[string]any
	if err := json.Unmarshal(payload, &members); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"iss", "sub", "aud", "client_id", "scope", "iat", "exp", "jti", "auth_time", "gid"} {
		if members[name] == nil {
			t.Errorf("no %s", name)
		}
		delete(members, name)
	}
	if len(members) > 0 {
		t.Errorf("has other members, too: %v", members)
	}
	if sig, err := base64.RawURLEncoding.DecodeString(parts[2]); err != nil || len(sig) != 64 {
		t.Errorf("signature of %d bytes, %v", len(sig), err)
	}
	got, err := w.verifier.Verify(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	want := goodClaims()
	want.ID, want.IssuedAt, want.ExpiresAt, want.AuthTime = got.ID, got.IssuedAt, got.ExpiresAt, got.AuthTime
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"read", "write"}, got.Scopes()); diff != "" {
		t.Error(diff)
	}
}

func TestHasScopeComparesWholeNames(t *testing.T) {
	c := jwt.Claims{Scope: " read  write:all"}
	for scope, want := range map[string]bool{"read": true, "write:all": true, "write": false, "all": false, "": false, " ": false, "read  write:all": false} {
		if c.HasScope(scope) != want {
			t.Errorf("%q: %t, want %t", scope, !want, want)
		}
	}
}

func TestTokenIDsDiffer_F01(t *testing.T) {
	w := newWorld(t)
	seen := map[string]bool{}
	for range 1000 {
		c, err := w.verifier.Verify(t.Context(), w.token(t, nil))
		if err != nil {
			t.Fatal(err)
		}
		if seen[c.ID] {
			t.Fatal("two tokens have the same jti")
		}
		seen[c.ID] = true
	}
}

func TestSignRefusesBadClaims(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(*jwt.Claims){
		"no issuer":       func(c *jwt.Claims) { c.Issuer = "" },
		"no subject":      func(c *jwt.Claims) { c.Subject = "" },
		"no audience":     func(c *jwt.Claims) { c.Audience = "" },
		"no client":       func(c *jwt.Claims) { c.ClientID = "" },
		"not UTF-8":       func(c *jwt.Claims) { c.Subject = "al\xffce" },
		"no time":         func(c *jwt.Claims) { c.IssuedAt = 0 },
		"born expired":    func(c *jwt.Claims) { c.ExpiresAt = c.IssuedAt },
		"negative":        func(c *jwt.Claims) { c.AuthTime = -1 },
		"too far":         func(c *jwt.Claims) { c.ExpiresAt = 1 << 50 },
		"longer than 8 K": func(c *jwt.Claims) { c.Subject = strings.Repeat("x", 9000) },
	} {
		c := goodClaims()
		change(&c)
		if raw, err := w.signer.Sign(c, time.Now()); err == nil {
			t.Errorf("%s: signed %s", name, raw)
		}
	}
	failing := jwt.NewSigner(func(time.Time) (jwt.SigningKey, error) { return jwt.SigningKey{}, jwt.ErrKeysUnavailable })
	if _, err := failing.Sign(goodClaims(), time.Now()); !errors.Is(err, jwt.ErrKeysUnavailable) {
		t.Errorf("no key: %v, want ErrKeysUnavailable", err)
	}
}

// A subject that JSON must escape comes back unchanged.
func TestSubjectsComeBackUnchanged(t *testing.T) {
	w := newWorld(t)
	for _, sub := range []string{`a"b\c`, "a<b>&c", "tab\t", "Zoë", "😀", "\u2028", "\x7f", "\x00"} {
		c, err := w.verifier.Verify(t.Context(), w.token(t, func(c *jwt.Claims) { c.Subject = sub }))
		if err != nil || c.Subject != sub {
			t.Errorf("%q: got %v, %v", sub, c, err)
		}
	}
}

// The text of the claims is that of encoding/json, whichever of them are there.
func TestClaimsAreWrittenAsEncodingJSONWritesThem(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(*jwt.Claims){
		"all": func(c *jwt.Claims) {
			c.Actor, c.Confirm, c.Upstream = &jwt.Actor{Subject: "gateway"}, &jwt.Confirmation{Thumbprint: "t"}, "sealed"
		},
		"the least":    func(c *jwt.Claims) { c.Scope, c.AuthTime, c.GrantID = "", 0, "" },
		"with escapes": func(c *jwt.Claims) { c.Subject, c.Actor = "a<b>", &jwt.Actor{Subject: `"`} },
	} {
		c := goodClaims()
		c.ID = "id"
		change(&c)
		raw, err := w.signer.Sign(c, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		_, payload, err := jwt.UnsafeClaims(raw)
		if want := marshal(t, &c); err != nil || string(payload) != want {
			t.Errorf("%s: %s, %v; want %s", name, payload, err, want)
		}
	}
}

// A key whose name needs an escape signs too.
func TestKeyIDMayNeedAnEscape(t *testing.T) {
	key := newKey(t)
	s := jwt.NewSigner(func(time.Time) (jwt.SigningKey, error) { return jwt.SigningKey{ID: `a"b`, Private: key}, nil })
	raw, err := s.Sign(goodClaims(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if c, err := newVerifier(t, jwt.VerifierOptions{Keys: publish(`a"b`, key)}).Verify(t.Context(), raw); err != nil || c.Subject != "alice" {
		t.Errorf("got %v, %v", c, err)
	}
}

// The sealed token comes back, and a token without one has no such member.
func TestUpstreamComesBackUnchanged(t *testing.T) {
	w := newWorld(t)
	sealed := strings.Repeat("A-_9", 900)
	c, err := w.verifier.Verify(t.Context(), w.token(t, func(c *jwt.Claims) { c.Upstream = sealed }))
	if err != nil || c.Upstream != sealed {
		t.Errorf("got %v, %v", c, err)
	}
}

// No spelling of "none" is an algorithm, with or without a signature.
func TestAlgNoneIsRefused_F02(t *testing.T) {
	w := newWorld(t)
	for _, alg := range []any{"none", "None", "nOnE", "NONE", "", nil, []string{"ES256"}, 0, true, "es256", "ES256 ", "missing"} {
		h := goodHeader()
		if h["alg"] = alg; alg == "missing" {
			delete(h, "alg")
		}
		signed := handmade(t, w.key, marshal(t, h), marshal(t, goodPayload()))
		w.refuses(t, marshal(t, alg), signed)
		w.refuses(t, marshal(t, alg)+" unsigned", signed[:strings.LastIndex(signed, ".")+1])
	}
	good := w.token(t, nil)
	w.refuses(t, "signature cut off", good[:strings.LastIndex(good, ".")+1])
}

// The public key, in any of its forms, is not accepted as an HMAC secret.
func TestPublicKeyIsNoSecret_F03(t *testing.T) {
	w := newWorld(t)
	der, err := x509.MarshalPKIXPublicKey(&w.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	point, err := w.key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	jwk := `{"kty":"EC","crv":"P-256","x":"` + b64(point[1:33]) + `","y":"` + b64(point[33:]) + `"}`
	secrets := map[string][]byte{
		"PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
		"DER": der, "JWK": []byte(jwk), "raw": point[1:], "kid": []byte(keyID), "empty": nil,
	}
	h := goodHeader()
	h["alg"] = "HS256"
	hs256, es256 := marshal(t, h), marshal(t, goodHeader())
	for name, secret := range secrets {
		for _, header := range []string{hs256, es256} {
			signed := b64([]byte(header)) + "." + b64([]byte(marshal(t, goodPayload())))
			mac := hmac.New(sha256.New, secret)
			mac.Write([]byte(signed))
			w.refuses(t, name, signed+"."+b64(mac.Sum(nil)))
		}
	}
}

// A correct signature by another algorithm or another key is refused.
func TestOtherAlgorithmsAreRefused_F04(t *testing.T) {
	w := newWorld(t)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sign := map[string]func(msg string) []byte{
		"RS256": func(msg string) []byte {
			h := sha256.Sum256([]byte(msg))
			sig, _ := rsa.SignPKCS1v15(nil, rsaKey, crypto.SHA256, h[:])
			return sig
		},
		"PS256": func(msg string) []byte {
			h := sha256.Sum256([]byte(msg))
			sig, _ := rsa.SignPSS(rand.Reader, rsaKey, crypto.SHA256, h[:], nil)
			return sig
		},
		"ES384": func(msg string) []byte {
			h := sha512.Sum384([]byte(msg))
			r, s, _ := ecdsa.Sign(rand.Reader, p384, h[:])
			return append(r.FillBytes(make([]byte, 48)), s.FillBytes(make([]byte, 48))...)
		},
		"EdDSA":  func(msg string) []byte { return ed25519.Sign(edKey, []byte(msg)) },
		"ES256K": func(msg string) []byte { return rawSignature(t, w.key, msg) },
		"ES256":  func(msg string) []byte { return rawSignature(t, newKey(t), msg) }, // a foreign key under the issuer's kid
	}
	for alg, f := range sign {
		h := goodHeader()
		h["alg"] = alg
		signed := b64([]byte(marshal(t, h))) + "." + b64([]byte(marshal(t, goodPayload())))
		w.refuses(t, alg, signed+"."+b64(f(signed)))
	}
}

// A key ID is looked up, never interpreted.
func TestKeyIDIsOnlyLookedUp_F05(t *testing.T) {
	w := newWorld(t)
	payload := marshal(t, goodPayload())
	for _, kid := range []any{"../../../dev/null", "' OR 1=1--", strings.Repeat("k", 5000), 7, nil, "", []string{keyID}, keyID + " ", strings.ToLower(keyID)} {
		h := goodHeader()
		h["kid"] = kid
		w.refuses(t, marshal(t, kid), handmade(t, w.key, marshal(t, h), payload))
	}
	h := goodHeader()
	delete(h, "kid")
	w.refuses(t, "missing", handmade(t, w.key, marshal(t, h), payload))
	w.refuses(t, "duplicate", handmade(t, w.key, `{"alg":"ES256","typ":"at+jwt","kid":"x","kid":"`+keyID+`"}`, payload))
	before := w.source.calls.Load()
	for _, size := range []int{129, 5000, 64 << 10} {
		h["kid"] = strings.Repeat("k", size)
		w.refuses(t, "long", handmade(t, w.key, marshal(t, h), payload))
	}
	if w.source.calls.Load() != before {
		t.Error("the key source was asked for a key ID that is too long")
	}
}

// However many tokens have unknown key IDs, the issuer is asked once a minute.
func TestUnknownKeyIDsFetchOnce_F05(t *testing.T) {
	w := newWorld(t)
	synctest.Test(t, func(t *testing.T) {
		f, keys := newIssuer(string(setOf(keyID, w.key)))
		w.verifier = newVerifier(t, jwt.VerifierOptions{Keys: keys})
		w.accepts(t, "good", w.token(t, nil))
		for i := range 100 {
			h := goodHeader()
			h["kid"] = rand.Text()
			raw := handmade(t, newKey(t), marshal(t, h), marshal(t, goodPayload()))
			if i == 0 {
				w.refuses(t, "unknown", raw)
				continue
			}
			if _, err := w.verifier.Verify(t.Context(), raw); !errors.Is(err, jwt.ErrKeysUnavailable) || errors.Is(err, jwt.ErrInvalid) {
				t.Errorf("unknown while no fetch is allowed: %v, want ErrKeysUnavailable alone", err)
			}
		}
		w.accepts(t, "good", w.token(t, nil))
		mustCount(t, f, 2) // the first fetch, and one for the unknown key IDs
	})
}

// Headers that contain a key or point to one are refused, not followed.
func TestKeyInHeaderIsNotFollowed_F06(t *testing.T) {
	w := newWorld(t)
	var hits atomic.Int64
	canary := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	defer canary.Close()
	evil := newKey(t)
	jwk := json.RawMessage(bytes.TrimSuffix(bytes.TrimPrefix(setOf("evil", evil), []byte(`{"keys":[`)), []byte(`]}`)))
	for name, value := range map[string]any{
		"jku": canary.URL, "x5u": canary.URL, "jwk": jwk, "x5c": []string{"MIIB"}, "x5t": "x", "x5t#S256": "x",
		"crit": []string{"exp"}, "b64": true, "zip": "DEF", "enc": "A256GCM", "cty": "JWT", "p2c": 1000000000, "epk": jwk, "url": canary.URL, "Alg": "ES256",
	} {
		h := goodHeader()
		h[name] = value
		w.refuses(t, name+" by a foreign key", handmade(t, evil, marshal(t, h), marshal(t, goodPayload())))
		w.refuses(t, name+" by the issuer's key", handmade(t, w.key, marshal(t, h), marshal(t, goodPayload())))
	}
	if hits.Load() != 0 {
		t.Errorf("%d requests to the URL in the header, want none", hits.Load())
	}
}

// bombs are inputs that cost other verifiers time or memory, or have two meanings.
func bombs(t testing.TB, w *world) map[string]string {
	t.Helper()
	all := textBombs(t, w)
	maps.Copy(all, jsonBombs(t, w))
	return all
}

// textBombs are wrong in the text of the token.
func textBombs(t testing.TB, w *world) map[string]string {
	t.Helper()
	good := w.token(t, nil)
	part := strings.Split(good, ".")
	header, payload := b64([]byte(marshal(t, goodHeader()))), b64([]byte(marshal(t, goodPayload())))
	last := part[2][len(part[2])-1]
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	loose := part[2][:len(part[2])-1] + string(alphabet[strings.IndexByte(alphabet, last)|1])
	broken := header[:8] + "\n" + header[8:] + "." + payload
	return map[string]string{
		"empty":               "",
		"million dots":        strings.Repeat(".", 1_000_000),
		"8000 dots":           strings.Repeat(".", 8000),
		"JWE":                 b64([]byte(`{"alg":"PBES2-HS256+A128KW","enc":"A128GCM","p2c":1000000000,"zip":"DEF"}`)) + ".a.b.c.d",
		"JSON serialisation":  `{"payload":"` + part[1] + `","protected":"` + part[0] + `","signature":"` + part[2] + `"}`,
		"detached":            part[0] + ".." + part[2],
		"two parts":           part[0] + "." + part[1],
		"four parts":          good + ".",
		"four parts, filled":  good + "." + part[2],
		"leading dot":         "." + good,
		"padded":              good + "==",
		"padded header":       part[0] + "=." + part[1] + "." + part[2],
		"standard base64":     strings.NewReplacer("-", "+", "_", "/").Replace(good) + "+",
		"leading space":       " " + good,
		"trailing newline":    good + "\n",
		"line break inside":   part[0][:8] + "\r\n" + part[0][8:] + "." + part[1] + "." + part[2],
		"signed line break":   broken + "." + b64(rawSignature(t, w.key, broken)),
		"line break in sig":   part[0] + "." + part[1] + "." + part[2][:20] + "\n" + part[2][20:],
		"non-canonical bits":  part[0] + "." + part[1] + "." + loose,
		"NUL":                 good + "\x00",
		"signature of others": part[0] + "." + part[1] + "." + strings.Split(w.token(t, nil), ".")[2],
	}
}

// jsonBombs are wrong in the JSON of header or payload, under a good signature.
func jsonBombs(t testing.TB, w *world) map[string]string {
	t.Helper()
	header, payload := marshal(t, goodHeader()), marshal(t, goodPayload())
	sign := func(h, p string) string { return handmade(t, w.key, h, p) }
	member := func(m string) string { return payload[:len(payload)-1] + "," + m + "}" }
	utf16 := make([]byte, 0, 2*len(payload))
	for i := range len(payload) {
		utf16 = append(utf16, payload[i], 0)
	}
	var many []string
	for i := range 200 {
		many = append(many, fmt.Sprintf(`"m%d":1`, i))
	}
	return map[string]string{
		"64 KB header":       sign(header[:len(header)-1]+`,"x":"`+strings.Repeat("x", 64<<10)+`"}`, payload),
		"4 KB header":        sign(header[:len(header)-1]+`,"x":"`+strings.Repeat("x", 4<<10)+`"}`, payload),
		"200 members":        sign(header, member(strings.Join(many, ","))),
		"200 members inside": sign(header, member(`"x":{`+strings.Join(many, ",")+"}")),
		"escape, not UTF-8":  sign(header, member("\"x\":\"\\n\xff\"")),
		"half a pair":        sign(header, member(`"x":"\ud800\u0041"`)),
		"duplicate alg":      sign(`{"alg":"none","alg":"ES256","typ":"at+jwt","kid":"`+keyID+`"}`, payload),
		"duplicate sub":      sign(header, `{"sub":"admin",`+payload[1:]),
		"duplicate unknown":  sign(header, member(`"x":1,"x":2`)),
		"duplicate nested":   sign(header, member(`"x":{"a":1,"a":2}`)),
		"escaped duplicate":  sign(header, member(`"\u0073ub":"admin"`)),
		"escaped new name":   sign(header, member(`"\u0078":1`)),
		"Exp":                sign(header, member(`"Exp":9999999999`)),
		"SUB":                sign(header, member(`"SUB":"admin"`)),
		"long s":             sign(header, member(`"ſub":"admin"`)),
		"Kelvin sign":        sign(header, member(`"Cnf":{}`)),
		"BOM":                sign(header, "\ufeff"+payload),
		"BOM header":         sign("\ufeff"+header, payload),
		"UTF-16":             sign(header, string(utf16)),
		"10 k nesting":       sign(header, member(`"x":`+strings.Repeat("[", 10_000)+strings.Repeat("]", 10_000))),
		"2 k nesting":        sign(header, member(`"x":`+strings.Repeat("[", 2000)+strings.Repeat("]", 2000))),
		"2 k object nesting": sign(header, member(`"x":`+strings.Repeat(`{"a":`, 500)+"1"+strings.Repeat("}", 500))),
		"trailing data":      sign(header, payload+"{}"),
		"trailing comma":     sign(header, payload[:len(payload)-1]+",}"),
		"comment":            sign(header, "/**/"+payload),
		"payload array":      sign(header, "["+payload+"]"),
		"payload null":       sign(header, "null"),
		"payload empty":      sign(header, ""),
		"header null":        sign("null", payload),
		"header string":      sign(`"ES256"`, payload),
		"invalid UTF-8":      sign(header, member("\"x\":\"\xff\"")),
		"lone surrogate":     sign(header, member(`"x":"\ud800"`)),
		"control character":  sign(header, member("\"x\":\"\x01\"")),
		"number of 4 k":      sign(header, strings.Replace(payload, `"exp":`, `"exp":1`+strings.Repeat("0", 4000), 1)),
		"leading zero":       sign(header, member(`"x":01`)),
		"NaN":                sign(header, member(`"x":NaN`)),
		"half a header":      sign(header[:20], payload),
	}
}

// Structure bombs are refused, and each allocates less than 1 MiB. BenchmarkVerifyRefused
// holds the bound of their time.
func TestStructureBombsAreRefused_F08(t *testing.T) {
	w := newWorld(t)
	for name, raw := range bombs(t, w) {
		w.refuses(t, name, raw)
		const runs = 20
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			w.verifier.Verify(context.Background(), raw)
		}
		runtime.ReadMemStats(&after)
		if bytes := (after.TotalAlloc - before.TotalAlloc) / runs; bytes > 1<<20 {
			t.Errorf("%s: %d bytes allocated, want at most 1 MiB", name, bytes)
		}
	}
	if n := w.verifier.Remembered(); n != 0 {
		t.Errorf("%d refused tokens are remembered", n)
	}
	w.accepts(t, "white space in the JSON", handmade(t, w.key, " "+marshal(t, goodHeader())+"\n", marshal(t, goodPayload())))
	p := goodPayload()
	p["future"] = map[string]any{"a": []any{1.5e10, "é\u2028", nil, true, false, map[string]any{}}, "b": []any{}}
	w.accepts(t, "unknown member", handmade(t, w.key, marshal(t, goodHeader()), marshal(t, p)))
}

// Edge values of r and s, and signatures of another form or size.
func TestEdgeSignaturesAreRefused_F09(t *testing.T) {
	w := newWorld(t)
	signed := b64([]byte(marshal(t, goodHeader()))) + "." + b64([]byte(marshal(t, goodPayload())))
	good := rawSignature(t, w.key, signed)
	w.accepts(t, "good", signed+"."+b64(good))
	r, s := new(big.Int).SetBytes(good[:32]), new(big.Int).SetBytes(good[32:])
	n, p := elliptic.P256().Params().N, elliptic.P256().Params().P
	zero, one := new(big.Int), big.NewInt(1)
	all := new(big.Int).Sub(new(big.Int).Lsh(one, 256), one)
	edges := map[string]*big.Int{"0": zero, "1": one, "n-1": new(big.Int).Sub(n, one), "n": n, "n+1": new(big.Int).Add(n, one), "p": p, "2^256-1": all}
	for rn, rv := range edges {
		w.refuses(t, "r="+rn, signed+"."+b64(concat(rv, s)))
		w.refuses(t, "s="+rn, signed+"."+b64(concat(r, rv)))
		for sn, sv := range edges {
			w.refuses(t, "r="+rn+" s="+sn, signed+"."+b64(concat(rv, sv)))
		}
	}
	hash := sha256.Sum256([]byte(signed))
	der, err := ecdsa.SignASN1(rand.Reader, w.key, hash[:])
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[40] ^= 1
	for name, sig := range map[string][]byte{
		"DER": der, "63 bytes": good[:63], "62 bytes": good[:62], "65 bytes": append(bytes.Clone(good), 0),
		"leading zero": append([]byte{0}, good...), "r alone": good[:32], "empty": {}, "twice": append(bytes.Clone(good), good...),
		"swapped": concat(s, r), "bit flipped": flipped,
	} {
		w.refuses(t, name, signed+"."+b64(sig))
	}
	// r+n is the same signature to a verifier that reduces it modulo n.
	if rn := new(big.Int).Add(r, n); rn.BitLen() <= 256 {
		w.refuses(t, "r+n", signed+"."+b64(concat(rn, s)))
	}
}

// The signature of RFC 7515, Appendix A.3, over a token of another profile.
func TestSignatureOfRFC7515VerifiesItsText(t *testing.T) {
	raw, err := os.ReadFile("testdata/rfc7515-a3.txt")
	if err != nil {
		t.Fatal(err)
	}
	x := "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"
	y := "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"
	keys, err := jwt.ParseSet([]byte(`{"keys":[{"kty":"EC","crv":"P-256","kid":"a3","x":"` + x + `","y":"` + y + `"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(string(raw))
	dot := strings.LastIndex(token, ".")
	sig, err := base64.RawURLEncoding.DecodeString(token[dot+1:])
	if err != nil {
		t.Fatal(err)
	}
	if !jwt.VerifySignature(keys["a3"], token[:dot], [64]byte(sig)) {
		t.Error("refused")
	}
	if sig[0] ^= 1; jwt.VerifySignature(keys["a3"], token[:dot], [64]byte(sig)) {
		t.Error("accepted with a bit flipped")
	}
}

// Every claim must be present, of its type, and of the exact value.
func TestClaimsAreExact_F10(t *testing.T) {
	w := newWorld(t)
	header := marshal(t, goodHeader())
	w.accepts(t, "good", handmade(t, w.key, header, marshal(t, goodPayload())))
	now := time.Now().Unix()
	bad := map[string][]any{
		"iss":       {nil, 1, "", "https://auth.tes", issuer + "/", issuer + ".evil.example", "https://AUTH.test", "http://auth.test", []string{issuer}},
		"aud":       {nil, 1, "", []string{}, []string{resource}, []string{resource, "https://other.test"}, "https://other.test", "https://mcp.test/ab", resource + "/", "http://mcp.test/a", "https://MCP.test/a", "https://mcp.test"},
		"sub":       {nil, 1, "", []string{"alice"}},
		"client_id": {nil, 1, ""},
		"jti":       {nil, 1, ""},
		"scope":     {nil, 1, []string{"read"}},
		"exp":       {nil, "1", "9999999999", json.RawMessage("1e309"), json.RawMessage("9.9e11"), json.RawMessage("1e10"), json.RawMessage("99999999999999999999"), -1, 0, now + 300, 1 << 50},
		"iat":       {nil, "1", json.RawMessage("1e309"), -1, 0, json.RawMessage("1.5")},
		"nbf":       {nil, "1", -1, now + 300},
		"auth_time": {nil, "1", -1, json.RawMessage("1.5")},
		"gid":       {nil, 1},
		"act":       {nil, 1, "alice", []string{}, map[string]any{}, map[string]any{"sub": 1}, map[string]any{"sub": "a", "Sub": "b"}},
		"cnf":       {nil, map[string]any{"jkt": "x"}, map[string]any{}},
		"upstream":  {nil, 1, []string{"x"}, map[string]any{}},
		"Upstream":  {"x"},
	}
	for name, values := range bad {
		for _, value := range values {
			p := goodPayload()
			if p[name] = value; name == "exp" && value == now+300 {
				p[name] = json.RawMessage(marshal(t, value) + ".0")
			}
			w.refuses(t, name+"="+marshal(t, value), handmade(t, w.key, header, marshal(t, p)))
		}
	}
	for _, name := range []string{"iss", "sub", "aud", "client_id", "scope", "iat", "exp", "jti"} {
		p := goodPayload()
		delete(p, name)
		w.refuses(t, "no "+name, handmade(t, w.key, header, marshal(t, p)))
	}
	p := goodPayload()
	delete(p, "gid")
	p["scope"], p["nbf"], p["act"], p["upstream"] = "", now, map[string]any{"sub": "bot"}, "sealed"
	w.accepts(t, "optional members", handmade(t, w.key, header, marshal(t, p)))
}

// A token of another kind by the same key is refused.
func TestOtherKindsOfTokenAreRefused_F10(t *testing.T) {
	w := newWorld(t)
	for _, typ := range []any{"JWT", "jwt", "AT+JWT", "application/at+jwt", "at+jwt ", "", nil, 1, "dpop+jwt", "oauth-id-jag+jwt"} {
		h := goodHeader()
		h["typ"] = typ
		w.refuses(t, marshal(t, typ), handmade(t, w.key, marshal(t, h), marshal(t, goodPayload())))
	}
	h := goodHeader()
	delete(h, "typ")
	w.refuses(t, "missing", handmade(t, w.key, marshal(t, h), marshal(t, goodPayload())))
	now := time.Now().Unix()
	idToken := map[string]any{"iss": issuer, "sub": "alice", "aud": "client", "iat": now, "exp": now + 300, "nonce": "n"}
	assertion := map[string]any{"iss": "client", "sub": "client", "aud": issuer, "iat": now, "exp": now + 300, "jti": "1"}
	h["typ"] = "JWT"
	for _, p := range []map[string]any{idToken, assertion} {
		w.refuses(t, "other kind", handmade(t, w.key, marshal(t, h), marshal(t, p)))
		w.refuses(t, "other kind, type of an access token", handmade(t, w.key, marshal(t, goodHeader()), marshal(t, p)))
	}
}

// A token bound to a key is not accepted without a proof.
func TestBoundTokenIsRefusedWithoutProof_F10(t *testing.T) {
	w := newWorld(t)
	w.refuses(t, "cnf", w.token(t, func(c *jwt.Claims) { c.Confirm = &jwt.Confirmation{Thumbprint: "x"} }))
}

// Clocks may differ by a minute and no more.
func TestClocksMayDifferByAMinute_F11(t *testing.T) {
	w := newWorld(t)
	now := time.Now().Unix()
	for _, tc := range []struct {
		name   string
		change func(map[string]any)
		want   error
	}{
		{"expired 30 s ago", func(p map[string]any) { p["iat"], p["exp"] = now-330, now-30 }, nil},
		{"expired 61 s ago", func(p map[string]any) { p["iat"], p["exp"] = now-361, now-61 }, jwt.ErrExpired},
		{"expired an hour ago", func(p map[string]any) { p["iat"], p["exp"] = now-3900, now-3600 }, jwt.ErrExpired},
		{"iat 30 s ahead", func(p map[string]any) { p["iat"] = now + 30 }, nil},
		{"iat 5 min ahead", func(p map[string]any) { p["iat"], p["exp"] = now+300, now+600 }, jwt.ErrInvalid},
		{"nbf 30 s ahead", func(p map[string]any) { p["nbf"] = now + 30 }, nil},
		{"nbf 5 min ahead", func(p map[string]any) { p["nbf"] = now + 300 }, jwt.ErrInvalid},
	} {
		p := goodPayload()
		tc.change(p)
		_, err := w.verifier.Verify(t.Context(), handmade(t, w.key, marshal(t, goodHeader()), marshal(t, p)))
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
		if tc.want == jwt.ErrExpired && !errors.Is(err, jwt.ErrInvalid) {
			t.Errorf("%s: %v is not ErrInvalid", tc.name, err)
		}
	}
}

// A URL without a path may end in a slash, in the token and in the options.
func TestAudienceWithoutAPathHasTwoSpellings_F10(t *testing.T) {
	w := newWorld(t)
	for _, own := range []string{"https://mcp.test", "https://mcp.test/"} {
		v := newVerifier(t, jwt.VerifierOptions{Keys: w.source, Audiences: []string{"urn:other", own}})
		for aud, want := range map[string]error{
			"https://mcp.test": nil, "https://mcp.test/": nil, "urn:other": nil,
			"https://mcp.test//": jwt.ErrInvalid, "https://mcp.test/a": jwt.ErrInvalid, "http://mcp.test": jwt.ErrInvalid, "https://mcp.test.evil.test": jwt.ErrInvalid, "urn:other/": jwt.ErrInvalid,
		} {
			if _, err := v.Verify(t.Context(), w.token(t, func(c *jwt.Claims) { c.Audience = aud })); !errors.Is(err, want) {
				t.Errorf("%s: a token for %s: %v, want %v", own, aud, err, want)
			}
		}
	}
	for _, own := range []string{"https://mcp.test/a", "https://", "https:///", "https://mcp.test?x", "mcp.test"} {
		v := newVerifier(t, jwt.VerifierOptions{Keys: w.source, Audiences: []string{own}})
		if _, err := v.Verify(t.Context(), w.token(t, func(c *jwt.Claims) { c.Audience = own + "/" })); !errors.Is(err, jwt.ErrInvalid) {
			t.Errorf("%s: a token for %s/: %v, want ErrInvalid", own, own, err)
		}
	}
}

// In the process that dated it a token ends at exp, also one that was accepted before.
// Another replica may have dated it, so the leeway for its begin stays.
func TestTokenEndsAtExpByTheSameClock_F11(t *testing.T) {
	w := newWorld(t)
	for _, size := range []int{0, -1} {
		synctest.Test(t, func(t *testing.T) {
			v := newVerifier(t, jwt.VerifierOptions{Keys: w.source, SameClock: true, CacheSize: size})
			other := newVerifier(t, jwt.VerifierOptions{Keys: w.source, CacheSize: size})
			raw := w.token(t, nil)
			check := func(when string, v *jwt.Verifier, want error) {
				t.Helper()
				claims, err := v.Verify(t.Context(), raw)
				if !errors.Is(err, want) {
					t.Errorf("%s: %v, want %v", when, err, want)
				}
				if err == nil && time.Now().After(v.AcceptedUntil(claims)) {
					t.Errorf("%s: accepted after %v", when, v.AcceptedUntil(claims))
				}
			}
			for range 2 {
				check("at first", v, nil)
			}
			time.Sleep(5*time.Minute - time.Second)
			check("a second before exp", v, nil)
			time.Sleep(time.Second)
			check("at exp", v, jwt.ErrExpired)
			check("at exp, on another machine", other, nil)
			time.Sleep(59 * time.Second)
			check("59 s after exp", v, jwt.ErrExpired)
			check("59 s after exp, on another machine", other, nil)
			time.Sleep(time.Second)
			check("60 s after exp, on another machine", other, jwt.ErrExpired)

			raw = w.token(t, func(c *jwt.Claims) { c.IssuedAt += 59; c.ExpiresAt += 59 })
			check("dated by a clock that is ahead", v, nil)
			raw = w.token(t, func(c *jwt.Claims) { c.IssuedAt += 62; c.ExpiresAt += 62 })
			check("dated by a clock that is too far ahead", v, jwt.ErrInvalid)
		})
	}
}

func TestKeysUnavailableIsNoVerdict(t *testing.T) {
	w := newWorld(t)
	raw := w.token(t, nil)
	w.accepts(t, "at first", raw)
	w.source.err = jwt.ErrKeysUnavailable
	for _, raw := range []string{raw, w.token(t, nil)} {
		if _, err := w.verifier.Verify(t.Context(), raw); !errors.Is(err, jwt.ErrKeysUnavailable) || errors.Is(err, jwt.ErrInvalid) {
			t.Errorf("Verify = %v, want ErrKeysUnavailable alone", err)
		}
	}
	w.refuses(t, "not a token", "x.y.z") // needs no key to be refused
}

func TestNewVerifierNamesTheMissingOption(t *testing.T) {
	w := newWorld(t)
	for want, o := range map[string]jwt.VerifierOptions{
		"issuer":   {Audiences: []string{resource}, Keys: w.source},
		"audience": {Issuer: issuer, Keys: w.source},
		"keys":     {Issuer: issuer, Audiences: []string{resource}},
	} {
		if _, err := jwt.NewVerifier(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("without %s: %v", want, err)
		}
	}
}

func TestErrorsHoldNoToken(t *testing.T) {
	w := newWorld(t)
	for name, raw := range bombs(t, w) {
		_, err := w.verifier.Verify(t.Context(), raw)
		if err == nil || len(err.Error()) > 100 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A token that is shown to a person needs the form of a token, nothing else.
func TestUnsafeClaimsNeedOnlyTheForm(t *testing.T) {
	w := newWorld(t)
	raw := handmade(t, newKey(t), `{"alg":"none"}`, `{"a":1}`)
	if header, payload, err := jwt.UnsafeClaims(raw); err != nil || string(header) != `{"alg":"none"}` || string(payload) != `{"a":1}` {
		t.Errorf("%s, %s, %v", header, payload, err)
	}
	for name, raw := range map[string]string{
		"four parts": raw + ".x", "two parts": "e30.e30", "no JSON": handmade(t, w.key, "{}", "x"),
		"no base64": "{}.e30.x", "no base64 either": "e30.{}.x", "long": handmade(t, w.key, "{}", `"`+strings.Repeat("x", 9000)+`"`),
	} {
		if _, _, err := jwt.UnsafeClaims(raw); !errors.Is(err, jwt.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// While the revoked grants are not known, there is no verdict, also on a token that was
// accepted before.
func TestUnknownRevocationsAreNoVerdict(t *testing.T) {
	w, known := newWorld(t), true
	v := newVerifier(t, jwt.VerifierOptions{Keys: w.source, Revoked: func(string) bool { return !known }, RevokedKnown: func() bool { return known }})
	seen, fresh := w.token(t, nil), w.token(t, func(c *jwt.Claims) { c.ID = "another" })
	if _, err := v.Verify(t.Context(), seen); err != nil {
		t.Fatal(err)
	}
	known = false
	for _, raw := range []string{seen, fresh, w.token(t, func(c *jwt.Claims) { c.GrantID = "" })} {
		if _, err := v.Verify(t.Context(), raw); !errors.Is(err, jwt.ErrRevocationsUnknown) || errors.Is(err, jwt.ErrInvalid) {
			t.Errorf("%v, want ErrRevocationsUnknown alone", err)
		}
	}
	known = true
	for _, raw := range []string{seen, fresh} {
		if _, err := v.Verify(t.Context(), raw); err != nil {
			t.Error(err)
		}
	}
}

// A verifier for another audience takes no other tokens, and all other checks stay.
func TestVerifierForAnotherAudience(t *testing.T) {
	w := newWorld(t)
	revoked := false
	of := newVerifier(t, jwt.VerifierOptions{Keys: w.source, Revoked: func(string) bool { return revoked }})
	v := of.For("https://backend.test")
	token := func(audience string) string {
		return w.token(t, func(c *jwt.Claims) { c.Audience, c.GrantID = audience, "g" })
	}
	for audience, want := range map[string]bool{"https://backend.test": true, "https://backend.test/": true, "https://backend.test/x": false, resource: false} {
		if _, err := v.Verify(t.Context(), token(audience)); (err == nil) != want {
			t.Errorf("%s: %v", audience, err)
		}
	}
	if _, err := of.Verify(t.Context(), token("https://backend.test")); !errors.Is(err, jwt.ErrInvalid) {
		t.Errorf("the first verifier takes the token: %v", err)
	}
	revoked = true
	if _, err := v.Verify(t.Context(), token("https://backend.test")); !errors.Is(err, jwt.ErrRevoked) {
		t.Errorf("revoked: %v", err)
	}
}

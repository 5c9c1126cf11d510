package jwt_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/jwt"
)

// assertionKeys are one key pair of each kind; making an RSA key takes a while.
var assertionKeys = sync.OnceValue(func() map[string]crypto.Signer {
	must := func(k crypto.Signer, err error) crypto.Signer {
		if err != nil {
			panic(err)
		}
		return k
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	return map[string]crypto.Signer{
		"RSA": must(rsa.GenerateKey(rand.Reader, 2048)), "EC": must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), "OKP": must(ed, err),
	}
})

func publicJWK(t *testing.T, key crypto.Signer, more map[string]any) map[string]any {
	t.Helper()
	var m map[string]any
	switch k := key.Public().(type) {
	case *rsa.PublicKey:
		m = map[string]any{"kty": "RSA", "n": b64(k.N.Bytes()), "e": b64(big.NewInt(int64(k.E)).Bytes())}
	case *ecdsa.PublicKey:
		point, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		m = map[string]any{"kty": "EC", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])}
	case ed25519.PublicKey:
		m = map[string]any{"kty": "OKP", "crv": "Ed25519", "x": b64(k)}
	}
	maps.Copy(m, more)
	return m
}

func clientSet(t *testing.T, keys ...map[string]any) []byte {
	t.Helper()
	body, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// signed makes a JWT; header and claims are as they are.
func signed(t *testing.T, key crypto.Signer, alg, header, claims string) string {
	t.Helper()
	text := b64([]byte(header)) + "." + b64([]byte(claims))
	hash := sha256.Sum256([]byte(text))
	var signature []byte
	var err error
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if alg == "PS256" {
			signature, err = rsa.SignPSS(rand.Reader, k, crypto.SHA256, hash[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		} else {
			signature, err = rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, hash[:])
		}
	case *ecdsa.PrivateKey:
		var r, s *big.Int
		r, s, err = ecdsa.Sign(rand.Reader, k, hash[:])
		signature = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	case ed25519.PrivateKey:
		signature = ed25519.Sign(k, []byte(text))
	}
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + b64(signature)
}

var assertionTime = time.Unix(1_800_000_000, 0)

func claimsText(change string) string {
	claims := map[string]string{
		"iss": `"https://client.test/m.json"`, "sub": `"https://client.test/m.json"`, "aud": `"https://as.test"`, "jti": `"id-1"`,
		"exp": fmt.Sprint(assertionTime.Unix() + 60), "iat": fmt.Sprint(assertionTime.Unix()),
	}
	for _, c := range strings.Split(change, ";") {
		if name, value, ok := strings.Cut(c, "="); ok {
			claims[name] = value
		}
	}
	var parts []string
	for name, value := range claims {
		if value != "" {
			parts = append(parts, fmt.Sprintf("%q:%s", name, value))
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func verify(raw string, set []byte) (*jwt.Assertion, error) {
	keys, err := jwt.ParseClientKeys(set)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	a, err := jwt.ParseAssertion(raw)
	if err != nil {
		return nil, err
	}
	return a, a.Verify(keys, []string{"https://as.test", "https://as.test/token"}, assertionTime)
}

func TestAssertionOfEachAlgorithmIsAccepted_D14(t *testing.T) {
	for alg, kind := range map[string]string{"RS256": "RSA", "PS256": "RSA", "ES256": "EC", "EdDSA": "OKP"} {
		key := assertionKeys()[kind]
		for name, tt := range map[string]struct{ jwk, header, claims string }{
			"plain":                     {`{}`, `{"alg":"` + alg + `"}`, ""},
			"key ID":                    {`{"kid":"a","use":"sig"}`, `{"alg":"` + alg + `","kid":"a","typ":"JWT"}`, ""},
			"algorithm of the key":      {`{"kid":"a","alg":"` + alg + `"}`, `{"kid":"a","alg":"` + alg + `","typ":"client-authentication+jwt"}`, ""},
			"key ID of the token alone": {`{}`, `{"alg":"` + alg + `","kid":"a"}`, ""},
			"token endpoint":            {`{}`, `{"alg":"` + alg + `"}`, `aud="https://as.test/token"`},
			"list of one":               {`{}`, `{"alg":"` + alg + `"}`, `aud=["https://as.test"]`},
			"fractions of seconds":      {`{}`, `{"alg":"` + alg + `"}`, `iat=1800000000.25;exp=1800000060.75`},
			"an hour":                   {`{}`, `{"alg":"` + alg + `"}`, `exp=1800003600`},
			"clock of the client ahead": {`{}`, `{"alg":"` + alg + `"}`, `iat=1800000050;nbf=1800000050`},
			"no iat":                    {`{}`, `{"alg":"` + alg + `"}`, `iat=`},
			"claims of its own":         {`{}`, `{"alg":"` + alg + `","x5t":"abc"}`, `scope="a";client_id="b"`},
		} {
			var more map[string]any
			if err := json.Unmarshal([]byte(tt.jwk), &more); err != nil {
				t.Fatal(err)
			}
			a, err := verify(signed(t, key, alg, tt.header, claimsText(tt.claims)), clientSet(t, publicJWK(t, key, more)))
			if err != nil {
				t.Errorf("%s, %s: %v", alg, name, err)
			} else if a.Subject != "https://client.test/m.json" || a.ID != "id-1" || a.Expires.Unix() < assertionTime.Unix()+60 {
				t.Errorf("%s, %s: %+v", alg, name, a)
			}
		}
	}
}

// Spaces between the parts of the claims, as Python and indenting libraries write them, change
// nothing, also where the time has a fraction.
func TestAssertionMayHaveSpacesInItsClaims_D14(t *testing.T) {
	key := assertionKeys()["EC"]
	set := clientSet(t, publicJWK(t, key, nil))
	for _, change := range []string{"", "exp=1800000060.75", "iat=1800000000.25", "nbf=1799999999.5", "exp=1800000060.75;iat=1800000000.25;nbf=1799999999.5"} {
		plain := claimsText(change)
		var indented bytes.Buffer
		if err := json.Indent(&indented, []byte(plain), "", "\t"); err != nil {
			t.Fatal(err)
		}
		python := strings.NewReplacer(`":`, `": `, `,"`, `, "`).Replace(plain)
		for _, claims := range []string{python, indented.String(), strings.ReplaceAll(python, " ", " \r\n\t ")} {
			a, err := verify(signed(t, key, "ES256", `{"alg":"ES256"}`, claims), set)
			if err != nil || a.Expires.Unix() != assertionTime.Unix()+60 {
				t.Errorf("%q: %v, %v", claims, a, err)
			}
		}
	}
}

func TestAssertionWithOneThingChangedIsRefused_D14(t *testing.T) {
	key := assertionKeys()["EC"]
	const header = `{"alg":"ES256","kid":"a"}`
	set := clientSet(t, publicJWK(t, key, map[string]any{"kid": "a"}))
	good := signed(t, key, "ES256", header, claimsText(""))
	if _, err := verify(good, set); err != nil {
		t.Fatal(err)
	}
	refused := func(name, raw string) {
		t.Helper()
		if _, err := verify(raw, set); !errors.Is(err, jwt.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, change := range []string{
		`iss=`, `sub=`, `aud=`, `jti=`, `exp=`, `iss="other"`, `sub="other"`, `iss=5`, `sub=""`, `jti=""`, `jti=5`, `jti="` + strings.Repeat("x", 257) + `"`,
		`aud="https://other.test"`, `aud="https://as.test/"`, `aud="https://as.test/introspect"`, `aud=["https://as.test","https://other.test"]`, `aud=["https://as.test","https://as.test/token"]`, `aud=[]`, `aud=[["https://as.test"]]`, `aud={}`,
		`exp=0`, `exp=-1`, `exp=1800000000`, `exp=1799999999`, `exp=1799999999.9`, `exp=1800003601`, `exp=9223372036854775807`, `exp=9223372036854775808`, `exp=1e12`, `exp=18446744073709551676`, `exp="1800000060"`, `exp=null`, `exp=1800000060.`,
		`iat=1800000061`, `nbf=1800000061`, `iat=0`, `nbf="x"`, `EXP=1800000060`, `Aud="https://as.test"`,
	} {
		refused(change, signed(t, key, "ES256", header, claimsText(change)))
	}
	for _, h := range []string{
		`{"alg":"none","kid":"a"}`, `{"kid":"a"}`, `{"alg":"HS256","kid":"a"}`, `{"alg":"ES384","kid":"a"}`, `{"alg":"RS256","kid":"a"}`, `{"alg":"es256","kid":"a"}`, `{"alg":"ES256","alg":"ES256","kid":"a"}`,
		`{"alg":"ES256","kid":"a","crit":["x"]}`, `{"alg":"ES256","kid":"a","jku":"https://evil.test"}`, `{"alg":"ES256","jwk":{}}`, `{"alg":"ES256","x5u":"https://evil.test"}`, `{"alg":"ES256","x5c":["x"]}`, `{"alg":"ES256","cty":"JWT"}`, `{"alg":"ES256","b64":false}`, `{"alg":"ES256","zip":"DEF"}`,
		`{"alg":"ES256","kid":"b"}`, `{"alg":"ES256","kid":"` + strings.Repeat("a", 129) + `"}`, `[]`, `{"alg":"ES256","kid":"a"} x`,
	} {
		refused(h, signed(t, key, "ES256", h, claimsText("")))
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	refused("another key", signed(t, other, "ES256", header, claimsText("")))
	if _, err := verify(signed(t, other, "ES256", header, claimsText("")), set); !errors.Is(err, jwt.ErrUnknownKey) || err.Error() != "invalid token: none of the client's keys has signed it: unknown key ID" {
		t.Errorf("another key: %v", err)
	}
	parts := strings.Split(good, ".")
	refused("no signature", parts[0]+"."+parts[1]+".")
	refused("two parts", parts[0]+"."+parts[1])
	refused("nested", signed(t, key, "ES256", header, `"`+good+`"`))
	refused("repeated claim", signed(t, key, "ES256", header, strings.Replace(claimsText(""), `{`, `{"sub":"https://client.test/m.json",`, 1)))
	refused("padded", good+"=")
	refused("too long", signed(t, key, "ES256", header, claimsText(`x="`+strings.Repeat("x", 8<<10)+`"`)))
	refused("empty", "")

	// A public key as the secret of an HMAC.
	text := b64([]byte(`{"alg":"HS256","kid":"a"}`)) + "." + parts[1]
	mac := hmac.New(sha256.New, set)
	mac.Write([]byte(text))
	refused("HMAC", text+"."+b64(mac.Sum(nil)))
}

func TestKeyOfAnotherKindOrUseDoesNotVerify(t *testing.T) {
	keys := assertionKeys()
	for name, tt := range map[string]struct {
		key crypto.Signer
		alg string
		set []byte
	}{
		"for encryption":        {keys["EC"], "ES256", clientSet(t, publicJWK(t, keys["EC"], map[string]any{"use": "enc"}), publicJWK(t, keys["OKP"], nil))},
		"for another algorithm": {keys["RSA"], "RS256", clientSet(t, publicJWK(t, keys["RSA"], map[string]any{"alg": "PS256"}))},
		"PSS sent as PKCS 1":    {keys["RSA"], "PS256", clientSet(t, publicJWK(t, keys["RSA"], map[string]any{"alg": "RS256"}))},
	} {
		_, err := verify(signed(t, tt.key, tt.alg, `{"alg":"`+tt.alg+`"}`, claimsText("")), tt.set)
		if !errors.Is(err, jwt.ErrUnknownKey) || !errors.Is(err, jwt.ErrInvalid) {
			t.Errorf("%s: %v, want ErrUnknownKey, so that newer keys are looked for", name, err)
		}
	}
}

func TestKeySetThatIsWrongOrSecretIsRefused(t *testing.T) {
	keys := assertionKeys()
	ec := publicJWK(t, keys["EC"], nil)
	with := func(member string) []byte {
		return clientSet(t, publicJWK(t, keys["EC"], map[string]any{member: "AAAA"}))
	}
	modulus := func(bits int) map[string]any {
		return map[string]any{"kty": "RSA", "n": b64(append([]byte{0xff}, make([]byte, bits/8-1)...)), "e": "AQAB"}
	}
	many := make([]map[string]any, 51)
	for i := range many {
		many[i] = ec
	}
	for name, set := range map[string][]byte{
		"nothing": nil, "text": []byte("keys"), "list": []byte("[]"), "no keys": []byte(`{}`), "empty": []byte(`{"keys":[]}`), "null": []byte(`{"keys":null}`), "one key": mustJSON(t, ec),
		"private": with("d"), "private RSA": with("p"), "symmetric": clientSet(t, map[string]any{"kty": "oct", "k": "AAAA"}), "symmetric beside a good one": clientSet(t, ec, map[string]any{"kty": "oct", "k": "AAAA"}),
		"unknown kind": clientSet(t, map[string]any{"kty": "X"}), "another curve": clientSet(t, map[string]any{"kty": "EC", "crv": "P-384", "x": "AAAA", "y": "AAAA"}),
		"no point": clientSet(t, map[string]any{"kty": "EC", "crv": "P-256", "x": b64(make([]byte, 32)), "y": b64(make([]byte, 32))}), "too many": clientSet(t, many...),
		"weak": clientSet(t, modulus(1024)), "almost": clientSet(t, modulus(2040)), "expensive": clientSet(t, modulus(16384)), "large exponent": clientSet(t, map[string]any{"kty": "RSA", "n": modulus(2048)["n"], "e": "AQAAAAAB"}),
		"something after it": append(clientSet(t, ec), 'x'),
	} {
		if _, err := jwt.ParseClientKeys(set); err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), "AAAA") {
			t.Errorf("%s: the error quotes the key: %v", name, err)
		}
	}
	if _, err := jwt.ParseClientKeys(clientSet(t, map[string]any{"kty": "X"}, ec)); err != nil {
		t.Errorf("a key of an unknown kind beside a good one: %v", err)
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzParseAssertion(f *testing.F) {
	f.Add("a.b.c")
	f.Add(b64([]byte(`{"alg":"ES256"}`)) + "." + b64([]byte(claimsText(""))) + ".AA")
	f.Fuzz(func(t *testing.T, raw string) {
		a, err := jwt.ParseAssertion(raw)
		if err != nil {
			if !errors.Is(err, jwt.ErrInvalid) {
				t.Error(err)
			}
			return
		}
		if a.Subject == "" || a.ID == "" || a.Expires.Unix() <= 0 {
			t.Errorf("%+v", a)
		}
	})
}

package keys_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"signet/keys"
)

func newKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func pkcs8(key any) string { return pemOf("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key))) }
func sec1(k *ecdsa.PrivateKey) string {
	return pemOf("EC PRIVATE KEY", must(x509.MarshalECPrivateKey(k)))
}
func spki(k *ecdsa.PrivateKey) string {
	return pemOf("PUBLIC KEY", must(x509.MarshalPKIXPublicKey(&k.PublicKey)))
}

func jwkOf(k *ecdsa.PrivateKey, more string) string {
	point := must(k.PublicKey.Bytes())
	b64 := base64.RawURLEncoding.EncodeToString
	return fmt.Sprintf(`{"kty":"EC","crv":"P-256","x":%q,"y":%q%s}`, b64(point[1:33]), b64(point[33:]), more)
}

func privateJWK(k *ecdsa.PrivateKey, more string) string {
	return jwkOf(k, `,"d":"`+base64.RawURLEncoding.EncodeToString(must(k.Bytes()))+`"`+more)
}

// keyDir makes a directory of mode 0700 with files of mode 0600.
func keyDir(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		put(t, dir, name, text)
	}
	return dir
}

func put(t testing.TB, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func readDir(t testing.TB, dir string) *keys.Set {
	t.Helper()
	s, err := keys.ReadDir(dir, 5*time.Minute, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestReadDirTakesEveryForm(t *testing.T) {
	key := newKey(t, elliptic.P256())
	params := "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
	for name, text := range map[string]string{
		"PKCS 8": pkcs8(key), "SEC 1": sec1(key), "openssl ecparam": params + sec1(key),
		"JWK": privateJWK(key, ""), "JWK with more": privateJWK(key, `,"use":"sig","alg":"ES256","nbf":1700000000`),
		"no newline at the end": strings.TrimSpace(pkcs8(key)),
	} {
		s := readDir(t, keyDir(t, map[string]string{"key": text, ".hidden": "rubbish"}))
		k, err := s.Signing(time.Now())
		if err != nil || !k.Private.Equal(key) {
			t.Errorf("%s: %v", name, err)
		}
		if n := len(published(t, s)); n != 1 {
			t.Errorf("%s: %d published", name, n)
		}
		if body, _, _ := s.JWKS(time.Now()); bytes.Contains(body, []byte(`"d"`)) {
			t.Errorf("%s: the JWKS has a private part", name)
		}
	}
	s := readDir(t, keyDir(t, map[string]string{"key.jwk": privateJWK(key, `,"kid":"mine"`)}))
	if id := signingID(t, s); id != "mine" {
		t.Errorf("key ID %s", id)
	}
}

// The thumbprint is that of RFC 7638 §3: of crv, kty, x and y, in that order.
func TestKeyIDIsThumbprint(t *testing.T) {
	// The EC key of RFC 7517, Appendix A.1. Another program computed its thumbprint.
	const text = `{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}`
	s := readDir(t, keyDir(t, map[string]string{"old.jwk": text, "key.pem": pkcs8(newKey(t, elliptic.P256()))}))
	if published(t, s)["cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s"] == "" {
		t.Errorf("published %v", published(t, s))
	}
}

// Whatever is wrong with a file, the error names it and does not quote it, and no file is
// made.
func TestDamagedKeyFileIsNamedAndNotQuoted_L02(t *testing.T) {
	key, other := newKey(t, elliptic.P256()), newKey(t, elliptic.P256())
	rsaKey := must(rsa.GenerateKey(rand.Reader, 2048))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}}
	cert := must(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key))
	good := pkcs8(key)
	secret := strings.Split(good, "\n")[1]
	for name, tc := range map[string]struct{ text, want string }{
		"empty":              {"", "empty"},
		"blank":              {"\n \n", "empty"},
		"truncated PEM":      {good[:len(good)/2], "cut off"},
		"no end line":        {strings.TrimSuffix(good, "-----END PRIVATE KEY-----\n"), "cut off"},
		"truncated DER":      {pemOf("PRIVATE KEY", must(x509.MarshalPKCS8PrivateKey(key))[:60]), "damaged"},
		"truncated, another": {good[:len(good)/2] + "\n" + pkcs8(other), "damaged"},
		"P-384":              {pkcs8(newKey(t, elliptic.P384())), "P-256"},
		"P-384 SEC 1":        {sec1(newKey(t, elliptic.P384())), "P-256"},
		"P-224":              {pkcs8(newKey(t, elliptic.P224())), "P-256"},
		"RSA":                {pkcs8(rsaKey), "P-256"},
		"RSA PKCS 1":         {pemOf("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey)), "P-256"},
		"certificate":        {pemOf("CERTIFICATE", cert), "certificate"},
		"key and cert":       {good + pemOf("CERTIFICATE", cert), "one key"},
		"two keys":           {good + pkcs8(other), "one key"},
		"text after":         {good + "hello", "one key"},
		"text between":       {"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\nhello\n" + sec1(key), "damaged"},
		"only parameters":    {"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n", "no key"},
		"text before":        {"hello\n" + good, "neither"},
		"CRLF":               {strings.ReplaceAll(good, "\n", "\r\n"), "CRLF"},
		"encrypted":          {strings.ReplaceAll(good, "PRIVATE", "ENCRYPTED PRIVATE"), "encrypted"},
		"old encrypted":      {"-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n" + secret + "\n-----END EC PRIVATE KEY-----\n", "encrypted"},
		"DER":                {string(must(x509.MarshalPKCS8PrivateKey(key))), "neither"},
		"text":               {"password", "neither"},
		"JWK Set":            {`{"keys":[` + privateJWK(key, "") + `]}`, "JWK Set"},
		"truncated JWK":      {privateJWK(key, "")[:100], "JWK"},
		"two JWKs":           {privateJWK(key, "") + privateJWK(other, ""), "JWK"},
		"JWK P-384":          {strings.Replace(privateJWK(key, ""), "P-256", "P-384", 1), "P-256"},
		"JWK symmetric":      {`{"kty":"oct","k":"AAAA"}`, "P-256"},
		"JWK encryption":     {privateJWK(key, `,"use":"enc"`), "use"},
		"JWK ES384":          {privateJWK(key, `,"alg":"ES384"`), "alg"},
		"JWK mixed halves":   {mixed(key, other), "belong together"},
		"JWK off the curve":  {strings.Replace(jwkOf(key, ""), `"y":"`, `"y":"`+y(other)+`","_":"`, 1), "damaged"},
		"JWK long y":         {strings.Replace(jwkOf(key, ""), `"y":"`, `"y":"AAAA`, 1), "damaged"},
		"JWK nbf text":       {privateJWK(key, `,"nbf":"2026"`), "nbf"},
		"JWK nbf fraction":   {privateJWK(key, `,"nbf":1.5`), "nbf"},
		"JWK nbf negative":   {privateJWK(key, `,"nbf":-1`), "nbf"},
		"JWK long kid":       {privateJWK(key, `,"kid":"`+strings.Repeat("k", 200)+`"`), "kid"},
		"huge":               {strings.Repeat(" ", 20<<10) + good, "longer"},
	} {
		dir := keyDir(t, map[string]string{"good.pem": pkcs8(newKey(t, elliptic.P256())), "spoilt.pem": tc.text})
		_, err := keys.ReadDir(dir, time.Minute, nil)
		if err == nil || !strings.Contains(err.Error(), "spoilt.pem") || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want an error with spoilt.pem and %q", name, err, tc.want)
		}
		if err != nil && (strings.Contains(err.Error(), secret) || len(err.Error()) > 300) {
			t.Errorf("%s: the error quotes the file: %v", name, err)
		}
		if entries := must(os.ReadDir(dir)); len(entries) != 2 {
			t.Errorf("%s: %d files now", name, len(entries))
		}
	}
}

func y(k *ecdsa.PrivateKey) string {
	return base64.RawURLEncoding.EncodeToString(must(k.PublicKey.Bytes())[33:])
}

func mixed(a, b *ecdsa.PrivateKey) string {
	return jwkOf(a, `,"d":"`+base64.RawURLEncoding.EncodeToString(must(b.Bytes()))+`"`)
}

func TestUnusableKeyDirectoryIsRefused_L02(t *testing.T) {
	key := newKey(t, elliptic.P256())
	for name, tc := range map[string]struct {
		files map[string]string
		want  string
	}{
		"empty":           {nil, "no private key"},
		"only public":     {map[string]string{"a": spki(key)}, "no private key"},
		"only later":      {map[string]string{"2999-01-01T00:00:00Z-a.pem": pkcs8(key)}, "no private key"},
		"same key twice":  {map[string]string{"a.pem": pkcs8(key), "b.jwk": privateJWK(key, `,"kid":"x"`)}, "b.jwk: the same"},
		"same key ID":     {map[string]string{"a.jwk": privateJWK(key, `,"kid":"x"`), "b.jwk": privateJWK(newKey(t, elliptic.P256()), `,"kid":"x"`)}, "b.jwk: the same"},
		"no such day":     {map[string]string{"2026-02-30-a.pem": pkcs8(key)}, "2026-02-30-a.pem: its name"},
		"half a time":     {map[string]string{"2026-02-03T10-a.pem": pkcs8(key)}, "its name"},
		"two not-befores": {map[string]string{"2026-01-01-a.jwk": privateJWK(key, `,"nbf":1`)}, "different times"},
	} {
		_, err := keys.ReadDir(keyDir(t, tc.files), time.Minute, nil)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	if _, err := keys.ReadDir(filepath.Join(t.TempDir(), "none"), time.Minute, nil); err == nil {
		t.Error("a folder that does not exist was read")
	}
	dir := keyDir(t, map[string]string{"a.pem": pkcs8(key)})
	if _, err := keys.ReadDir(filepath.Join(dir, "a.pem"), time.Minute, nil); err == nil {
		t.Error("a file was read as a folder")
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.ReadDir(dir, time.Minute, nil); err == nil || !strings.Contains(err.Error(), "sub: not a regular file") {
		t.Errorf("folder inside: %v", err)
	}
}

// A private key that others can read is refused, and so is a key or directory that others
// can write.
func TestKeyFileOpenToOthersIsRefused_L01(t *testing.T) {
	key := newKey(t, elliptic.P256())
	private := pkcs8(key)
	for _, mode := range []os.FileMode{0o644, 0o640, 0o604, 0o620, 0o602, 0o660, 0o666, 0o777} {
		dir := keyDir(t, map[string]string{"a.pem": private})
		if err := os.Chmod(filepath.Join(dir, "a.pem"), mode); err != nil {
			t.Fatal(err)
		}
		if _, err := keys.ReadDir(dir, time.Minute, nil); err == nil || !strings.Contains(err.Error(), "a.pem") || !strings.Contains(err.Error(), "0600") {
			t.Errorf("mode %04o: %v", mode, err)
		}
		link := keyDir(t, nil)
		if err := os.Symlink(filepath.Join(dir, "a.pem"), filepath.Join(link, "link.pem")); err != nil {
			t.Fatal(err)
		}
		if _, err := keys.ReadDir(link, time.Minute, nil); err == nil || !strings.Contains(err.Error(), "link.pem") || !strings.Contains(err.Error(), "0600") {
			t.Errorf("link to mode %04o: %v", mode, err)
		}
	}
	for _, mode := range []os.FileMode{0o777, 0o770, 0o722} {
		dir := keyDir(t, map[string]string{"a.pem": private})
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := keys.ReadDir(dir, time.Minute, nil); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("folder of mode %04o: %v", mode, err)
		}
	}
	dir := keyDir(t, map[string]string{"a.pem": private, "old.pem": spki(newKey(t, elliptic.P256()))})
	if err := os.Chmod(filepath.Join(dir, "old.pem"), 0o644); err != nil {
		t.Fatal(err)
	}
	if n := len(published(t, readDir(t, dir))); n != 2 {
		t.Errorf("%d published, want the public key of mode 0644 too", n)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(filepath.Join(dir, "a.pem"), 12345, 12345); err != nil {
			t.Fatal(err)
		}
		if _, err := keys.ReadDir(dir, time.Minute, nil); err == nil || !strings.Contains(err.Error(), "a.pem") {
			t.Errorf("another owner: %v", err)
		}
	}
	dir = keyDir(t, nil)
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.ReadDir(dir, time.Minute, nil); err == nil || !strings.Contains(err.Error(), "pipe") {
		t.Errorf("pipe: %v", err)
	}
}

// The key with the latest not-before in the past signs, without a reload.
func TestReadDirNotBefore(t *testing.T) {
	ks := make([]*ecdsa.PrivateKey, 6)
	for i := range ks {
		ks[i] = newKey(t, elliptic.P256())
	}
	dir := keyDir(t, map[string]string{
		"undated.pem":                  pkcs8(ks[0]),
		"1999-06-01-old.pem":           sec1(ks[1]),
		"19991201T000000Z-current.pem": pkcs8(ks[2]),
		"next.jwk":                     privateJWK(ks[3], fmt.Sprintf(`,"nbf":%d`, time.Date(2000, 1, 1, 1, 0, 0, 0, time.UTC).Unix())),
		"2000-01-01T02:00:00Z-pub.pem": spki(ks[4]),
		"2000-01-01T03:00:00Z-far.pem": pkcs8(ks[5]),
	})
	synctest.Test(t, func(t *testing.T) {
		s := readDir(t, dir)
		for _, want := range []*ecdsa.PrivateKey{ks[2], ks[3], ks[3], ks[5]} { // hours 0 to 3
			if k, err := s.Signing(time.Now()); err != nil || !k.Private.Equal(want) {
				t.Errorf("%v: another key signs, %v", time.Now(), err)
			}
			if n := len(published(t, s)); n != len(ks) {
				t.Errorf("%d published", n)
			}
			time.Sleep(time.Hour)
		}
	})
}

// Good changes are taken over. Bad changes are not, and are logged.
func TestReadDirReload(t *testing.T) {
	a, b := newKey(t, elliptic.P256()), newKey(t, elliptic.P256())
	dir := keyDir(t, map[string]string{"a.pem": pkcs8(a)})
	synctest.Test(t, func(t *testing.T) {
		log := &logs{}
		s, err := keys.ReadDir(dir, 5*time.Minute, slog.New(slog.NewTextHandler(log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		defer run(t, s)()
		v := verifier(t, s)
		first := signingID(t, s)
		_, tag, _ := s.JWKS(time.Now())

		put(t, dir, "b.pem", pkcs8(b)[:50])
		time.Sleep(6 * time.Second)
		if err := s.Stale(); err == nil || !strings.Contains(err.Error(), "b.pem") {
			t.Errorf("Stale = %v", err)
		}
		if _, now, _ := s.JWKS(time.Now()); signingID(t, s) != first || now != tag {
			t.Error("a bad file changed the set")
		}
		time.Sleep(10 * time.Minute)
		if n := log.count("level=ERROR"); n < 5 || n > 15 {
			t.Errorf("%d alarms in ten minutes", n)
		}

		if err := os.Rename(filepath.Join(dir, "b.pem"), filepath.Join(dir, "2000-01-01T00:30:00Z-b.pem")); err != nil {
			t.Fatal(err)
		}
		put(t, dir, "2000-01-01T00:30:00Z-b.pem", pkcs8(b))
		time.Sleep(15 * time.Second)
		if err := s.Stale(); err != nil || len(published(t, s)) != 2 || signingID(t, s) != first {
			t.Errorf("Stale = %v, %d published", err, len(published(t, s)))
		}
		time.Sleep(30 * time.Minute)
		if signingID(t, s) == first || log.count("level=WARN") != 0 {
			t.Error("the second key does not sign, or there were warnings")
		}

		raw := sign(t, s, 5*time.Minute)
		if err := os.Remove(filepath.Join(dir, "2000-01-01T00:30:00Z-b.pem")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(6 * time.Second)
		if _, err := v.Verify(t.Context(), raw); err == nil {
			t.Error("a withdrawn key verifies")
		}
		if log.count("not expired yet") != 1 || signingID(t, s) != first {
			t.Error("no warning about refused tokens, or no key left")
		}
		if err := os.Remove(filepath.Join(dir, "a.pem")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(6 * time.Second)
		if s.Stale() == nil || signingID(t, s) != first {
			t.Error("an empty directory removed the keys")
		}
	})
}

func TestReadDirWarnsOfHaste(t *testing.T) {
	dir := keyDir(t, map[string]string{"a.pem": pkcs8(newKey(t, elliptic.P256()))})
	fresh := pkcs8(newKey(t, elliptic.P256()))
	synctest.Test(t, func(t *testing.T) {
		log := &logs{}
		s, err := keys.ReadDir(dir, 5*time.Minute, slog.New(slog.NewTextHandler(log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go s.Run(ctx)
		put(t, dir, "2000-01-01T00:01:00Z-b.pem", fresh)
		time.Sleep(6 * time.Second)
		if log.count("later not-before") != 1 {
			t.Errorf("log: %s", &log.b)
		}
	})
}

// Reading any key file gives a key, or an error that does not quote the file.
func FuzzKeyFile(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{pkcs8(key), sec1(key), spki(key), privateJWK(key, ""), jwkOf(key, `,"nbf":1`), pkcs8(key)[:80], "{", "", "-----BEGIN EC PARAMETERS-----\n-----END EC PARAMETERS-----\n"} {
		f.Add("key.pem", []byte(text))
	}
	f.Add("2026-12-01T00:00:00Z-a.pem", []byte(spki(key)))
	f.Add("20261301", []byte(spki(key)))
	f.Fuzz(func(t *testing.T, name string, text []byte) {
		private, err := keys.ParseFile(name, text)
		if err != nil && len(err.Error()) > 200 {
			t.Errorf("error %v", err)
		}
		if err == nil && private && !bytes.Contains(text, []byte("PRIVATE KEY")) && !bytes.Contains(text, []byte(`d`)) {
			t.Error("a private key was read from a file without one")
		}
	})
}

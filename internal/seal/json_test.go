package seal_test

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"signet/internal/seal"
)

// sameAsLibrary checks that an artefact is written as encoding/json writes it, and that the text is
// read as encoding/json reads it.
func sameAsLibrary[T seal.Artefact](t *testing.T, v T) {
	t.Helper()
	text, err := seal.Marshal(v)
	want, wantErr := json.Marshal(v)
	if err != nil || wantErr != nil || string(text) != string(want) {
		t.Fatalf("%+v: written as %s, %v; want %s, %v", v, text, err, want, wantErr)
	}
	readAsLibrary[T](t, string(text))
}

// readAsLibrary checks that a text is read, or refused, as encoding/json does.
func readAsLibrary[T seal.Artefact](t *testing.T, text string) {
	t.Helper()
	got, err := seal.Unmarshal[T]([]byte(text))
	var want T
	wantErr := json.Unmarshal([]byte(text), &want)
	if (err == nil) != (wantErr == nil) || err == nil && !cmp.Equal(got, want) {
		t.Fatalf("%s: read as %+v, %v; want %+v, %v", text, got, err, want, wantErr)
	}
}

// The texts of handles and clients are those of encoding/json, which releases before wrote and
// releases after can read, also in the middle of an upgrade.
func TestTextIsThatOfEncodingJSON(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	words := []string{"", "ann", "a b", "https://mcp.example/mcp?a=b&c=d", `"`, `\`, "é", "\u2028", "<b>", "\x00", "\x7f", "\xff", "𝄞", "read:all"}
	word := func() string { return words[r.IntN(len(words))] }
	list := func() []string {
		return [][]string{nil, {}, {word()}, {word(), word()}, {"read", "write"}}[r.IntN(5)]
	}
	number := func() int64 { return []int64{0, 1, -1, 1_800_000_000, 1<<63 - 1, -1 << 63}[r.IntN(6)] }
	for range 20_000 {
		if r.IntN(2) == 0 {
			words[1] = "ben"
		}
		sameAsLibrary(t, seal.Refresh{Gen: number(), Expires: number(), Grant: seal.Grant{
			ID: word(), Epoch: word(), Subject: word(), UserVersion: word(), ClientHash: word(), ClientName: word(), ConsentHash: word(),
			Scope: list(), Resource: word(), AuthTime: number(), Expires: number(), Issued: number(), Lost: list(),
		}})
		sameAsLibrary(t, seal.Client{Name: word(), RedirectURIs: list(), Method: word(), Scope: list(), Issued: number(), PostLogoutRedirectURIs: list()})
	}
	sameAsLibrary(t, seal.Refresh{Grant: seal.Grant{Scope: []string{"read"}}})
	sameAsLibrary(t, seal.Code{RedirectURI: "https://a.example"})
}

// Texts that this release does not write are read by encoding/json, whole.
func TestOtherTextsAreReadAsEncodingJSONReadsThem(t *testing.T) {
	good := `{"g":{"i":"a","e":"b","u":"c","c":"d","s":["read","write"],"r":"e","a":1,"x":2},"n":3,"x":4}`
	for _, text := range []string{
		good, ``, `{`, `{}`, `null`, `[]`, ` ` + good, good + ` `, good + `x`, good[:len(good)-1],
		`{"g":null,"n":1}`, `{"g":{},"n":1}`, `{"n":1,"n":2}`, `{"N":1}`, `{"n":1,"later":{"a":[1,true]},"x":4}`, `{"n":1.5}`, `{"n":1e3}`, `{"n":01}`, `{"n":-0}`, `{"n":--1}`, `{"n":-}`, `{"n":}`, `{"n":"1"}`,
		`{"n":9223372036854775808}`, `{"g":{"s":null}}`, `{"g":{"s":[]}}`, `{"g":{"s":["a",]}}`, `{"g":{"s":["a"}}`, `{"g":{"s":[1]}}`, `{"g":{"i":"a` + "\n" + `"}}`,
		`{"g":{"i":"\u0061"}}`, `{"g":{"i":"` + "\xff" + `"}}`, `{,}`, `{"n":1,}`, `{"n" :1}`, `{"g":{"i":"a"}"n":1}`,
	} {
		readAsLibrary[seal.Refresh](t, text)
	}
}

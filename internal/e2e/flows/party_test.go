package flows

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"signet/internal/e2e"
	"signet/internal/test/clientdoc"
	"signet/internal/test/npm"
)

// party is a client of openid-client or oauth4webapi, behind party.mjs. The libraries
// refuse each answer that is not as the specifications and the registration say.
type party struct {
	driven
	site *site
}

type partyCommand struct {
	Do       string           `json:"do"`
	Metadata map[string]any   `json:"metadata,omitempty"`
	Client   string           `json:"client,omitempty"`
	Secret   string           `json:"secret,omitempty"`
	Key      *jose.JSONWebKey `json:"key,omitempty"`
	Scope    string           `json:"scope,omitempty"`
	Resource string           `json:"resource,omitempty"`
	Back     string           `json:"back,omitempty"`
	Subject  string           `json:"subject,omitempty"`
	Token    string           `json:"token,omitempty"` // access_token or refresh_token: the one that the client has
}

func startParty(t *testing.T, site *site, library string) *party {
	t.Helper()
	return &party{driven{npm.Start(t, t.TempDir(), npm.Party, library, site.proxy.URL), t}, site}
}

// must carries out a command and reads its result into v, unless that is nil.
func (p *party) must(command partyCommand, v any) {
	p.t.Helper()
	answer := p.ask(command)
	if answer.Result == nil {
		p.t.Fatalf("%s: %s", command.Do, answer)
	}
	if v == nil {
		return
	}
	if err := json.Unmarshal(answer.Result, v); err != nil {
		p.t.Fatalf("%s: %s: %v", command.Do, answer, err)
	}
}

var libraries = []string{"openid-client", "oauth4webapi"}

// A client that registers gets id tokens in the algorithm that the answer to its
// registration names, whether it has asked for that one, for another or for none.
func TestStrictClientRegistersAndSignsIn(t *testing.T) {
	for _, library := range libraries {
		t.Run(library, func(t *testing.T) {
			site := startSite(t)
			for _, c := range []struct{ method, idTokenAlg string }{
				{"client_secret_basic", "ES256"}, {"client_secret_post", ""}, {"none", "ES256"}, {"", "RS256"},
			} {
				t.Run(c.method+" "+c.idTokenAlg, func(t *testing.T) {
					p := startParty(t, site, library)
					metadata := map[string]any{"client_name": library, "redirect_uris": []string{e2e.RedirectURI}, "grant_types": []string{"authorization_code", "refresh_token"}}
					if c.method != "" {
						metadata["token_endpoint_auth_method"] = c.method
					}
					if c.idTokenAlg != "" {
						metadata["id_token_signed_response_alg"] = c.idTokenAlg
					}
					var registered struct {
						Alg    string `json:"id_token_signed_response_alg"`
						Method string `json:"token_endpoint_auth_method"`
					}
					p.must(partyCommand{Do: "register", Metadata: metadata}, &registered)
					if registered.Alg != "ES256" || c.method != "" && registered.Method != c.method {
						t.Errorf("the registration says %+v", registered)
					}
					p.goThroughAGrant()
				})
			}
		})
	}
}

// A client that the operator has configured with public keys proves itself by assertions.
func TestStrictClientSignsInByItsKey(t *testing.T) {
	for _, library := range libraries {
		t.Run(library, func(t *testing.T) {
			site := startSite(t)
			for _, c := range []struct{ alg, keyID string }{{"ES256", "one"}, {"RS256", "one"}, {"PS256", ""}} {
				t.Run(c.alg, func(t *testing.T) {
					signer := clientdoc.NewKeyFor(t, c.alg, c.keyID)
					id := "signs-" + strings.ToLower(c.alg)
					addClientWithKeys(t, site.Program, id, signer)
					before := len(site.proxy.Exchanges("/token"))
					p := startParty(t, site, library)
					p.must(partyCommand{Do: "configure", Client: id, Key: signer.Private()}, nil)
					p.goThroughAGrant()
					for _, e := range site.proxy.Exchanges("/token")[before:] {
						if alg := algorithm(t, e.Form.Get("client_assertion")); alg != c.alg {
							t.Errorf("the client signed with %q, want %s", alg, c.alg)
						}
					}
				})
			}
		})
	}
}

// A client that signs with another key than the configured one gets invalid_client, and its
// code is not spent.
func TestStrictClientWithAnotherKeyIsRefused(t *testing.T) {
	for _, library := range libraries {
		t.Run(library, func(t *testing.T) {
			site := startSite(t)
			signer := clientdoc.NewKeyFor(t, "ES256", "one")
			addClientWithKeys(t, site.Program, "signs", signer)
			wrong := clientdoc.NewKeyFor(t, "ES256", "one")
			p := startParty(t, site, library)
			p.must(partyCommand{Do: "configure", Client: "signs", Key: wrong.Private()}, nil)
			back := p.authorize()
			if got := p.ask(partyCommand{Do: "finish", Back: back}); got.Error.Code != "invalid_client" {
				t.Errorf("another key: %s, want invalid_client", got)
			}
			// The library keeps the verifier of the login that has begun.
			p.must(partyCommand{Do: "configure", Client: "signs", Key: signer.Private()}, nil)
			p.must(partyCommand{Do: "finish", Back: back}, nil)
		})
	}
}

// authorize signs the user in, and returns the redirect to the client.
func (p *party) authorize() (back string) {
	p.t.Helper()
	var link string
	p.must(partyCommand{Do: "authorize", Scope: "openid profile read", Resource: p.site.endpoint}, &link)
	return e2e.SignIn(p.t, link, "demo_user", "demo_password").String()
}

// goThroughAGrant does all that a client can do with a grant, up to its end.
func (p *party) goThroughAGrant() {
	p.t.Helper()
	var claims struct{ Sub, Iss string }
	p.must(partyCommand{Do: "finish", Back: p.authorize()}, &claims)
	if claims.Sub != "demo_user" || claims.Iss != p.site.proxy.URL {
		p.t.Errorf("the id token says %+v", claims)
	}
	p.must(partyCommand{Do: "userinfo", Subject: claims.Sub}, nil) // the library compares sub
	for range 2 {
		var fresh struct {
			AccessToken string `json:"access_token"`
		}
		p.must(partyCommand{Do: "refresh"}, &fresh)
		if status := e2e.Call(p.t, p.site.endpoint, fresh.AccessToken); status != http.StatusOK {
			p.t.Errorf("a call with the access token: %d", status)
		}
	}
	p.checkActive(true)
	p.must(partyCommand{Do: "revoke"}, nil)
	p.checkActive(false)
	if got := p.ask(partyCommand{Do: "refresh"}); got.Error.Code != "invalid_grant" {
		p.t.Errorf("a refresh after the revocation: %s, want invalid_grant", got)
	}
}

func (p *party) checkActive(want bool) {
	p.t.Helper()
	for _, token := range []string{"access_token", "refresh_token"} {
		var answer struct {
			Active bool
			Sub    string
		}
		p.must(partyCommand{Do: "introspect", Token: token}, &answer)
		if answer.Active != want || (answer.Sub == "demo_user") != want {
			p.t.Errorf("introspection of the %s says %+v, want active %v", token, answer, want)
		}
	}
}

// algorithm is that in the header of a signed token.
func algorithm(t *testing.T, token string) string {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[0])
	var header struct{ Alg string }
	if err == nil {
		err = json.Unmarshal(text, &header)
	}
	if err != nil {
		t.Errorf("%q is not signed: %v", token, err)
	}
	return header.Alg
}

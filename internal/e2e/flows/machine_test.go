package flows

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/auth/extauth"
	"github.com/modelcontextprotocol/go-sdk/oauthex"

	"signet/internal/e2e"
	"signet/internal/test/clientdoc"
)

// addMachine adds a client that gets tokens for itself, and returns its secret.
func addMachine(p *e2e.Program, id string, args ...string) (secret string) {
	p.T.Helper()
	var out string
	p.TakesUp("clients", func() {
		out = p.Must(append([]string{"client", "add", id, "--client-credentials", "--json"}, args...)...)
	})
	var added struct {
		Secret string `json:"client_secret"`
	}
	if err := json.Unmarshal([]byte(out), &added); err != nil {
		p.T.Fatal(err)
	}
	return added.Secret
}

// The go-sdk's client for machines finds everything out by itself, and asks for what the
// challenge lists. When its tokens are ended it gets others by itself.
func TestMachineOfTheGoSDKCallsTools(t *testing.T) {
	site := newSite(t)
	secret := addMachine(site.Program, "worker", "--scope", "read", "--scope", "write")
	handler, err := extauth.NewClientCredentialsHandler(&extauth.ClientCredentialsHandlerConfig{
		Credentials: &oauthex.ClientCredentials{ClientID: "worker", ClientSecretAuth: &oauthex.ClientSecretAuth{ClientSecret: secret}, Issuer: site.proxy.URL},
	})
	if err != nil {
		t.Fatal(err)
	}
	session := e2e.Connect(t, site.endpoint, handler, nil)
	if got := e2e.CallTool(t, session, "echo", map[string]any{"message": "hello"}); !strings.Contains(got, "hello") {
		t.Errorf("echo says %q", got)
	}
	source, err := handler.TokenSource(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	token, err := source.Token()
	if err != nil || token.RefreshToken != "" {
		t.Errorf("token: %v, refresh %q", err, token.RefreshToken)
	}
	site.Must("client", "block", "worker")
	e2e.Eventually(t, func() bool { return e2e.Call(t, site.endpoint, token.AccessToken) == http.StatusUnauthorized })
	site.Must("client", "unblock", "worker")
	if e2e.Call(t, site.endpoint, token.AccessToken) != http.StatusUnauthorized {
		t.Error("a token from before the block is accepted again")
	}
	e2e.Eventually(t, func() bool {
		_, status := e2e.Post(t, site.Issuer, map[string][]string{"grant_type": {"client_credentials"}, "client_id": {"worker"}, "client_secret": {secret}})
		return status == http.StatusOK
	})
	if got := e2e.CallTool(t, session, "echo", map[string]any{"message": "again"}); !strings.Contains(got, "again") {
		t.Errorf("after the block, echo says %q", got)
	}
}

func TestStrictMachineGetsATokenForItself(t *testing.T) {
	for _, library := range libraries {
		t.Run(library, func(t *testing.T) {
			site := startSite(t)
			signer := clientdoc.NewKeyFor(t, "ES256", "one")
			file := filepath.Join(t.TempDir(), "keys.json")
			text, err := json.Marshal(clientdoc.Set(t, signer))
			if err == nil {
				err = os.WriteFile(file, text, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			secret := addMachine(site.Program, "worker", "--scope", "read")
			addMachine(site.Program, "signs", "--scope", "read", "--jwks", file)
			for _, command := range []partyCommand{{Client: "worker", Secret: secret}, {Client: "signs", Key: signer.Private()}} {
				p := startParty(t, site, library)
				command.Do, command.Scope, command.Resource = "machine", "read", site.endpoint
				var got struct {
					AccessToken string `json:"access_token"`
					Scope       string
				}
				p.must(command, &got)
				if status := e2e.Call(t, site.endpoint, got.AccessToken); status != http.StatusOK || got.Scope != "read" {
					t.Errorf("%s: a call: %d, scope %q", command.Client, status, got.Scope)
				}
				for _, active := range []bool{true, false} {
					var answer struct {
						Active bool
						Sub    string
					}
					p.must(partyCommand{Do: "introspect", Token: "access_token"}, &answer)
					if answer.Active != active || (answer.Sub == command.Client) != active {
						t.Errorf("%s: introspection says %+v, want active %v", command.Client, answer, active)
					}
					p.must(partyCommand{Do: "revoke"}, nil)
				}
				if status := e2e.Call(t, site.endpoint, got.AccessToken); status != http.StatusUnauthorized {
					t.Errorf("%s: a call after the revocation: %d", command.Client, status)
				}
			}
		})
	}
}

// A client that is taken out of the file, or loses the right there, loses its tokens at a
// replica that knows the list of revoked grants alone. Added again, it gets good ones.
func TestTokensOfAMachineEndAtAReplica_G03(t *testing.T) {
	issuer := e2e.Start(t, nil, "--demo")
	replica := issuer.Beside()
	replica.Args = []string{"serve", "--role", "mcp"}
	replica.Start()
	path := filepath.Join(issuer.Dir, "clients.json")
	edit := func(change func(text string) string) {
		t.Helper()
		issuer.TakesUp("clients", func() {
			text, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(path+".new", []byte(change(string(text))), 0o600)
			}
			if err == nil {
				err = os.Rename(path+".new", path)
			}
			if err != nil {
				t.Fatal(err)
			}
		})
	}
	secret := addMachine(issuer, "worker", "--scope", "read")
	ask := func(secret string) (e2e.Tokens, int) {
		return e2e.Post(t, issuer.Issuer, map[string][]string{"grant_type": {"client_credentials"}, "client_id": {"worker"}, "client_secret": {secret}})
	}
	live := func(secret string) string {
		t.Helper()
		tok, status := ask(secret)
		if status != http.StatusOK {
			t.Fatalf("a token request: %d", status)
		}
		for _, p := range []*e2e.Program{issuer, replica} {
			if got := e2e.Call(t, p.URL()+"/mcp", tok.AccessToken); got != http.StatusOK {
				t.Fatalf("a call at %s: %d", p.URL(), got)
			}
		}
		return tok.AccessToken
	}
	ended := func(access, code string) {
		t.Helper()
		for _, p := range []*e2e.Program{issuer, replica} {
			e2e.Eventually(t, func() bool { return e2e.Call(t, p.URL()+"/mcp", access) == http.StatusUnauthorized })
		}
		if _, status := ask(secret); code != "" && status == http.StatusOK {
			t.Errorf("a client that %s gets a token", code)
		}
	}

	access := live(secret)
	var before string
	edit(func(text string) string {
		before = text
		return `{"clients":[]}`
	})
	ended(access, "is gone")
	edit(func(string) string { return before }) // the same entry comes back
	e2e.Eventually(t, func() bool {
		tok, status := ask(secret)
		return status == http.StatusOK && e2e.Call(t, issuer.URL()+"/mcp", tok.AccessToken) == http.StatusOK
	})
	access = live(secret)
	edit(func(text string) string {
		return strings.Replace(strings.Replace(text, `"redirect_uris": []`, `"redirect_uris": ["https://app.example/cb"]`, 1), `"client_credentials": true`, `"client_credentials": false`, 1)
	})
	ended(access, "lost the right")
	issuer.TakesUp("clients", func() { issuer.Must("client", "remove", "worker") })
	next := addMachine(issuer, "worker", "--scope", "read")
	access = live(next)
	issuer.Must("client", "remove", "worker")
	ended(access, "is removed")

	// While no server runs, the command ends them.
	next = addMachine(issuer, "worker", "--scope", "read")
	access = live(next)
	issuer.Stop()
	issuer.Must("client", "remove", "worker")
	issuer.Start()
	ended(access, "")
}

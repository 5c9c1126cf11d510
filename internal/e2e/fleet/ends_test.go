package fleet

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"signet/internal/e2e"
	"signet/internal/test/person"
	"signet/internal/test/process"
)

const newPassword = "another purple anvil quarter"

// granted is a grant of a user to a client.
type granted struct {
	user   string
	client *e2e.Client
	tokens e2e.Tokens
	id     string
}

// grantFrom signs a user in and returns the grant.
func grantFrom(d *e2e.Program, client *e2e.Client, user string) granted {
	d.T.Helper()
	tokens := client.Exchange(d.T, client.Code(d.T, user, e2e.AnnsPassword))
	id, _ := d.Generation(tokens.RefreshToken)
	return granted{user, client, tokens, id}
}

// addUser adds a user with Ann's password.
func addUser(d *e2e.Program, name string) {
	d.T.Helper()
	if _, errOut, status := d.Signet(e2e.AnnsPassword+"\n", "user", "add", name, "--password-stdin"); status != 0 {
		d.T.Fatal(errOut)
	}
}

// active reports whether introspection says that a token is active.
func (g granted) active(t *testing.T, token string) bool {
	t.Helper()
	resp, err := http.PostForm(g.client.Issuer+"/introspect", g.client.TokenForm(token))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ Active bool }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("introspection: %d, %v", resp.StatusCode, err)
	}
	return answer.Active
}

// inFeed reports whether the revocation feed lists the grant.
func (g granted) inFeed(t *testing.T) bool {
	t.Helper()
	resp, err := http.Get(g.client.Issuer + "/.well-known/revoked")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	parts := strings.Split(string(body), ".")
	if err != nil || len(parts) != 3 {
		t.Fatalf("feed: %v, %.100s", err, body)
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(claims), g.id)
}

// wantOver checks that a grant has ended everywhere: at the server, at a replica, in
// the feed, in introspection and in the list of grants.
func (g granted) wantOver(t *testing.T, d, replica *e2e.Program) {
	t.Helper()
	until(t, d, g.tokens.AccessToken, http.StatusUnauthorized, process.Patience)
	e2e.Eventually(t, func() bool { return g.inFeed(t) })
	until(t, replica, g.tokens.AccessToken, http.StatusUnauthorized, process.Patience)
	for _, token := range []string{g.tokens.AccessToken, g.tokens.RefreshToken} {
		if g.active(t, token) {
			t.Errorf("%s: a token is active", g.user)
		}
	}
	if tok, status := g.client.Refresh(t, g.tokens.RefreshToken); status != http.StatusBadRequest || tok.Error != "invalid_grant" {
		t.Errorf("%s: refresh: %d %s", g.user, status, tok.Error)
	}
	if list := d.Must("grant", "list", "--user", g.user); strings.Contains(list, g.id) {
		t.Errorf("%s: the grant is listed:\n%s", g.user, list)
	}
}

// usersFile changes the lines of the users file.
func usersFile(d *e2e.Program, change func(name string, user map[string]any) (keep bool)) string {
	d.T.Helper()
	var b strings.Builder
	for line := range strings.Lines(e2e.ReadText(d.T.(*testing.T), filepath.Join(d.Dir, "users"))) {
		user := map[string]any{}
		if err := json.Unmarshal([]byte(line), &user); err != nil {
			d.T.Fatal(err)
		}
		if !change(user["name"].(string), user) {
			continue
		}
		text, err := json.Marshal(user)
		if err != nil {
			d.T.Fatal(err)
		}
		b.Write(append(text, '\n'))
	}
	return b.String()
}

// ways are the ways in which a user changes.
var ways = map[string]func(d *e2e.Program, user string){
	"passwd": func(d *e2e.Program, user string) {
		if _, errOut, status := d.Signet(newPassword+"\n", "user", "passwd", user, "--password-stdin"); status != 0 {
			d.T.Fatal(errOut)
		}
	},
	"disable": func(d *e2e.Program, user string) { d.Must("user", "disable", user) },
	"remove":  func(d *e2e.Program, user string) { d.Must("user", "remove", user) },
	"again": func(d *e2e.Program, user string) {
		d.Must("user", "remove", user)
		addUser(d, user)
	},
	"edited": func(d *e2e.Program, user string) { // in place
		text := usersFile(d, func(name string, u map[string]any) bool {
			if name == user {
				u["version"] = "edited"
			}
			return true
		})
		if err := os.WriteFile(filepath.Join(d.Dir, "users"), []byte(text), 0o600); err != nil {
			d.T.Fatal(err)
		}
	},
	"deleted": func(d *e2e.Program, user string) { // by another file
		text := usersFile(d, func(name string, u map[string]any) bool { return name != user })
		path := filepath.Join(d.Dir, "users")
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			d.T.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			d.T.Fatal(err)
		}
	},
}

// Every kind of change of a user ends the user's grants, including access tokens with a
// life of a day, and no grants of other users, also if no server ran at the time of the change.
func TestUserChangesEndGrantsEverywhere(t *testing.T) {
	for _, when := range []string{"running", "down"} {
		t.Run(when, func(t *testing.T) {
			d := e2e.New(t, []string{"SIGNET_ACCESS_TTL=24h"})
			addUser(d, "bob")
			for way := range ways {
				addUser(d, way)
			}
			d.Start()
			replica := replicaOf(d, "SIGNET_REVOCATION_POLL=1s")
			client := e2e.Register(t, d.Issuer, e2e.RedirectURI)
			bob := grantFrom(d, client, "bob")
			grants := map[string]granted{}
			for way := range ways {
				grants[way] = grantFrom(d, client, way)
				until(t, d, grants[way].tokens.AccessToken, http.StatusOK, process.Patience)
				until(t, replica, grants[way].tokens.AccessToken, http.StatusOK, process.Patience)
			}
			if when == "down" {
				d.Stop()
			}
			for way, change := range ways {
				change(d, way)
			}
			if when == "down" {
				d.Start()
			}
			for _, g := range grants {
				g.wantOver(t, d, replica)
			}
			until(t, d, bob.tokens.AccessToken, http.StatusOK, 0)
			if !bob.active(t, bob.tokens.RefreshToken) || !bob.active(t, bob.tokens.AccessToken) {
				t.Error("bob's tokens are not active")
			}
			again := client.Exchange(t, client.Code(t, "passwd", newPassword))
			time.Sleep(2500 * time.Millisecond) // two looks at the file
			until(t, d, again.AccessToken, http.StatusOK, 0)
			if _, status := client.Refresh(t, again.RefreshToken); status != http.StatusOK {
				t.Errorf("a grant of the new password: refresh %d", status)
			}
		})
	}
}

// asked reports whether the server asks a user for consent again.
func asked(d *e2e.Program, client *e2e.Client, user, password string) bool {
	d.T.Helper()
	p := person.New(user, password)
	page, err := p.Open(client.AuthorizationURL("s"))
	if err == nil {
		page, err = p.SignIn(page)
	}
	if err != nil {
		d.T.Fatal(err)
	}
	switch to := page.Left(); {
	case to != nil && to.Query().Has("code"):
		return false
	case !page.AsksConsent():
		d.T.Fatalf("neither a code nor the consent page: %s", page)
	}
	return true
}

// A consent is remembered for the user, the client and the store for which it was
// given. After a change of one of them no client gets a code without a page.
func TestChangesForgetConsent(t *testing.T) {
	const redirect = "https://app.test/cb"
	for name, test := range map[string]struct {
		password string
		change   func(t *testing.T, d *e2e.Program, client *e2e.Client, first, second granted)
	}{
		"password reset": {newPassword, func(t *testing.T, d *e2e.Program, _ *e2e.Client, _, _ granted) { ways["passwd"](d, "ann") }},
		"disabled and enabled": {e2e.AnnsPassword, func(t *testing.T, d *e2e.Program, _ *e2e.Client, _, _ granted) {
			d.TakesUp("users", func() { d.Must("user", "disable", "ann") })
			d.TakesUp("users", func() { d.Must("user", "enable", "ann") })
		}},
		"another person of that name": {e2e.AnnsPassword, func(t *testing.T, d *e2e.Program, _ *e2e.Client, first, _ granted) {
			d.Must("user", "remove", "ann")
			e2e.Eventually(t, func() bool { return !first.active(t, first.tokens.AccessToken) })
			d.TakesUp("users", func() { addUser(d, "ann") })
		}},
		"accepted loss": {e2e.AnnsPassword, func(t *testing.T, d *e2e.Program, _ *e2e.Client, _, _ granted) {
			d.Stop()
			d.Must("doctor", "--accept-loss")
			d.Start()
		}},
		"restored backup": {e2e.AnnsPassword, func(t *testing.T, d *e2e.Program, client *e2e.Client, first, second granted) {
			file := filepath.Join(t.TempDir(), "backup")
			d.Must("backup", file)
			client.Revoke(t, first.tokens.AccessToken)
			client.Revoke(t, second.tokens.AccessToken)
			d.Stop()
			d.Must("restore", file, "--replace")
			d.Start()
			for _, token := range []string{first.tokens.AccessToken, second.tokens.AccessToken, first.tokens.RefreshToken} {
				if first.active(t, token) {
					t.Error("a token revoked after the backup is active")
				}
			}
			if status := e2e.Call(t, d.Issuer+"/mcp", first.tokens.AccessToken); status != 401 {
				t.Errorf("its access token at the MCP endpoint: %d, want 401", status)
			}
			if list := d.Must("grant", "list"); strings.Contains(list, first.id) {
				t.Errorf("the grant is listed:\n%s", list)
			}
		}},
		"one of two revoked": {e2e.AnnsPassword, func(t *testing.T, d *e2e.Program, client *e2e.Client, first, second granted) {
			d.Must("grant", "revoke", first.id)
			if !second.active(t, second.tokens.AccessToken) {
				t.Error("the other grant has ended")
			}
		}},
		"client added again": {e2e.AnnsPassword, func(t *testing.T, d *e2e.Program, client *e2e.Client, first, second granted) {
			code := client.Code(t, "ann", e2e.AnnsPassword)
			d.Must("client", "remove", client.ID)
			d.Must("client", "add", client.ID, "--public", "--redirect-uri", redirect)
			e2e.Eventually(t, func() bool {
				_, status := client.Refresh(t, first.tokens.RefreshToken)
				return status == http.StatusBadRequest
			})
			until(t, d, second.tokens.AccessToken, http.StatusUnauthorized, process.Patience)
			if tok, status := e2e.Post(t, d.Issuer, client.CodeForm(code)); status != http.StatusBadRequest || tok.Error != "invalid_grant" {
				t.Errorf("a code of the earlier client: %d %s", status, tok.Error)
			}
			if second.active(t, second.tokens.AccessToken) || second.active(t, second.tokens.RefreshToken) {
				t.Error("a token of the earlier client is active")
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			d := e2e.New(t, []string{"SIGNET_ACCESS_TTL=24h"})
			addUser(d, "ann")
			d.Start()
			d.Must("client", "add", "app", "--public", "--redirect-uri", redirect)
			client := &e2e.Client{Issuer: d.Issuer, RedirectURI: redirect, ID: "app"}
			e2e.Eventually(t, func() bool {
				page, err := person.New("", "").Open(client.AuthorizationURL("s"))
				return err == nil && page.AsksPassword()
			})
			first := grantFrom(d, client, "ann")
			if asked(d, client, "ann", e2e.AnnsPassword) {
				t.Fatal("the same request asks for consent again")
			}
			second := grantFrom(d, client, "ann")
			test.change(t, d, client, first, second)
			e2e.Eventually(t, func() bool { return !first.active(t, first.tokens.AccessToken) }) // the change is noticed within a second
			if !asked(d, client, "ann", test.password) {
				t.Error("the client gets a code without a page")
			}
		})
	}
}

// A restart with a shorter life of access tokens forgets no revocation.
func TestShorterAccessLifeForgetsNoRevocation(t *testing.T) {
	d := e2e.Start(t, []string{"SIGNET_ACCESS_TTL=24h"}, "--demo")
	client, tokens := d.Login()
	id, _ := d.Generation(tokens.RefreshToken)
	g := granted{"demo_user", client, tokens, id}
	client.Revoke(t, tokens.AccessToken)
	until(t, d, tokens.AccessToken, http.StatusUnauthorized, 0)
	d.Stop()
	// Make the revocation some hours old.
	d.Change("UPDATE grants SET revoked_at = revoked_at - 5*3600*1000")
	d.Env = append(d.Env, "SIGNET_ACCESS_TTL=1s")
	d.Start()
	until(t, d, tokens.AccessToken, http.StatusUnauthorized, 0)
	if !g.inFeed(t) {
		t.Error("the feed no longer lists the revocation")
	}
}

// A client that registered itself can be blocked. That ends its grants everywhere, and no
// others; without a server too.
func TestBlockedClientEndsEverywhere(t *testing.T) {
	d := e2e.New(t, []string{"SIGNET_ACCESS_TTL=24h"})
	addUser(d, "ann")
	d.Start()
	replica := replicaOf(d, "SIGNET_REVOCATION_POLL=1s")
	evil, other := e2e.Register(t, d.Issuer, e2e.RedirectURI), e2e.Register(t, d.Issuer, e2e.RedirectURI)
	first, good := grantFrom(d, evil, "ann"), grantFrom(d, other, "ann")
	code := evil.Code(t, "ann", e2e.AnnsPassword)
	until(t, replica, first.tokens.AccessToken, http.StatusOK, process.Patience)

	if out := d.Must("client", "block", evil.ID); !strings.Contains(out, "grants ended: 1") {
		t.Error(out)
	}
	until(t, d, first.tokens.AccessToken, http.StatusUnauthorized, process.Patience)
	until(t, replica, first.tokens.AccessToken, http.StatusUnauthorized, process.Patience)
	e2e.Eventually(t, func() bool { return first.inFeed(t) })
	e2e.Eventually(t, func() bool { // the server notices within seconds
		tok, status := evil.Refresh(t, first.tokens.RefreshToken)
		return status == http.StatusUnauthorized && tok.Error == "invalid_client"
	})
	if tok, status := e2e.Post(t, d.Issuer, evil.CodeForm(code)); status != http.StatusUnauthorized || tok.Error != "invalid_client" {
		t.Errorf("a code: %d %s", status, tok.Error)
	}
	if page, err := person.New("", "").Open(evil.AuthorizationURL("s")); err != nil || page.Left() != nil || page.AsksPassword() {
		t.Errorf("an authorization request: %v, %v", page, err)
	}
	until(t, d, good.tokens.AccessToken, http.StatusOK, 0)
	if list := d.Must("grant", "list"); strings.Contains(list, first.id) || !strings.Contains(list, good.id) {
		t.Error(list)
	}
	if list := d.Must("client", "list", "--json"); !strings.Contains(list, evil.ID) || strings.Contains(list, other.ID) {
		t.Error(list)
	}
	d.Must("client", "unblock", evil.ID)
	e2e.Eventually(t, func() bool {
		page, err := person.New("", "").Open(evil.AuthorizationURL("s"))
		return err == nil && page.AsksPassword()
	})
	until(t, d, first.tokens.AccessToken, http.StatusUnauthorized, 0)
	again := grantFrom(d, evil, "ann")
	until(t, d, again.tokens.AccessToken, http.StatusOK, 0)

	d.Stop()
	d.Must("client", "block", evil.ID)
	d.Start()
	until(t, d, again.tokens.AccessToken, http.StatusUnauthorized, 0)
	if _, status := evil.Refresh(t, again.tokens.RefreshToken); status != http.StatusUnauthorized {
		t.Errorf("refresh: %d", status)
	}
}

// A client that is removed and added again starts anew, however fast that is.
func TestClientAddedAgainStartsAnewAtOnce(t *testing.T) {
	d := e2e.New(t, []string{"SIGNET_ACCESS_TTL=24h"})
	addUser(d, "ann")
	d.Start()
	client := &e2e.Client{Issuer: d.Issuer, RedirectURI: e2e.RedirectURI, ID: "app"}
	add := func() {
		t.Helper()
		d.Must("client", "add", client.ID, "--public", "--redirect-uri", client.RedirectURI, "--scope", "read", "--scope", "write")
	}
	look := func() { // so that all of it passes between two looks of what ends grants
		if err := d.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	served := func() bool {
		look()
		page, err := person.New("", "").Open(client.AuthorizationURL("s"))
		return err == nil && page.AsksPassword()
	}
	add()
	for range 3 {
		e2e.Eventually(t, served)
		g := grantFrom(d, client, "ann")
		code := client.Code(t, "ann", e2e.AnnsPassword)
		d.Must("client", "remove", client.ID)
		add()
		e2e.Eventually(t, func() bool {
			look()
			tok, status := client.Refresh(t, g.tokens.RefreshToken)
			return status == http.StatusBadRequest && tok.Error == "invalid_grant"
		})
		if tok, status := e2e.Post(t, d.Issuer, client.CodeForm(code)); status != http.StatusBadRequest || tok.Error != "invalid_grant" {
			t.Errorf("a code of the earlier client: %d %+v", status, tok)
		}
		until(t, d, g.tokens.AccessToken, http.StatusUnauthorized, process.Patience)
	}
}

// A scope that the client or the server lost since the consent comes with no code and no handle,
// and does not come back.
func TestLostScopeIsInNoToken(t *testing.T) {
	d := e2e.New(t, nil)
	if _, errOut, status := d.Signet(e2e.AnnsPassword+"\n", "user", "add", "ann", "--scope", "read", "--scope", "write", "--password-stdin"); status != 0 {
		t.Fatal(errOut)
	}
	d.Must("client", "add", "app", "--public", "--redirect-uri", e2e.RedirectURI, "--scope", "read", "--scope", "write")
	d.Start()
	client := &e2e.Client{Issuer: d.Issuer, RedirectURI: e2e.RedirectURI, ID: "app"}
	path := filepath.Join(d.Dir, "clients.json")
	edit := func(from, to string) {
		t.Helper()
		text := e2e.ReadText(t, path)
		if !strings.Contains(text, from) {
			t.Fatalf("%q is not in %s", from, text)
		}
		d.TakesUp("clients", func() {
			if err := os.WriteFile(path, []byte(strings.Replace(text, from, to, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
	both, one := "\"read\",\n        \"write\"", `"read"`
	want := func(what string, tok e2e.Tokens, scope string) e2e.Tokens {
		t.Helper()
		if tok.Scope != scope {
			t.Errorf("%s gives %q, want %q (%s)", what, tok.Scope, scope, tok.Error)
		}
		return tok
	}
	refresh := func(handle string) e2e.Tokens { tok, _ := client.Refresh(t, handle); return tok }
	held := want("a code", client.Exchange(t, client.Code(t, "ann", e2e.AnnsPassword)), "read write")
	code := client.Code(t, "ann", e2e.AnnsPassword)
	edit(both, one)
	late := want("a code whose client lost a scope", client.Exchange(t, code), "read")
	held = want("a handle whose client lost a scope", refresh(held.RefreshToken), "read")
	edit(one, both)
	want("that code's handle, later", refresh(late.RefreshToken), "read")
	want("that handle, later", refresh(held.RefreshToken), "read")

	held = want("a new code", client.Exchange(t, client.Code(t, "ann", e2e.AnnsPassword)), "read write")
	code = client.Code(t, "ann", e2e.AnnsPassword)
	settings := d.Env
	d.Stop()
	d.Env = append(settings, "SIGNET_SCOPES=read", "SIGNET_SCOPE_HIERARCHY=off")
	d.Start()
	late = want("a code whose server lost a scope", client.Exchange(t, code), "read")
	held = want("a handle whose server lost a scope", refresh(held.RefreshToken), "read")
	d.Stop()
	d.Env = settings
	d.Start()
	want("that code's handle, later", refresh(late.RefreshToken), "read")
	want("that handle, later", refresh(held.RefreshToken), "read")
}

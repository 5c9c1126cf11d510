package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"signet/internal/cli"
	"signet/internal/e2e"
	"signet/internal/seal"
	"signet/internal/store"
	"signet/internal/test/person"
	"signet/internal/vault"
	"signet/server"
	"signet/users"
)

// seven is a user of a program's check.
var seven = users.User{Subject: "7", Name: "alice", Email: "alice@corp.example", DisplayName: "Alice A.", Picture: "https://corp.example/7.png", Scopes: []string{"read", "write"}}

// kept is what is known of seven after the login. The scopes are in sessions and grants.
var kept = users.User{Subject: seven.Subject, Name: seven.Name, Email: seven.Email, DisplayName: seven.DisplayName, Picture: seven.Picture}

func checkSeven(_ context.Context, name, password string) (users.User, error) {
	switch {
	case name == "nobody":
		return users.User{Subject: "upstream:corp:7"}, nil
	case name != "alice" || password != "cows":
		return users.User{}, users.ErrInvalid
	}
	return seven, nil
}

func upstreamAccount(subject string) vault.Account {
	return vault.Account{Provider: "corp", Account: seal.Account{Subject: subject, Name: "ann", Email: "ann@corp.example", DisplayName: "Ann", Picture: "https://corp.example/ann.png", Scopes: []string{"read"}}}
}

func lookup(t *testing.T, srv *server.Server, subject string) users.User {
	t.Helper()
	u, err := srv.Users().Lookup(t.Context(), subject)
	if err != nil {
		t.Fatalf("lookup of %q: %v", subject, err)
	}
	return u
}

func wantUnknown(t *testing.T, what string, srv *server.Server, subject string) {
	t.Helper()
	if u, err := srv.Users().Lookup(t.Context(), subject); !errors.Is(err, users.ErrUnknown) {
		t.Errorf("%s: %+v, %v; want ErrUnknown", what, u, err)
	}
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestUsersOfACheckKeepWhatItReturned(t *testing.T) {
	srv := newServer(t, func(o *server.Options) { o.Check = checkSeven })
	if diff := cmp.Diff(users.User{Subject: "7"}, lookup(t, srv, "7")); diff != "" {
		t.Errorf("before the first login (-want +got):\n%s", diff)
	}
	for _, name := range []string{"mallory", "nobody"} {
		if _, err := srv.Users().Check(t.Context(), name, "cows"); err == nil {
			t.Errorf("%s was let in", name)
		}
	}
	got, err := srv.Users().Check(t.Context(), "alice", "cows")
	if diff := cmp.Diff(seven, got); diff != "" || err != nil {
		t.Errorf("login: %v (-want +got):\n%s", err, diff)
	}
	if diff := cmp.Diff(kept, lookup(t, srv, "7")); diff != "" {
		t.Errorf("afterwards (-want +got):\n%s", diff)
	}
	if all, err := srv.Vault().Accounts(t.Context(), "", 10); err != nil || len(all) != 1 {
		t.Errorf("%d accounts (%v), want that of the one login", len(all), err)
	}
	noError(t, srv.Vault().SetDisabled(t.Context(), "7", true))
	wantUnknown(t, "a disabled user", srv, "7")
	if _, err := srv.Users().Check(t.Context(), "alice", "cows"); !errors.Is(err, users.ErrInvalid) {
		t.Errorf("login of a disabled user: %v, want ErrInvalid", err)
	}
	noError(t, srv.Vault().SetDisabled(t.Context(), "7", false))
	if _, err := srv.Users().Check(t.Context(), "alice", "cows"); err != nil {
		t.Errorf("login of a user who is enabled again: %v", err)
	}
}

func TestProgramMaySayThatAUserIsGone(t *testing.T) {
	var answer atomic.Pointer[func() (users.User, error)]
	says := func(u users.User, err error) {
		f := func() (users.User, error) { return u, err }
		answer.Store(&f)
	}
	srv := newServer(t, func(o *server.Options) {
		o.Check = checkSeven
		o.Lookup = func(_ context.Context, subject string) (users.User, error) {
			if subject != "7" {
				t.Errorf("asked about %q", subject)
			}
			return (*answer.Load())()
		}
	})
	if _, err := srv.Users().Check(t.Context(), "alice", "cows"); err != nil {
		t.Fatal(err)
	}
	for _, empty := range []users.User{{}, {Scopes: []string{}}} {
		says(empty, nil)
		if diff := cmp.Diff(kept, lookup(t, srv, "7")); diff != "" {
			t.Errorf("what the program leaves empty is kept (-want +got):\n%s", diff)
		}
	}
	says(users.User{Subject: "7", Name: "renamed", Email: "new@corp.example", Updated: 5, Version: "1"}, nil)
	want := kept
	want.Name, want.Email, want.Updated = "renamed", "new@corp.example", 5
	if diff := cmp.Diff(want, lookup(t, srv, "7")); diff != "" {
		t.Errorf("what the program knows (-want +got):\n%s", diff)
	}
	says(users.User{}, users.ErrUnknown)
	wantUnknown(t, "a user who is gone", srv, "7")
	down := errors.New("directory down")
	says(users.User{}, down)
	if _, err := srv.Users().Lookup(t.Context(), "7"); !errors.Is(err, down) || errors.Is(err, users.ErrUnknown) {
		t.Errorf("the program cannot tell: %v", err)
	}
	says(users.User{Subject: "8"}, nil)
	if _, err := srv.Users().Lookup(t.Context(), "7"); err == nil || errors.Is(err, users.ErrUnknown) {
		t.Errorf("another user: %v, want an error that is no verdict", err)
	}
	says(users.User{}, nil)
	noError(t, srv.Vault().SetDisabled(t.Context(), "7", true))
	wantUnknown(t, "a user whom the operator has disabled", srv, "7")
}

func TestLookupNeedsACheck(t *testing.T) {
	o := server.Options{DataDir: t.TempDir(), Lookup: func(context.Context, string) (users.User, error) { return users.User{}, nil }}
	srv, err := server.New(o.Alone())
	if err == nil {
		srv.Close()
		t.Fatal("accepted")
	}
	if !strings.Contains(err.Error(), "lookup") {
		t.Errorf("%v does not name the option", err)
	}
}

func TestUpstreamUsersAreThoseOfTheVault(t *testing.T) {
	for name, source := range map[string]users.CheckFunc{"beside a check": checkSeven, "beside a users file": nil} {
		t.Run(name, func(t *testing.T) {
			srv := newServer(t, func(o *server.Options) { o.Check = source })
			const ann = "upstream:corp:1"
			wantUnknown(t, "before the first sign-in", srv, ann)
			account, err := srv.Vault().SignedIn(t.Context(), upstreamAccount(ann))
			noError(t, err)
			want := users.User{Subject: ann, Name: "ann", Email: "ann@corp.example", DisplayName: "Ann", Picture: "https://corp.example/ann.png", Scopes: []string{"read"}, Version: account.Version}
			if diff := cmp.Diff(want, lookup(t, srv, ann)); diff != "" || account.Version == "" {
				t.Errorf("version %q (-want +got):\n%s", account.Version, diff)
			}
			noError(t, srv.Users().EndSessions(t.Context(), ann))
			ended := lookup(t, srv, ann)
			if ended.Version == want.Version || ended.Version == "" {
				t.Errorf("version %q after the end of the sessions, %q before", ended.Version, want.Version)
			}
			noError(t, srv.Vault().SetDisabled(t.Context(), ann, true))
			wantUnknown(t, "a disabled user", srv, ann)
			noError(t, srv.Vault().Remove(t.Context(), ann))
			wantUnknown(t, "a removed user", srv, ann)
			for _, subject := range []string{ann, "nobody"} {
				if err := srv.Users().EndSessions(t.Context(), subject); !errors.Is(err, users.ErrUnknown) {
					t.Errorf("end of the sessions of %s: %v, want ErrUnknown", subject, err)
				}
			}
		})
	}
}

// Users of the file cost no read of the store, and their sessions end in the file.
func TestUsersOfTheFileNeedNoStore(t *testing.T) {
	dir := t.TempDir()
	srv := newServer(t, func(o *server.Options) { o.Check, o.DataDir = nil, dir })
	file, err := users.OpenFile(filepath.Join(dir, "users"))
	noError(t, err)
	added, err := file.Add(t.Context(), users.User{Name: "ann"}, "correct horse battery")
	noError(t, err)
	srv.ReadNoStore()
	until(t, "the added user", func() (any, bool) {
		u, err := srv.Users().Check(t.Context(), "ann", "correct horse battery")
		return err, err == nil && u.Version == added.Version
	})
	if got := lookup(t, srv, "ann"); got.Version != added.Version {
		t.Errorf("%+v", got)
	}
	noError(t, srv.Users().EndSessions(t.Context(), "ann"))
	if got := lookup(t, srv, "ann"); got.Version == added.Version {
		t.Error("the version is the same after the end of the sessions")
	}
	wantUnknown(t, "no user", srv, "bob")
}

// If the store fails, there is no verdict about a user.
func TestStoreThatFailsIsNoVerdict_INV11(t *testing.T) {
	srv := newServer(t, func(o *server.Options) { o.Check = checkSeven })
	noError(t, srv.Close())
	for _, subject := range []string{"7", "upstream:corp:1"} {
		if _, err := srv.Users().Lookup(t.Context(), subject); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("lookup of %s: %v, want ErrUnavailable", subject, err)
		}
	}
	if _, err := srv.Users().Check(t.Context(), "alice", "cows"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("login: %v, want ErrUnavailable", err)
	}
}

// The whole way: what the check said reaches the endpoints at each refresh, and the end of a
// user ends the user's grants.
func TestCheckedUserReachesTheEndpoints(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	noError(t, err)
	var gone atomic.Bool
	srv := newServer(t, func(o *server.Options) {
		o.Check, o.Issuer = checkSeven, "http://"+l.Addr().String()
		o.Lookup = func(context.Context, string) (users.User, error) {
			if gone.Load() {
				return users.User{}, users.ErrUnknown
			}
			return users.User{}, nil
		}
	})
	base, stop := serveOn(t, srv, l)
	defer stop()
	client := e2e.RegisterWithSecret(t, base, "http://127.0.0.1:1/cb")
	link := strings.Replace(client.AuthorizationURL("s"), "scope=read+write", "scope=read+profile+email", 1)
	first := client.Exchange(t, e2e.SignIn(t, link, "alice", "cows").Query().Get("code"))
	tokens, status := client.Refresh(t, first.RefreshToken)
	if status != http.StatusOK {
		t.Fatalf("refresh: %d %+v", status, tokens)
	}
	info := userinfo(t, base, tokens.AccessToken)
	for claim, want := range map[string]string{"sub": "7", "name": seven.DisplayName, "preferred_username": seven.Name, "email": seven.Email, "picture": seven.Picture} {
		if info[claim] != want {
			t.Errorf("userinfo: %s is %v, want %s", claim, info[claim], want)
		}
	}
	if got := introspect(t, client, tokens.AccessToken); got["active"] != true || got["username"] != "alice" {
		t.Errorf("introspection: %v", got)
	}
	gone.Store(true)
	if got := introspect(t, client, tokens.AccessToken); got["active"] != false {
		t.Errorf("introspection of a user who is gone: %v", got)
	}
	if again, status := client.Refresh(t, tokens.RefreshToken); status != http.StatusBadRequest || again.Error != "invalid_grant" {
		t.Errorf("refresh of a user who is gone: %d %+v", status, again)
	}
}

// The program may take a scope away from a user. Without an answer about scopes, those of the
// login stay.
func TestLookupTakesScopesAway(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	noError(t, err)
	var scopes atomic.Pointer[[]string]
	scopes.Store(new([]string))
	srv := newServer(t, func(o *server.Options) {
		o.Check, o.Issuer = checkSeven, "http://"+l.Addr().String()
		o.Lookup = func(context.Context, string) (users.User, error) { return users.User{Scopes: *scopes.Load()}, nil }
	})
	base, stop := serveOn(t, srv, l)
	defer stop()
	client := e2e.RegisterWithSecret(t, base, "http://127.0.0.1:1/cb")
	tokens := client.Exchange(t, client.Code(t, "alice", "cows"))
	for _, tt := range []struct {
		has  []string
		want string
	}{
		{nil, "read write"},
		{[]string{"read", "write", "admin"}, "read write"},
		{[]string{"read"}, "read"},
		{[]string{"read", "write"}, "read"}, // what a grant has lost, only the user can give back
	} {
		scopes.Store(&tt.has)
		var status int
		if tokens, status = client.Refresh(t, tokens.RefreshToken); status != http.StatusOK {
			t.Fatalf("refresh with %q: %d %+v", tt.has, status, tokens)
		}
		if got := introspect(t, client, tokens.AccessToken)["scope"]; got != tt.want {
			t.Errorf("the user has %q, the token %q, want %q", tt.has, got, tt.want)
		}
	}
	scopes.Store(&[]string{"admin"})
	if again, status := client.Refresh(t, tokens.RefreshToken); status != http.StatusBadRequest || again.Error != "invalid_grant" {
		t.Errorf("refresh without a scope: %d %+v", status, again)
	}
}

// A command that disables a user of the check ends the user's grants beside a running server:
// introspection, the revocation feed, the MCP endpoint and the login agree.
func TestDisabledUserOfACheckIsOutEverywhere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	noError(t, err)
	dir := filepath.Join(t.TempDir(), "data")
	srv := newServer(t, func(o *server.Options) {
		o.Check, o.DataDir, o.Issuer = checkSeven, dir, "http://"+l.Addr().String()
	})
	base, stop := serveOn(t, srv, l)
	defer stop()
	client := e2e.RegisterWithSecret(t, base, "http://127.0.0.1:1/cb")
	tokens := client.Exchange(t, client.Code(t, "alice", "cows"))
	if status := e2e.Call(t, base+"/mcp", tokens.AccessToken); status != http.StatusOK {
		t.Fatalf("MCP call before: %d", status)
	}
	command := func(verb string) {
		var out strings.Builder
		p := cli.Process{Environ: []string{"SIGNET_DATA_DIR=" + dir}, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out}
		if status := cli.Run(t.Context(), p, []string{"user", verb, "7"}); status != 0 {
			t.Fatalf("user %s: status %d: %s", verb, status, out.String())
		}
	}
	command("disable")
	if got := introspect(t, client, tokens.AccessToken); got["active"] != false {
		t.Errorf("introspection: %v", got)
	}
	if again, status := client.Refresh(t, tokens.RefreshToken); status != http.StatusBadRequest || again.Error != "invalid_grant" {
		t.Errorf("refresh: %d %+v", status, again)
	}
	until(t, "the MCP endpoint refuses the token", func() (any, bool) {
		status := e2e.Call(t, base+"/mcp", tokens.AccessToken)
		return status, status == http.StatusUnauthorized
	})
	alice := person.New("alice", "cows")
	page, err := alice.Open(client.AuthorizationURL("s"))
	noError(t, err)
	if page, err = alice.SignIn(page); err != nil || !page.AsksPassword() {
		t.Errorf("login of a disabled user: %v, %v", page, err)
	}
	command("enable")
	client.Exchange(t, client.Code(t, "alice", "cows"))
	if status := e2e.Call(t, base+"/mcp", tokens.AccessToken); status != http.StatusUnauthorized {
		t.Errorf("MCP call with the earlier token after the user was enabled: %d", status)
	}
}

func userinfo(t *testing.T, base, token string) (claims map[string]any) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", base+"/userinfo", nil)
	noError(t, err)
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	noError(t, err)
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&claims); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("userinfo: %d, %v", resp.StatusCode, err)
	}
	return claims
}

func introspect(t *testing.T, c *e2e.Client, token string) (answer map[string]any) {
	t.Helper()
	resp, err := http.PostForm(c.Issuer+"/introspect", c.TokenForm(token))
	noError(t, err)
	defer resp.Body.Close()
	noError(t, json.NewDecoder(resp.Body).Decode(&answer))
	return answer
}

// The store and its log contain nothing of an account in clear.
func TestStoreHasNoNamesInClear_INV16(t *testing.T) {
	dir := t.TempDir()
	srv := newServer(t, func(o *server.Options) { o.Check, o.DataDir = checkSeven, dir })
	if _, err := srv.Users().Check(t.Context(), "alice", "cows"); err != nil {
		t.Fatal(err)
	}
	const subject = "upstream:corp:in-clear"
	_, err := srv.Vault().SignedIn(t.Context(), upstreamAccount(subject))
	noError(t, err)
	_, err = srv.Vault().Put(t.Context(), seal.Credential{Subject: subject, Provider: "corp", Access: "the-access-token", Refresh: "the-refresh-token"})
	noError(t, err)
	noError(t, srv.Close())
	files, err := filepath.Glob(filepath.Join(dir, "signet.db*"))
	noError(t, err)
	found := false
	for _, path := range files {
		b, err := os.ReadFile(path)
		noError(t, err)
		found = found || strings.Contains(string(b), subject)
		for _, secret := range []string{seven.Name, seven.Email, seven.Picture, seven.DisplayName, "ann@corp.example", "ann.png", "the-access-token", "the-refresh-token"} {
			if strings.Contains(string(b), secret) {
				t.Errorf("%s contains %q", path, secret)
			}
		}
	}
	if !found {
		t.Errorf("the subject is in none of %v: the test reads the wrong files", files)
	}
}

package flows

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"signet/internal/e2e"
	"signet/server"
	"signet/users"
)

// embedded is a server inside this process, with its own options.
type embedded struct {
	options server.Options
	log     *e2e.Buffer
}

// embed runs a server on a free port until the test ends.
func embed(t *testing.T, level slog.Level, change func(*server.Options)) *embedded {
	t.Helper()
	addr := "127.0.0.1:" + e2e.FreePort(t)
	e := &embedded{log: &e2e.Buffer{}}
	e.options = server.Options{
		Listen: addr, Issuer: "http://" + addr, DataDir: filepath.Join(t.TempDir(), "data"), DrainDelay: time.Nanosecond,
		Check: func(_ context.Context, name, password string) (users.User, error) {
			if name == "alice" && password == "cows" {
				return users.User{Subject: "0", Scopes: []string{"read", "write", "user"}}, nil
			}
			return users.User{}, users.ErrInvalid
		},
		Log: slog.New(slog.NewJSONHandler(e.log, &slog.HandlerOptions{Level: level})),
	}
	if change != nil {
		change(&e.options)
	}
	srv, err := server.New(e.options)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.ListenAndServe(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	e2e.Eventually(t, func() bool { return strings.Contains(e.log.String(), `"msg":"serving"`) })
	return e
}

// document fetches a JSON document from the address that the server listens on.
func (e *embedded) document(t *testing.T, path string) map[string]any {
	t.Helper()
	res, err := http.Get("http://" + e.options.Listen + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var v map[string]any
	if err := json.NewDecoder(res.Body).Decode(&v); err != nil {
		t.Fatalf("%s: %d: %v", path, res.StatusCode, err)
	}
	return v
}

// login registers a client without a scope, requests scope, and returns the tokens.
func (e *embedded) login(t *testing.T, scope string) (*e2e.Client, e2e.Tokens) {
	t.Helper()
	client := e2e.Register(t, e.options.Issuer, e2e.RedirectURI)
	authorize, err := url.Parse(client.AuthorizationURL("s"))
	if err != nil {
		t.Fatal(err)
	}
	q := authorize.Query()
	q.Set("scope", scope)
	authorize.RawQuery = q.Encode()
	back := e2e.SignIn(t, authorize.String(), "alice", "cows")
	return client, client.Exchange(t, back.Query().Get("code"))
}

// mcpStatus sends a request to the MCP endpoint and returns its status.
func (e *embedded) mcpStatus(t *testing.T, token string) int {
	t.Helper()
	r, err := http.NewRequest("POST", e.options.Issuer+"/mcp", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	r.Header.Set("Mcp-Protocol-Version", "2025-06-18")
	r.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode
}

// Each setting of a known one-call library has a counterpart with the same effect.
func TestEverySettingOfAOneCallLibrary_Row94(t *testing.T) {
	t.Run("host and port: Listen", func(t *testing.T) {
		e := embed(t, slog.LevelInfo, nil) // embed fails unless the server answers at its address
		_, port, err := net.SplitHostPort(e.options.Listen)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := net.DialTimeout("tcp", "127.0.0.2:"+port, time.Second); err == nil {
			c.Close()
			t.Error("the server listens on another host, too")
		}
	})
	t.Run("db_path: Store", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "auth.db")
		embed(t, slog.LevelInfo, func(o *server.Options) { o.Store = path })
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	})
	t.Run("debug: the level of Log", func(t *testing.T) {
		for level, want := range map[slog.Level]bool{slog.LevelDebug: true, slog.LevelInfo: false} {
			e := embed(t, level, nil)
			e.document(t, "/readyz")
			if got := strings.Contains(e.log.String(), `"route":"/readyz"`); got != want {
				t.Errorf("requests are logged at level %s: %t", level, got)
			}
		}
	})
	t.Run("access_token_lifetime: Lives.Access", func(t *testing.T) {
		e := embed(t, slog.LevelInfo, func(o *server.Options) { o.Lives.Access = 720 * time.Hour })
		if _, tok := e.login(t, "read"); tok.ExpiresIn != 2592000 {
			t.Errorf("expires_in %d, want 2592000", tok.ExpiresIn)
		}
	})
	t.Run("refresh_token_lifetime: Lives.Refresh, Lives.Idle", func(t *testing.T) {
		for name, change := range map[string]func(*server.Options){
			"of the grant":  func(o *server.Options) { o.Lives.Refresh = time.Second },
			"without a use": func(o *server.Options) { o.Lives.Idle = time.Second },
		} {
			e := embed(t, slog.LevelInfo, change)
			client, tok := e.login(t, "read")
			time.Sleep(2 * time.Second)
			if again, status := client.Refresh(t, tok.RefreshToken); status != 400 || again.Error != "invalid_grant" {
				t.Errorf("%s, after its end: %d %+v", name, status, again)
			}
		}
	})
	t.Run("supported_scopes: Scopes", func(t *testing.T) {
		e := embed(t, slog.LevelInfo, func(o *server.Options) { o.Scopes = []string{"read", "write", "user"} })
		if _, tok := e.login(t, "write user root"); tok.Scope != "write user" {
			t.Errorf("scope %q, want the supported scopes", tok.Scope)
		}
	})
	t.Run("default_scopes: DefaultScopes", func(t *testing.T) {
		e := embed(t, slog.LevelInfo, func(o *server.Options) { o.DefaultScopes = []string{"write"} })
		if _, tok := e.login(t, ""); tok.Scope != "write" {
			t.Errorf("scope %q, want the default", tok.Scope)
		}
	})
	t.Run("required_scopes: RequiredScopes", func(t *testing.T) {
		e := embed(t, slog.LevelInfo, func(o *server.Options) { o.RequiredScopes = []string{"write"} })
		_, less := e.login(t, "read")
		_, enough := e.login(t, "write")
		if a, b := e.mcpStatus(t, less.AccessToken), e.mcpStatus(t, enough.AccessToken); a != 403 || b != 200 {
			t.Errorf("without the scope %d, want 403; with it %d, want 200", a, b)
		}
	})
	t.Run("server_url, issuer_url: Issuer; resource_server_url: Resources", func(t *testing.T) {
		e := embed(t, slog.LevelInfo, func(o *server.Options) {
			o.Issuer, o.Resources, o.Role = "https://as.example", []string{"https://as.example/tools-of-mine"}, "all"
		})
		m := e.document(t, "/.well-known/oauth-authorization-server")
		if m["issuer"] != "https://as.example" || m["token_endpoint"] != "https://as.example/token" {
			t.Errorf("issuer %v, token endpoint %v", m["issuer"], m["token_endpoint"])
		}
		m = e.document(t, "/.well-known/oauth-protected-resource/tools-of-mine")
		if servers, _ := m["authorization_servers"].([]any); m["resource"] != "https://as.example/tools-of-mine" || len(servers) != 1 || servers[0] != "https://as.example" {
			t.Errorf("resource %v of %v", m["resource"], servers)
		}
	})
}

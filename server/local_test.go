package server_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/internal/test/invoices"
	"signet/server"
)

// upstreamFile writes a configuration of entries.
func upstreamFile(t *testing.T, entries ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "upstreams.yaml")
	if err := os.WriteFile(file, []byte("upstreams:\n"+strings.Join(entries, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func accountOfAnn(t *testing.T, api *invoices.API) server.LocalOptions {
	t.Helper()
	return server.LocalOptions{Upstream: server.Upstream{Config: upstreamFile(t, api.Configuration("finance"))}, Username: "ann@example.com", Password: "ann-password"}
}

// local is a session with a server over a pair of pipes.
type local struct {
	*sdk.ClientSession
	t   *testing.T
	log *safeBuffer
}

func newLocal(t *testing.T, o server.LocalOptions) *local {
	t.Helper()
	l := &local{t: t, log: &safeBuffer{}}
	o.Log = slog.New(slog.NewTextHandler(l.log, nil))
	srv, err := server.NewLocal(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	srv.AddSamples()
	requests, stdin := io.Pipe()
	stdout, answers := io.Pipe()
	served := make(chan error, 1)
	go func() {
		served <- srv.Serve(t.Context(), requests, answers)
		answers.Close()
	}()
	l.ClientSession, err = sdk.NewClient(&sdk.Implementation{Name: "c", Version: "1"}, nil).Connect(t.Context(), &sdk.IOTransport{Reader: stdout, Writer: stdin}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		stdin.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		for _, secret := range []string{"ann-password", "refresh-ann"} {
			if strings.Contains(l.log.String(), secret) {
				t.Errorf("the log has %s: %s", secret, l.log)
			}
		}
	})
	return l
}

// call returns the text of a tool's result, and whether it is an error.
func (l *local) call(tool string) (text string, failed bool) {
	l.t.Helper()
	res, err := l.CallTool(l.t.Context(), &sdk.CallToolParams{Name: tool, Arguments: map[string]any{}})
	if err != nil {
		l.t.Fatal(err)
	}
	return res.Content[0].(*sdk.TextContent).Text, res.IsError
}

func (l *local) companies(want string) {
	l.t.Helper()
	if got, failed := l.call("upstream_get"); failed || !strings.Contains(got, want) {
		l.t.Errorf("upstream_get: %q, failed %v; want %s", got, failed, want)
	}
}

// A process with an account signs in once, and its tools have the token.
func TestLocalServerSignsInAtItsStart_Row41(t *testing.T) {
	api := invoices.New(t, invoices.Options{})
	l := newLocal(t, accountOfAnn(t, api))
	if n := api.Count("login"); n != 1 {
		t.Errorf("%d logins at the start, want 1", n)
	}
	l.companies("ann-gmbh")
	l.companies("ann-gmbh")
	var who struct {
		Sub, Upstream, Expires string
		UpstreamToken          bool `json:"upstream_token"`
	}
	text, _ := l.call("whoami")
	if err := json.Unmarshal([]byte(text), &who); err != nil || !strings.HasPrefix(who.Sub, "upstream:finance:") || who.Upstream != "finance" || !who.UpstreamToken || who.Expires != "" {
		t.Errorf("whoami: %s, %v", text, err)
	}
	if text, failed := l.call("admin_action"); failed {
		t.Errorf("admin_action: %s", text)
	}
	if n := api.Count("login") + api.Count("refresh"); n != 1 {
		t.Errorf("%d logins and refreshes, want the one login", n)
	}
}

// A token that has ended is refreshed; if the refresh is refused, there is one new login.
func TestLocalServerRenewsItsToken_Row41(t *testing.T) {
	api := invoices.New(t, invoices.Options{})
	l := newLocal(t, accountOfAnn(t, api))
	api.Invalidate("ann@example.com")
	l.companies("ann-gmbh")
	if logins, refreshes := api.Count("login"), api.Count("refresh"); logins != 1 || refreshes != 1 {
		t.Errorf("after a 401: %d logins and %d refreshes, want 1 and 1", logins, refreshes)
	}
	api.EndLogins("ann@example.com")
	l.companies("ann-gmbh")
	if logins, refreshes := api.Count("login"), api.Count("refresh"); logins != 2 || refreshes != 1 {
		t.Errorf("after the end of the login: %d logins and %d refreshes, want 2 and 1", logins, refreshes)
	}
	api.Switch(func(s *invoices.Switches) { s.Unavailable = true })
	if text, failed := l.call("upstream_get"); !failed || !strings.Contains(text, `"status_code":503`) {
		t.Errorf("while the upstream is down: %s", text)
	}
	api.Switch(func(s *invoices.Switches) { s.Unavailable = false })
	l.companies("ann-gmbh")
}

// A token is renewed before it is used once its time is over.
func TestLocalServerRenewsAnExpiredToken_Row41(t *testing.T) {
	api := invoices.New(t, invoices.Options{})
	api.Switch(func(s *invoices.Switches) { s.AccessLife = time.Second })
	l := newLocal(t, accountOfAnn(t, api))
	requests := api.Count("request")
	until(t, "a refresh", func() (any, bool) {
		l.companies("ann-gmbh")
		return api.Count("refresh"), api.Count("refresh") > 0
	})
	if api.Count("request") == requests || api.Count("login") != 1 {
		t.Errorf("%d requests and %d logins", api.Count("request")-requests, api.Count("login"))
	}
}

// An upstream that is down does not stop the start: the first tool signs in.
func TestLocalServerSignsInLater_Row41(t *testing.T) {
	api := invoices.New(t, invoices.Options{})
	o := accountOfAnn(t, api)
	api.Down()
	l := newLocal(t, o)
	if text, failed := l.call("upstream_get"); !failed || !strings.Contains(text, "could not be renewed just now") {
		t.Errorf("while it is down: %s", text)
	}
	if err := api.Up(); err != nil {
		t.Fatal(err)
	}
	l.companies("ann-gmbh")
}

func TestLocalServerWithoutAccountHasNoUpstream(t *testing.T) {
	api := invoices.New(t, invoices.Options{})
	o := accountOfAnn(t, api)
	o.Username, o.Password = "", ""
	l := newLocal(t, o)
	if text, failed := l.call("upstream_get"); !failed || !strings.Contains(text, "did not sign in by an upstream") {
		t.Errorf("upstream_get: %s", text)
	}
	if text, failed := l.call("whoami"); failed || !strings.Contains(text, `"sub":"local"`) {
		t.Errorf("whoami: %s", text)
	}
	if n := api.Count("login"); n != 0 {
		t.Errorf("%d logins", n)
	}
}

// A wrong setting stops the start, and the error names it.
func TestLocalServerRefusesAWrongAccount_Row41(t *testing.T) {
	api := invoices.New(t, invoices.Options{})
	const other = `  - {id: corp, type: oidc, issuer: "https://id.example", client_id: a, client_secret: "env:NOWHERE"}` + "\n"
	for name, tt := range map[string]struct {
		change func(*server.LocalOptions)
		want   string
	}{
		"password":                   {func(o *server.LocalOptions) { o.Password = "wrong-password" }, "SIGNET_UPSTREAM_PASSWORD: Invoices refuses"},
		"no password":                {func(o *server.LocalOptions) { o.Password = "" }, "SIGNET_UPSTREAM_PASSWORD: one is of no use"},
		"no name":                    {func(o *server.LocalOptions) { o.Username = "" }, "SIGNET_UPSTREAM_USERNAME, "},
		"no file":                    {func(o *server.LocalOptions) { o.Upstream.Config = "" }, "SIGNET_UPSTREAM_CONFIG: "},
		"no such file":               {func(o *server.LocalOptions) { o.Upstream.Config += "x" }, "SIGNET_UPSTREAM_CONFIG: "},
		"no upstream with passwords": {func(o *server.LocalOptions) { o.Upstream.Config = upstreamFile(t, other) }, "with an upstream of the type password"},
		"two": {func(o *server.LocalOptions) {
			o.Upstream.Config = upstreamFile(t, api.Configuration("one"), other, api.Configuration("two"))
		}, "at one or at two"},
	} {
		o := accountOfAnn(t, api)
		tt.change(&o)
		_, err := server.NewLocal(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "-password") {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
	o := accountOfAnn(t, api)
	o.Upstream.Config = upstreamFile(t, other, api.Configuration("finance"))
	if _, err := server.NewLocal(t.Context(), o); err != nil {
		t.Errorf("beside a provider whose secret is not there: %v", err)
	}
}

// The end of the context ends the server, as SIGTERM does.
func TestLocalServerEndsWithItsContext(t *testing.T) {
	srv, err := server.NewLocal(t.Context(), server.LocalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	in, stdin := io.Pipe()
	defer stdin.Close()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, in, io.Discard) }()
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// Requests in a file are answered although the input ends at once after them, also those for which
// the upstream is asked.
func TestLocalServerAnswersRequestsBeforeTheEnd_Row41(t *testing.T) {
	api := invoices.New(t, invoices.Options{})
	l, err := server.NewLocal(t.Context(), accountOfAnn(t, api))
	if err != nil {
		t.Fatal(err)
	}
	l.AddSamples()
	in := strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"x","version":"1"}}}
{"jsonrpc":"2.0","method":"notifications/initialized"}
{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"upstream_get","arguments":{}}}
{"jsonrpc":"2.0","id":"three","method":"tools/call","params":{"name":"none","arguments":{}}}
`)
	var out safeBuffer
	if err := l.Serve(t.Context(), in, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"id":1,"result"`, `"id":2,"result"`, "ann-gmbh", `"id":"three","error"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %s in %s", want, out.String())
		}
	}
}

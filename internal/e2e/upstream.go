package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"signet/internal/test/person"
	"signet/internal/test/upstreamtest"
)

// UpstreamFile writes a file of upstreams and returns the setting that names it. An entry is a
// mapping, or an item of a list on lines of its own.
func UpstreamFile(t testing.TB, entries ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "upstreams.yaml")
	text := "upstreams:\n"
	for _, entry := range entries {
		if !strings.HasPrefix(entry, "  - ") {
			entry = "  - " + entry + "\n"
		}
		text += entry
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return "SIGNET_UPSTREAM_CONFIG=" + path
}

// Corp is a server whose users sign in at an OpenID provider.
func Corp(t testing.TB, settings []string, more ...string) (*Program, *upstreamtest.Provider) {
	t.Helper()
	p := upstreamtest.New(t, upstreamtest.Options{Manner: upstreamtest.Strict})
	more = append([]string{"sample_path: api/whose"}, more...)
	d := New(t, append([]string{UpstreamFile(t, p.Configuration("corp", more...))}, settings...))
	p.Register(d.Issuer + "/oauth/callback")
	d.Start()
	return d, p
}

// SignInAt goes through consent, the provider and the callback, in a browser of its own, and
// returns the redirect to the client.
func SignInAt(t testing.TB, p *upstreamtest.Provider, authorize, name string) *url.URL {
	t.Helper()
	back, err := TryToSignInAt(t.Context(), person.New("", ""), p, authorize, name)
	if err != nil {
		t.Fatal(err)
	}
	if back.Left() == nil {
		t.Fatalf("the login ends at %s", back)
	}
	return back.Left()
}

// TryToSignInAt is SignInAt in a browser that may have cookies. It returns the last page.
func TryToSignInAt(ctx context.Context, browser *person.Person, p *upstreamtest.Provider, authorize, name string) (*person.Page, error) {
	page, err := browser.Authorize(authorize)
	if err != nil {
		return nil, err
	}
	if page.Left() == nil {
		return page, nil
	}
	callback, err := p.Authorize(ctx, page.Left().String(), name)
	if err != nil {
		return nil, err
	}
	return browser.Open(callback)
}

// LoginAt registers a client and returns it with the tokens of a user of the provider.
func LoginAt(t testing.TB, d *Program, p *upstreamtest.Provider, name string) (*Client, Tokens) {
	t.Helper()
	c := Register(t, d.Issuer, RedirectURI)
	return c, c.Exchange(t, SignInAt(t, p, c.AuthorizationURL("s"), name).Query().Get("code"))
}

// Tool calls a tool and returns the HTTP status, the text of the result and whether it is an error.
func Tool(t testing.TB, endpoint, token, name string) (status int, text string, isError bool) {
	t.Helper()
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%q,"arguments":{}}}`, name)
	r := CallRequest(endpoint, token)
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Error(err)
		return 0, "", false
	}
	defer resp.Body.Close()
	var answer struct {
		Result struct {
			Content []struct{ Text string }
			IsError bool
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err == nil && len(answer.Result.Content) > 0 {
		text = answer.Result.Content[0].Text
	}
	return resp.StatusCode, text, answer.Result.IsError
}

package server_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/jwt"
	"signet/mcp"
	"signet/server"
)

func ringAndKeys(t *testing.T) (*seal.Keyring, *seal.UpstreamKeys) {
	t.Helper()
	ring, err := seal.Parse(seal.NewSecret())
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.ParseUpstreamKeys(ring.UpstreamKeys())
	if err != nil {
		t.Fatal(err)
	}
	return ring, keys
}

func sealUpstream(t *testing.T, ring *seal.Keyring, u seal.Upstream) string {
	t.Helper()
	sealed, err := seal.Seal(ring, u)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

// callerOf returns claims of the grant g1 with a sealed upstream token.
func callerOf(sealed string) *jwt.Claims {
	return &jwt.Claims{Subject: "upstream:finance:1", GrantID: "g1", ExpiresAt: time.Now().Add(5 * time.Minute).Unix(), Upstream: sealed}
}

// A process opens the token in an access token, and only one that belongs to its grant.
func TestUpstreamClaimIsOpened(t *testing.T) {
	ring, keys := ringAndKeys(t)
	foreign, _ := ringAndKeys(t)
	good := seal.Upstream{GrantID: "g1", Provider: "finance", Version: 3, Access: "U-AT", Expires: 2_000_000_000}
	want := mcp.UpstreamToken{Provider: "finance", Version: 3, Access: "U-AT", Expires: time.Unix(2_000_000_000, 0)}
	for name, source := range map[string]mcp.UpstreamSource{
		"mcp": server.UpstreamOfIssuer("http://127.0.0.1:1", keys, slog.New(slog.DiscardHandler)),
		"all": server.UpstreamOfRing(ring, nil),
	} {
		if got, err := source.Open(callerOf(sealUpstream(t, ring, good))); err != nil || got != want {
			t.Errorf("%s: %#v, %v; want %#v", name, got, err, want)
		}
		other := good
		other.GrantID = "g2"
		for what, sealed := range map[string]string{
			"another grant": sealUpstream(t, ring, other), "another issuer": sealUpstream(t, foreign, good), "nothing": "", "text": "U-AT",
		} {
			// A process with a derived key asks the issuer, whose root secret may be newer.
			asks := name == "mcp" && what != "another grant"
			if got, err := source.Open(callerOf(sealed)); (err == nil) != asks || got.Access != "" {
				t.Errorf("%s: %s: %#v, %v", name, what, got, err)
			}
		}
	}
}

// Without the key, the error says what to set.
func TestReplicaWithoutUpstreamKeyNamesIt(t *testing.T) {
	ring, _ := ringAndKeys(t)
	source := server.UpstreamOfIssuer("http://127.0.0.1:1", nil, slog.New(slog.DiscardHandler))
	caller := callerOf(sealUpstream(t, ring, seal.Upstream{GrantID: "g1", Access: "U-AT"}))
	if _, err := source.Open(caller); err == nil || !strings.Contains(err.Error(), "SIGNET_UPSTREAM_KEY is not set") {
		t.Errorf("Open: %v", err)
	}
	if _, err := source.Renew(t.Context(), caller, "AT", 1); err == nil || !strings.Contains(err.Error(), "SIGNET_UPSTREAM_KEY is not set") {
		t.Errorf("Renew: %v", err)
	}
}

// The issuer gets the caller's access token and a proof for exactly this question.
func TestReplicaAsksItsIssuerForANewerToken(t *testing.T) {
	ring, keys := ringAndKeys(t)
	newer := sealUpstream(t, ring, seal.Upstream{GrantID: "g1", Provider: "finance", Version: 4, Access: "U-AT4"})
	url := issuerAt(t, func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		if r.Method != "POST" || r.URL.Path != "/upstream/token" || r.Header.Get("Authorization") != "Bearer AT" || r.PostForm.Get("stale") != "3" {
			t.Errorf("%s %s, %v, %q", r.Method, r.URL, r.PostForm, r.Header.Get("Authorization"))
		}
		if !ring.ProvesUpstream("stale=3\nAT", r.PostForm.Get("proof")) || ring.ProvesUpstream("stale=4\nAT", r.PostForm.Get("proof")) {
			t.Error("the proof is not one of this question")
		}
		fmt.Fprintf(w, `{"upstream":%q}`, newer)
	})
	got, err := server.UpstreamOfIssuer(url, keys, slog.New(slog.DiscardHandler)).Renew(t.Context(), callerOf(""), "AT", 3)
	if want := (mcp.UpstreamToken{Provider: "finance", Version: 4, Access: "U-AT4"}); err != nil || got != want {
		t.Errorf("got %#v, %v; want %#v", got, err, want)
	}
}

// A token that is too long for a claim comes from the issuer, in either kind of process.
func TestLargeUpstreamTokenComesFromTheIssuer(t *testing.T) {
	ring, keys := ringAndKeys(t)
	large := strings.Repeat("x", 32<<10)
	sealed := sealUpstream(t, ring, seal.Upstream{GrantID: "g1", Provider: "finance", Version: 4, Access: large})
	url := issuerAt(t, func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil || r.PostForm.Get("stale") != "0" {
			t.Errorf("asked with %v, %v", r.PostForm, err)
		}
		fmt.Fprintf(w, `{"upstream":%q}`, sealed)
	})
	claim := sealUpstream(t, ring, seal.Upstream{GrantID: "g1", Provider: "finance", Version: 4, Large: true})
	for name, source := range map[string]mcp.UpstreamSource{
		"mcp": server.UpstreamOfIssuer(url, keys, slog.New(slog.DiscardHandler)),
		"all": server.UpstreamOfRing(ring, func(context.Context, *jwt.Claims, int64) (string, error) { return sealed, nil }),
	} {
		if got, err := source.Open(callerOf(claim)); err != nil || got.Access != "" || got.Version != 4 {
			t.Errorf("%s: the claim: %#v, %v", name, got, err)
		}
		if got, err := source.Renew(t.Context(), callerOf(claim), "AT", 0); err != nil || got.Access != large {
			t.Errorf("%s: %d bytes, %v", name, len(got.Access), err)
		}
	}
}

// Only a verdict of the issuer ends a grant. Anything else is an error that ends nothing, and
// that the log has.
func TestOnlyAVerdictOfTheIssuerEndsAGrant_Row38(t *testing.T) {
	ring, keys := ringAndKeys(t)
	foreign := sealUpstream(t, ring, seal.Upstream{GrantID: "g2", Access: "U-AT"})
	var elsewhere atomic.Int64
	other := issuerAt(t, func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) })
	soon := func(c *jwt.Claims) { c.ExpiresAt = time.Now().Add(10 * time.Second).Unix() }
	for _, tt := range []struct {
		name   string
		status int
		body   string
		change func(*jwt.Claims)
		ended  bool
	}{
		{"refused for good", 400, `{"error":"invalid_grant"}`, nil, true},
		{"ended by another server", 401, `{"error":"invalid_token"}`, nil, true},
		{"maybe expired by the issuer's clock", 401, `{"error":"invalid_token"}`, soon, false},
		{"wrong proof", 403, `{"error":"access_denied"}`, nil, false},
		{"upstream down", 503, `{"error":"temporarily_unavailable"}`, nil, false},
		{"another error", 400, `{"error":"invalid_request"}`, nil, false},
		{"a proxy", 401, `<html>`, nil, false},
		{"another 401", 401, `{}`, nil, false},
		{"a page", 400, `invalid_grant`, nil, false},
		{"not found", 404, `{"error":"invalid_request"}`, nil, false},
		{"a redirect", 307, `{}`, nil, false},
		{"no token", 200, `{}`, nil, false},
		{"a token that does not open", 200, `{"upstream":"x"}`, nil, false},
		{"the token of another grant", 200, fmt.Sprintf(`{"upstream":%q}`, foreign), nil, false},
		{"too long", 200, `{"upstream":"` + strings.Repeat("x", 300<<10) + `"}`, nil, false},
	} {
		url := issuerAt(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", other)
			w.WriteHeader(tt.status)
			fmt.Fprint(w, tt.body)
		})
		log := &safeBuffer{}
		caller := callerOf("")
		if tt.change != nil {
			tt.change(caller)
		}
		got, err := server.UpstreamOfIssuer(url, keys, slog.New(slog.NewTextHandler(log, nil))).Renew(t.Context(), caller, "secret-AT", 3)
		if err == nil || errors.Is(err, mcp.ErrUpstreamEnded) != tt.ended || got.Access != "" {
			t.Errorf("%s: %#v, %v; want ended %v", tt.name, got, err, tt.ended)
		}
		if logged := strings.Contains(log.String(), "not renewed"); logged == tt.ended || strings.Contains(log.String(), "secret-AT") {
			t.Errorf("%s: log %q", tt.name, log)
		}
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("%d requests followed a redirect", n)
	}
}

// The authorization server in the same process answers as the endpoint does.
func TestServerAsksItself_Row38(t *testing.T) {
	ring, _ := ringAndKeys(t)
	var answer error
	source := server.UpstreamOfRing(ring, func(_ context.Context, claims *jwt.Claims, stale int64) (string, error) {
		return sealUpstream(t, ring, seal.Upstream{GrantID: claims.GrantID, Provider: "finance", Version: stale + 1, Access: "U-AT"}), answer
	})
	if got, err := source.Renew(t.Context(), callerOf(""), "AT", 3); err != nil || got.Version != 4 || got.Access != "U-AT" {
		t.Errorf("got %#v, %v", got, err)
	}
	for code, ended := range map[oauth.Code]bool{oauth.InvalidGrant: true, oauth.TemporarilyUnavailable: false, oauth.InvalidRequest: false} {
		answer = oauth.Errorf(code, "no")
		if _, err := source.Renew(t.Context(), callerOf(""), "AT", 3); err == nil || errors.Is(err, mcp.ErrUpstreamEnded) != ended {
			t.Errorf("%s: %v, want ended %v", code, err, ended)
		}
	}
}

// replicaWithUpstream is a server of role mcp that knows an upstream from the issuer's own file.
// It has no client secret.
func replicaWithUpstream(t *testing.T, is *issuer, api, key string) *server.Server {
	t.Helper()
	file := filepath.Join(t.TempDir(), "upstreams.yaml")
	text := `upstreams:
  - {id: corp, name: Corp, type: oidc, issuer: "https://id.example", client_id: "env:CORP_ID", client_secret: "env:CORP_SECRET", client_auth: client_secret_post}
  - {id: finance, name: Finance, type: oidc, issuer: "https://id2.example", client_id: a, client_secret: "file:/nonexistent/secret", base_url: "` + api + `/api", sample_path: /v1/companies/}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	srv := newServer(t, func(o *server.Options) {
		o.Role, o.Issuer, o.Check, o.Resources = "mcp", is.url, nil, []string{"https://mcp.example/a"}
		o.Upstream = server.Upstream{Config: file, Key: key, Environ: func(string) (string, bool) { return "", false }}
	})
	srv.AddSamples()
	return srv
}

// A replica knows the providers, opens the caller's token, and gets a newer one from its issuer.
func TestReplicaCallsTheUpstreamForItsCaller_Row39(t *testing.T) {
	ring, _ := ringAndKeys(t)
	is := newIssuer(t)
	sealed := func(version int64, access string) string {
		return sealUpstream(t, ring, seal.Upstream{GrantID: "g", Provider: "finance", Version: version, Access: access})
	}
	var asked atomic.Int64
	is.upstreamToken = func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		raw := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if err := r.ParseForm(); err != nil || !ring.ProvesUpstream("stale=1\n"+raw, r.PostForm.Get("proof")) {
			t.Errorf("asked with %v, %v", r.PostForm, err)
		}
		fmt.Fprintf(w, `{"upstream":%q}`, sealed(2, "U-AT2"))
	}
	api := issuerAt(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/companies/" || r.Header.Get("Authorization") != "Bearer U-AT2" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, "two companies")
	})
	srv := replicaWithUpstream(t, is, api, ring.UpstreamKeys())
	token := is.tokenWith(t, "https://mcp.example/a", "read", sealed(1, "U-AT1"))
	for range 3 {
		if got := post(srv, "https://mcp.example/tools/upstream_get", token, "{}"); got.Code != 200 || !strings.Contains(got.Body.String(), "two companies") {
			t.Errorf("%d %s", got.Code, got.Body)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the issuer was asked %d times, want 1", n)
	}
	keyless := replicaWithUpstream(t, is, api, "")
	if got := post(keyless, "https://mcp.example/tools/upstream_get", token, "{}"); !strings.Contains(got.Body.String(), "SIGNET_UPSTREAM_KEY is not set") || !strings.Contains(got.Body.String(), `"isError":true`) {
		t.Errorf("without the key: %d %s", got.Code, got.Body)
	}
}

// Without a file the tool is absent.
func TestUpstreamSampleNeedsASamplePath(t *testing.T) {
	is := newIssuer(t)
	srv := newServer(t, func(o *server.Options) {
		o.Role, o.Issuer, o.Check, o.Resources = "mcp", is.url, nil, []string{"https://mcp.example/a"}
	})
	srv.AddSamples()
	if got := post(srv, "https://mcp.example/tools/upstream_get", is.token(t, "https://mcp.example/a", "read"), "{}"); got.Code != 404 {
		t.Errorf("%d %s, want 404", got.Code, got.Body)
	}
	if got := post(srv, "https://mcp.example/tools/whoami", is.token(t, "https://mcp.example/a", "read"), "{}"); got.Code != 200 {
		t.Errorf("%d %s, want 200", got.Code, got.Body)
	}
}

package cluster_test

import (
	"net/http"
	"testing"
	"time"

	"signet/internal/test/cluster"
	"signet/internal/test/pgtest"
)

// signs are the statuses that users and clients get through nginx.
type signs struct {
	call    int // call of a tool, with a valid access token
	refresh int
	login   int // last page of a login: 303 back to the client
	keys    int
	help    int // metadata to which a client without a token is sent
}

// look sends each kind of request once.
func look(c *cluster.Cluster, h *http.Client, client registered, tok *tokens) (s signs) {
	get := func(path string) int {
		r, err := http.NewRequest(http.MethodGet, c.URL+path, nil)
		if err != nil {
			panic(err)
		}
		return do(h, r).status
	}
	s.call = call(h, c.URL, tok.Access, "whoami", struct{}{}).status
	r := postForm(h, c.URL+"/token", refreshForm(client, tok.Refresh))
	if s.refresh = r.status; r.status == 200 {
		*tok = r.tokens()
	}
	_, r = authorize(demoPerson(), h, c.URL, client, "read")
	s.login = r.status
	s.keys, s.help = get("/.well-known/jwks.json"), get("/.well-known/oauth-protected-resource/mcp")
	return s
}

// The table of docs/replicas.md: outages and their effects.
func TestClusterSurvivesOutages(t *testing.T) {
	t.Parallel()
	o, proxies := proxied(t, cluster.Options{})
	c, h := start(t, o), newHTTP()
	client, tok := login(t, c, h, demoPerson())
	each := func(f func(*cluster.Replica) error, list ...*cluster.Replica) {
		t.Helper()
		for _, r := range list {
			if err := f(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	kill := func(r *cluster.Replica) error { return r.Kill() }
	back := func(r *cluster.Replica) error { return r.Start(t.Context()) }
	fine := signs{call: 200, refresh: 200, login: 303, keys: 200, help: 200}
	for _, tt := range []struct {
		name       string
		away, back func()
		want       signs
	}{
		{"nothing", func() {}, func() {}, fine},
		{"one auth replica", func() { each(kill, c.Auth[0]) }, func() { each(back, c.Auth[0]) }, fine},
		{"all mcp replicas but one", func() { each(kill, c.MCP[1:]...) }, func() { each(back, c.MCP[1:]...) }, fine},
		{"all mcp replicas", func() { each(kill, c.MCP...) }, func() { each(back, c.MCP...) }, signs{502, 200, 303, 200, 502}},
		{"the database", func() { must(t, c.Postgres.Stop()) }, func() { must(t, c.Postgres.Start()) }, signs{200, 503, 503, 200, 200}},
		{"all auth replicas", func() { each(kill, c.Auth...) }, func() { each(back, c.Auth...) }, signs{200, 502, 502, 502, 200}},
		{"the connections of all auth replicas to the database", func() { cut(proxies, pgtest.Stall) }, func() { cut(proxies, pgtest.Pass) }, signs{200, 503, 503, 200, 200}},
	} {
		tt.away()
		if got := look(c, h, client, &tok); got != tt.want {
			t.Errorf("without %s: %+v, want %+v", tt.name, got, tt.want)
		}
		tt.back()
		took := eventually(t, "the cluster answers as before the outage of "+tt.name, func() bool { return look(c, h, client, &tok) == fine })
		t.Logf("after the outage of %s, all requests work again within %s", tt.name, took.Round(100*time.Millisecond))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func cut(proxies map[string]*pgtest.Proxy, how pgtest.Mode) {
	for _, p := range proxies {
		p.Set(how)
	}
}

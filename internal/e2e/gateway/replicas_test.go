package gateway

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"signet/internal/e2e"
	"signet/internal/test/backends"
	"signet/internal/test/upstreamtest"
)

// fleet is two issuers on one database, and three gateways that hold no secret but that of their
// client. The balancer leads to one issuer.
type fleet struct {
	*delegated
	balancer *e2e.Proxy
	issuers  []*e2e.Program
	gateways []*e2e.Program
}

func startFleet(t *testing.T) *fleet {
	t.Helper()
	p := upstreamtest.New(t, upstreamtest.Options{Manner: upstreamtest.Strict, ClientID: "client-of-tickets"})
	be := backends.New(t, backends.Options{Accept: func(token string) bool { return p.Owner(token) != "" && p.Live(token) }})
	own := backends.New(t, backends.Options{})
	config := fmt.Sprintf(`servers:
  - id: tickets
    type: http
    auth_strategy: delegate_oauth
    ask: error
    auth_config: {provider: custom, issuer: %q, client_id: client-of-tickets, client_secret: env:TICKETS_SECRET, scopes: [openid, offline_access]}
    config: {url: %s}
  - id: own
    type: http
    auth_strategy: master_oauth
    config: {url: %s}
`, p.Issuer(), be.Endpoint(), own.Endpoint())
	balancer := e2e.NewProxy(t)
	w := prepare(t, config, append(e2e.SharedStore(t), "SIGNET_ROLE=auth", "SIGNET_ISSUER="+balancer.URL, "TICKETS_SECRET="+p.ClientSecret())...)
	p.Register(balancer.URL + "/oauth/callback")
	w.Start()
	balancer.To(t, w.URL())
	w.Issuer = balancer.URL
	var added struct {
		ID     string `json:"client_id"`
		Secret string `json:"client_secret"`
	}
	w.TakesUp("clients", func() {
		if err := json.Unmarshal([]byte(w.Must("client", "add", "gw", "--exchange", "gateway", "--json")), &added); err != nil {
			t.Fatal(err)
		}
	})
	second := w.Beside("SIGNET_USERS_FILE="+filepath.Join(w.Dir, "users"), "SIGNET_CLIENTS_FILE="+filepath.Join(w.Dir, "clients.json"))
	second.Start()
	f := &fleet{delegated: &delegated{w, p, be}, balancer: balancer, issuers: []*e2e.Program{w.Program, second}}
	for range 3 {
		g := e2e.New(t, []string{
			"SIGNET_ISSUER=" + w.Issuer, "SIGNET_LISTEN=127.0.0.1:" + e2e.FreePort(t), "SIGNET_RESOURCES=" + w.Issuer + "/mcp", "SIGNET_GATEWAY_CONFIG=" + w.file,
			"SIGNET_GATEWAY_CLIENT_ID=" + added.ID, "SIGNET_GATEWAY_CLIENT_SECRET=" + added.Secret,
		}, "--role", "mcp")
		g.Start()
		f.gateways = append(f.gateways, g)
	}
	return f
}

// whoami calls the tool of a server at one gateway. It returns the text, and whether that is an
// error.
func (f *fleet) whoami(gateway int, token, server string) (text string, failed bool, err error) {
	r := e2e.CallRequest(f.gateways[gateway].URL()+"/mcp", token)
	body := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"` + server + `.whoami","arguments":{}}}`
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return "", false, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return "", false, fmt.Errorf("%s: %s, %v", resp.Status, b, err)
	}
	var a reply
	for _, message := range messages(resp.Header, string(b)) {
		var m struct{ Result json.RawMessage }
		if json.Unmarshal([]byte(message), &m) == nil && m.Result != nil {
			a.Result = m.Result
		}
	}
	text, failed = a.text()
	return text, failed, nil
}

// Three gateways get the users' credentials from two issuers. No user's call is made with the
// credential of another one, and no user has to do anything, whichever gateways and issuers die; a
// provider's token that has ended is refreshed once for all of them; and a gateway has no secret
// that would open the store.
func TestGatewaysWithoutSecretsActForTheirUsers_Row57_Row58_Row89(t *testing.T) {
	f := startFleet(t)
	users := map[string]string{"ann": "ann", "bob": "bob"}
	tokens := map[string]string{}
	for name := range users {
		tokens[name] = f.token(name)
		text, failed, err := f.whoami(0, tokens[name], "tickets")
		if link := anyLink.FindString(text); err != nil || !failed || link == "" {
			t.Fatalf("%s is not asked to connect: %q, %v", name, text, err)
		} else if page := f.connect(visitor(name), link); !strings.HasPrefix(page.Status, "200") {
			t.Fatalf("%s connects: %s", name, page)
		}
	}
	check := func(gateway int, name string) {
		t.Helper()
		if text, failed, err := f.whoami(gateway, tokens[name], "tickets"); err != nil || failed || f.p.Owner(text) != name {
			t.Errorf("gateway %d: the call of %s was made as %q: %.200s, %v", gateway, name, f.p.Owner(text), text, err)
		}
		text, failed, err := f.whoami(gateway, tokens[name], "own")
		if err != nil || failed || text == tokens[name] || claims(t, text)["sub"] != name {
			t.Errorf("gateway %d: the call of %s reached its own server with %.60s, %v", gateway, name, text, err)
		}
	}
	for killed, g := range f.gateways {
		var work sync.WaitGroup
		for round := range 4 {
			for gateway := range f.gateways {
				for name := range users {
					if gateway != killed || round == 0 {
						work.Go(func() { check(gateway, name) })
					}
				}
			}
			if round == 0 {
				work.Wait()
				g.Kill()
				f.issuers[killed%2].Kill()
				f.balancer.To(t, f.issuers[(killed+1)%2].URL())
			}
		}
		work.Wait()
		g.Start() // it has to ask the other issuer
		check(killed, "ann")
		f.issuers[killed%2].Start()
	}
	refreshes := f.p.Count("refresh")
	f.p.InvalidateUser("ann")
	var work sync.WaitGroup
	for i := range 12 {
		work.Go(func() { check(i%len(f.gateways), "ann") })
	}
	work.Wait()
	if n := f.p.Count("refresh") - refreshes; n != 1 {
		t.Errorf("the token of ann was refreshed %d times, want 1", n)
	}
	for _, g := range f.gateways {
		for _, secret := range []string{f.p.ClientSecret(), tokens["ann"], tokens["bob"]} {
			if g.Says(secret) > 0 {
				t.Error("the log of a gateway has a secret")
			}
		}
	}
	if u, err := url.Parse(f.Issuer); err != nil || f.be.Log() == "" || strings.Contains(f.be.Log(), tokens["ann"]) || u.Host == "" {
		t.Error("the server has seen the caller's token")
	}
}

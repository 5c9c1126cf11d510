package handlers_test

import (
	"net/url"
	"strings"
	"testing"

	"signet/internal/clients"
	"signet/internal/denylist"
	"signet/internal/seal"
	"signet/internal/test/authtest"
)

// A resource server learns about every token for its resource, whatever client has it, and
// about no other token.
func TestResourceServerIntrospectsTheTokensForItsResource_G05(t *testing.T) {
	s := authtest.New(t, several)
	api := s.Configure(t, clients.Spec{ID: "api", Resource: authtest.ResourceA})
	mine := map[string]authtest.Tokens{}
	for _, c := range []authtest.Client{s.PUB, s.CONF, s.NAT} {
		mine[c.ID] = s.Tokens(t, "alice", c)
	}
	for id, tok := range mine {
		r := s.Introspect(t, api, tok.Access)
		if got := r.JSON(t); got["active"] != true || got["client_id"] != id || got["sub"] != "alice" || got["scope"] != "mcp:read" || got["aud"] != authtest.ResourceA || r.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s, Cache-Control %s", r.Body, r.Header.Get("Cache-Control"))
		}
	}
	inactiveFor := func(what string, c authtest.Client, token string) {
		t.Helper()
		if r := s.Introspect(t, c, token); r.StatusCode != 200 || strings.TrimSpace(r.Body) != inactive {
			t.Errorf("%s: %d %s", what, r.StatusCode, r.Body)
		}
	}
	other := s.Tokens(t, "alice", s.PUB, set("resource", authtest.ResourceB))
	inactiveFor("a token for another resource", api, other.Access)
	inactiveFor("a refresh handle", api, mine[s.PUB.ID].Refresh)
	inactiveFor("junk", api, "junk")
	s.Revoke(t, api, mine[s.PUB.ID].Access)
	if s.Introspect(t, api, mine[s.PUB.ID].Access).JSON(t)["active"] != true {
		t.Error("a resource server has revoked a client's grant")
	}
	s.Revoke(t, s.PUB, mine[s.PUB.ID].Refresh)
	inactiveFor("a revoked token", api, mine[s.PUB.ID].Access)
	if err := s.Denylist.Block(t.Context(), denylist.BlockedClient{Hash: seal.ClientHash(s.NAT.ID), ID: s.NAT.ID, At: s.Store.Now()}); err != nil {
		t.Fatal(err)
	}
	inactiveFor("a token of a client that is blocked", api, mine[s.NAT.ID].Access)
	s.Users.Change("alice", func(*authtest.Account) bool { return false })
	inactiveFor("a token of a user who is gone", api, mine[s.CONF.ID].Access)

	wantError(t, s.PostForm(t, "/introspect", authtest.Client{ID: api.ID, Secret: "wrong"}, url.Values{"token": {"x"}}), 401, "invalid_client")
	wantPage(t, s.NewBrowser().Get(t, s.AuthorizeURL(authtest.Client{ID: api.ID, RedirectURI: "https://api.test/cb"})), 400)
	wantPage(t, s.NewBrowser().Get(t, s.AuthorizeURL(api)), 400)
	wantError(t, s.PostForm(t, "/token", api, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {mine[s.CONF.ID].Refresh}}), 400, "unauthorized_client")
}

package handlers_test

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"signet/internal/seal"
	"signet/internal/test/authtest"
)

// Row 14, D01: the form of the answer.
func TestTokenResponseIsComplete_D01(t *testing.T) {
	s := authtest.New(t)
	r := s.Redeem(t, s.PUB, s.Code(t, "alice", s.PUB))
	tok := r.Tokens(t)
	if r.Header.Get("Cache-Control") != "no-store" || r.Header.Get("Content-Type") != "application/json" {
		t.Errorf("headers %v", r.Header)
	}
	if tok.Type != "Bearer" || tok.ExpiresIn != 300 || tok.Refresh == "" || tok.Scope != "mcp:read" {
		t.Errorf("got %s", r.Body)
	}
	claims, err := s.Verifier.Verify(t.Context(), tok.Access)
	if err != nil {
		t.Fatal(err)
	}
	if claims.Issuer != authtest.Issuer || claims.Subject != "alice" || claims.Audience != authtest.ResourceA || claims.ClientID != s.PUB.ID || claims.Scope != "mcp:read" || claims.GrantID == "" || claims.AuthTime == 0 {
		t.Errorf("claims %+v", claims)
	}
	// Errors look alike on every endpoint for programs, and stay in their charset.
	for _, path := range []string{"/token", "/register", "/revoke", "/introspect", "/oauth/token", "/oauth/introspect"} {
		for _, body := range []string{"", "grant_type=é\"\\%00", "client_id=<script>&token=x", "%zz", "grant_type=%22%5C%C3%A9"} {
			r := s.Post(t, path, formType, body)
			if r.StatusCode < 400 || r.Error() == "" {
				t.Errorf("%s %q: %d %s", path, body, r.StatusCode, r.Body)
			}
			description, _ := r.JSON(t)["error_description"].(string)
			for _, c := range []byte(description) {
				if c < 0x20 || c > 0x7e || c == '"' || c == '\\' {
					t.Errorf("%s: description %q", path, description)
				}
			}
		}
	}
}

// D02, row 13: a code is used once. The second time ends the grant.
func TestCodeUsedTwiceEndsTheGrant_D02(t *testing.T) {
	for _, wait := range []time.Duration{0, 30 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			s := authtest.New(t)
			code := s.Code(t, "alice", s.PUB)
			tok := s.Redeem(t, s.PUB, code).Tokens(t)
			time.Sleep(wait)
			wantError(t, s.Redeem(t, s.PUB, code), 400, "invalid_grant")
			wantDead(t, s, s.PUB, tok)
			wantError(t, s.Redeem(t, s.PUB, code), 400, "invalid_grant")
			if n := len(s.Log.Audit(t, "code_reuse")); n != 1 {
				t.Errorf("%d audit events, want 1", n)
			}
			s.Restart(t)
			wantDead(t, s, s.PUB, tok)
		})
	}
}

// goodCode runs a table of changes to one good token request. None of them may
// succeed, and none may burn the code (decision D8).
func goodCode(t *testing.T, s *authtest.Server, c authtest.Client, cases []tokenCase) {
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			code := s.Code(t, "alice", c)
			form := s.CodeForm(c, code, tc.edits...)
			r := s.PostForm(t, "/token", tc.as(c), form)
			wantError(t, r, tc.status, tc.code)
			tok := s.Redeem(t, c, code).Tokens(t) // as first use
			// The same request as a replay does not harm the grant either (row D03).
			s.PostForm(t, "/token", tc.as(c), form)
			s.Refresh(t, c, tok.Refresh).Tokens(t)
		})
	}
}

type tokenCase struct {
	name   string
	client *authtest.Client // who sends it; nil is its owner
	status int
	code   string
	edits  []edit
}

func (tc tokenCase) as(owner authtest.Client) authtest.Client {
	if tc.client != nil {
		return *tc.client
	}
	return owner
}

// D03, D06, D07, D08 and row 11: a request that does not fit the code is refused and
// changes nothing.
func TestCodeIsBoundToItsRequest_D03_D06_D07_D08(t *testing.T) {
	s := authtest.New(t, several)
	wrong := strings.Repeat("w", 43)
	goodCode(t, s, s.PUB, []tokenCase{
		{"D06 wrong verifier", nil, 400, "invalid_grant", []edit{set("code_verifier", wrong)}},
		{"D06 no verifier", nil, 400, "invalid_request", []edit{del("code_verifier")}},
		{"D06 empty verifier", nil, 400, "invalid_request", []edit{set("code_verifier", "")}},
		{"D06 short", nil, 400, "invalid_request", []edit{set("code_verifier", wrong[1:])}},
		{"D06 long", nil, 400, "invalid_request", []edit{set("code_verifier", strings.Repeat("w", 129))}},
		{"D06 alphabet", nil, 400, "invalid_request", []edit{set("code_verifier", wrong+"+")}},
		{"D06 the challenge", nil, 400, "invalid_grant", []edit{set("code_verifier", authtest.Challenge(authtest.Verifier))}},
		{"D07 another public client", &s.PUB2, 400, "invalid_grant", nil},
		{"D07 another confidential client", &s.CONF, 400, "invalid_grant", nil},
		{"D07 unknown client", &authtest.Client{ID: "nope"}, 401, "invalid_client", nil},
		{"D07 nobody", &authtest.Client{}, 401, "invalid_client", nil},
		{"D08 other redirect URI", nil, 400, "invalid_grant", []edit{set("redirect_uri", "https://app.test/cb/")}},
		{"other resource", nil, 400, "invalid_target", []edit{set("resource", authtest.ResourceB)}},
		{"unknown resource", nil, 400, "invalid_target", []edit{set("resource", "https://x.test/")}},
		{"two resources", nil, 400, "invalid_target", []edit{set("resource", authtest.ResourceA), add("resource", authtest.ResourceB)}},
		{"two codes", nil, 400, "invalid_request", []edit{add("code", "x")}},
		{"two verifiers", nil, 400, "invalid_request", []edit{add("code_verifier", wrong)}},
		{"forged code", nil, 400, "invalid_grant", []edit{func(v url.Values) { v.Set("code", v.Get("code")[:60]+"A"+v.Get("code")[61:]+"x") }}},
		{"no code", nil, 400, "invalid_request", []edit{del("code")}},
	})
	for _, e := range []edit{del("redirect_uri"), set("redirect_uri", ""), set("resource", authtest.ResourceA), set("resource", "HTTPS://MCP.TEST/a"), set("scope", "admin"), set("unknown", "x")} {
		if tok := s.Redeem(t, s.PUB, s.Code(t, "alice", s.PUB), e).Tokens(t); tok.Scope != "mcp:read" {
			t.Errorf("scope %s", tok.Scope)
		}
	}
	noSecret := authtest.Client{ID: s.CONF.ID, RedirectURI: s.CONF.RedirectURI}
	goodCode(t, s, s.CONF, []tokenCase{
		{"D07 without its secret", &noSecret, 401, "invalid_client", nil},
		{"D07 with a wrong secret", &authtest.Client{ID: s.CONF.ID, Secret: "wrong"}, 401, "invalid_client", nil},
	})
	// The loopback port in the request counts.
	port := set("redirect_uri", "http://127.0.0.1:50001/cb")
	wantError(t, s.Redeem(t, s.NAT, s.Code(t, "alice", s.NAT, port)), 400, "invalid_grant")
	s.Redeem(t, s.NAT, s.Code(t, "alice", s.NAT, port), port).Tokens(t)
}

// Row 13: a code lives as long as configured. One that expired unused is no reuse.
func TestCodeLivesItsTime_Row13(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := authtest.New(t)
		code, late := s.Code(t, "alice", s.PUB), s.Code(t, "alice", s.PUB)
		time.Sleep(59 * time.Second)
		tok := s.Redeem(t, s.PUB, code).Tokens(t)
		time.Sleep(2 * time.Second)
		for range 2 {
			r := s.Redeem(t, s.PUB, late)
			if wantError(t, r, 400, "invalid_grant"); !strings.Contains(r.Body, "expired") {
				t.Errorf("an unused code: %s", r.Body)
			}
		}
		s.Refresh(t, s.PUB, tok.Refresh).Tokens(t)
		if n := len(s.Log.Audit(t, "code_reuse")); n != 0 {
			t.Errorf("%d audit events, want none", n)
		}
	})
}

// D02: the second use of a code ends the grant also once the code has expired, if the client and
// the verifier are right.
func TestExpiredCodeUsedTwiceEndsTheGrant_D02(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := authtest.New(t)
		code := s.Code(t, "alice", s.PUB)
		tok := s.Redeem(t, s.PUB, code).Tokens(t)
		time.Sleep(2 * time.Minute)
		wantError(t, s.Redeem(t, s.PUB2, code), 400, "invalid_grant")
		wantError(t, s.Redeem(t, s.PUB, code, set("code_verifier", strings.Repeat("x", 43))), 400, "invalid_grant")
		wantError(t, s.Redeem(t, s.PUB, code, set("redirect_uri", "https://other.test/cb")), 400, "invalid_grant")
		tok = s.Refresh(t, s.PUB, tok.Refresh).Tokens(t)
		for range 2 {
			wantError(t, s.Redeem(t, s.PUB, code), 400, "invalid_grant")
		}
		wantDead(t, s, s.PUB, tok)
		if n := len(s.Log.Audit(t, "code_reuse")); n != 1 {
			t.Errorf("%d audit events, want 1", n)
		}
	})
}

// D05: of many concurrent uses one is answered, and its grant has ended afterwards.
func TestConcurrentRedemptionSucceedsOnce_D05(t *testing.T) {
	s := authtest.New(t)
	code := s.Code(t, "alice", s.PUB)
	results := parallel(50, func() *authtest.Response { return s.Redeem(t, s.PUB, code) })
	var won []authtest.Tokens
	for _, r := range results {
		if r.StatusCode == http.StatusOK {
			won = append(won, r.Tokens(t))
			continue
		}
		wantError(t, r, 400, "invalid_grant")
	}
	if len(won) != 1 {
		t.Fatalf("%d redemptions, want 1", len(won))
	}
	wantDead(t, s, s.PUB, won...)
}

func parallel[T any](n int, f func() T) []T {
	results := make([]T, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { results[i] = f() })
	}
	group.Wait()
	return results
}

// D10: an artefact in the place of another, or with any byte changed, is refused.
func TestNoArtefactPassesForAnother_D10(t *testing.T) {
	s := authtest.New(t)
	b := s.NewBrowser()
	page := b.SignIn(t, "alice", s.PUB)
	_, fields := page.Form(t)
	code := b.Code(t, "alice", s.NAT)
	tok := s.Tokens(t, "alice", s.PUB)
	var session string
	for _, c := range b.Cookies {
		if strings.Contains(c.Name, "session") {
			session = c.Value
		}
	}
	artefacts := map[string]string{"code": code, "refresh handle": tok.Refresh, "access token": tok.Access, "client id": s.PUB.ID, "session": session, "transaction": fields.Get("state"), "junk": "junk", "dots": "..."}
	slots := map[string]func(string) (*authtest.Response, bool){
		"code": func(v string) (*authtest.Response, bool) {
			r := s.PostForm(t, "/token", s.NAT, s.CodeForm(s.NAT, v))
			return r, r.Error() == "invalid_grant"
		},
		"refresh handle": func(v string) (*authtest.Response, bool) { // row E15 too
			r := s.Refresh(t, s.PUB, v)
			return r, r.Error() == "invalid_grant"
		},
		"access token": func(v string) (*authtest.Response, bool) {
			_, err := s.Verifier.Verify(t.Context(), v)
			return &authtest.Response{}, err != nil
		},
		"client id": func(v string) (*authtest.Response, bool) {
			r := s.NewBrowser().Get(t, s.AuthorizeURL(s.PUB, set("client_id", v)))
			return r, r.StatusCode == 400
		},
		"session": func(v string) (*authtest.Response, bool) {
			other := s.NewBrowser()
			for name, c := range b.Cookies {
				if strings.Contains(name, "session") {
					c = &http.Cookie{Name: name, Value: v}
				}
				other.Cookies[name] = c
			}
			r := other.Get(t, s.AuthorizeURL(s.LOC))
			return r, strings.Contains(r.Body, `name="password"`)
		},
		"transaction": func(v string) (*authtest.Response, bool) {
			r := b.Post(t, "/consent", url.Values{"state": {v}, "decision": {"approve"}})
			return r, r.StatusCode == 400
		},
	}
	for slot, try := range slots {
		for kind, v := range artefacts {
			if kind == slot {
				continue
			}
			if r, refused := try(v); !refused {
				t.Errorf("%s as %s: %v %s", kind, slot, r.Response, r.Body)
			}
		}
		good := artefacts[slot]
		for name, v := range mutations(good) {
			if slot == "session" && strings.ContainsAny(v, "\n =") {
				continue // no cookie has such a value
			}
			if r, refused := try(v); !refused {
				t.Errorf("%s %s is taken: %s", slot, name, text(r))
			}
		}
	}
	// All of them are still good.
	if tok := s.Redeem(t, s.NAT, code).Tokens(t); tok.Access == "" {
		t.Error("no token")
	}
	s.Refresh(t, s.PUB, tok.Refresh).Tokens(t)
}

// mutations are spellings that must not be taken for good. Package seal and jwt
// test every byte; here a few of each kind have to pass through the endpoints.
func mutations(good string) map[string]string {
	m := map[string]string{
		"extended": good + "A", "padded": good + "=", "cut": good[:len(good)-1], "halved": good[:len(good)/2], "with a space": good + " ", "with a line break": good[:10] + "\n" + good[10:],
	}
	for _, i := range []int{0, 1, 5, 30, len(good) / 2, len(good) - 2} {
		b := []byte(good)
		if b[i]++; b[i] == good[i] || !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", rune(b[i])) {
			b[i] = 'A'
		}
		if string(b) != good {
			m["with another byte "+string(rune('0'+i%10))] = string(b)
		}
	}
	if swapped := strings.NewReplacer("-", "+", "_", "/").Replace(good); swapped != good {
		m["in another alphabet"] = swapped
	}
	return m
}

// D06: no code is issued without a challenge; if an older build sealed one, it is
// refused.
func TestCodeWithoutChallengeIsRefused_D06(t *testing.T) {
	s := authtest.New(t)
	now := time.Now()
	raw, err := seal.Seal(s.Ring, seal.Code{RedirectURI: s.PUB.RedirectURI, Expires: now.Add(time.Minute).Unix(), Grant: seal.Grant{
		ID: seal.NewID(now.Add(time.Hour)), Epoch: s.Store.Epoch(), Subject: "alice", UserVersion: "1", ClientHash: seal.ClientHash(s.PUB.ID), Scope: []string{"mcp:read"}, Resource: authtest.ResourceA, Expires: now.Add(time.Hour).Unix(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []edit{set("code_verifier", ""), del("code_verifier"), set()} {
		if r := s.Redeem(t, s.PUB, raw, e); r.StatusCode != 400 {
			t.Errorf("%d %s", r.StatusCode, r.Body)
		}
	}
}

// D11, row 8: how clients authenticate, seen from the token endpoint.
func TestClientMustAuthenticateAsItIsRegistered_D11(t *testing.T) {
	s := authtest.New(t)
	send := func(c authtest.Client, header string, edits ...edit) *authtest.Response {
		t.Helper()
		form := s.CodeForm(c, s.Code(t, "alice", c), edits...)
		r := request("POST", authtest.Issuer+"/token", form.Encode(), "Content-Type", formType)
		if header != "" {
			r.Header.Set("Authorization", header)
		}
		return s.Do(t, r)
	}
	basic := func(id, secret string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
	}
	send(s.CONF, basic(s.CONF.ID, s.CONF.Secret)).Tokens(t)
	send(s.CONF, basic(url.QueryEscape(s.CONF.ID), url.QueryEscape(s.CONF.Secret))).Tokens(t)
	send(s.PUB, basic(s.PUB.ID, "")).Tokens(t)
	send(s.PUB, "", set("client_id", s.PUB.ID)).Tokens(t)
	cases := []struct {
		name   string
		c      authtest.Client
		header string
		status int
		code   string
		edits  []edit
	}{
		{"wrong secret", s.CONF, basic(s.CONF.ID, "wrong"), 401, "invalid_client", nil},
		{"empty secret", s.CONF, basic(s.CONF.ID, ""), 401, "invalid_client", nil},
		{"no secret", s.CONF, "", 401, "invalid_client", []edit{set("client_id", s.CONF.ID)}},
		{"bad base64", s.CONF, "Basic %%%", 401, "invalid_client", nil},
		{"no colon", s.CONF, "Basic " + base64.StdEncoding.EncodeToString([]byte("conf")), 401, "invalid_client", nil},
		{"both", s.CONF, basic(s.CONF.ID, s.CONF.Secret), 400, "invalid_request", []edit{set("client_secret", s.CONF.Secret)}},
		{"a public client with a secret", s.PUB, "", 401, "invalid_client", []edit{set("client_id", s.PUB.ID, "client_secret", "x")}},
		{"nobody", s.PUB, "", 401, "invalid_client", nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := send(c.c, c.header, c.edits...)
			wantError(t, r, c.status, c.code)
			if got := strings.HasPrefix(r.Header.Get("WWW-Authenticate"), "Basic "); got != (c.status == 401 && c.header != "") {
				t.Errorf("WWW-Authenticate %q", r.Header.Get("WWW-Authenticate"))
			}
		})
	}
}

// D13: grant types that must not exist are refused.
func TestOtherGrantTypesAreRefused_D13(t *testing.T) {
	s := authtest.New(t)
	for _, c := range []authtest.Client{s.PUB, s.CONF} {
		for _, grant := range []string{"password", "implicit", "urn:ietf:params:oauth:grant-type:device_code", "urn:ietf:params:oauth:grant-type:token-exchange", "urn:ietf:params:oauth:grant-type:jwt-bearer", "AUTHORIZATION_CODE", "authorization_code "} {
			wantError(t, s.PostForm(t, "/token", c, url.Values{"grant_type": {grant}, "username": {"alice"}, "password": {"correct horse alice"}}), 400, "unsupported_grant_type")
		}
		wantError(t, s.PostForm(t, "/token", c, url.Values{}), 400, "invalid_request")
	}
}

// K01: bodies have a bound, and are forms.
func TestBodiesThatAreNoFormAreRefused_K01(t *testing.T) {
	s := authtest.New(t)
	big := "grant_type=refresh_token&x=" + strings.Repeat("x", 64<<10)
	for _, path := range []string{"/token", "/revoke", "/introspect"} {
		for _, length := range []int64{int64(len(big)), -1} {
			r := request("POST", authtest.Issuer+path, big, "Content-Type", formType)
			r.ContentLength = length
			wantError(t, s.Do(t, r), 413, "invalid_request")
		}
		wantError(t, s.Post(t, path, formType, strings.Repeat("a&", 10_001)), 400, "invalid_request")
		wantError(t, s.Post(t, path, "application/json", "{}"), 415, "invalid_request")
		wantError(t, s.Post(t, path, "", "token=x"), 415, "invalid_request")
	}
	// The query does not speak for the body.
	code := s.Code(t, "alice", s.PUB)
	form := s.CodeForm(s.PUB, code, set("client_id", s.PUB.ID))
	wantError(t, s.Post(t, "/token?"+form.Encode(), formType, "grant_type=authorization_code&client_id="+s.PUB.ID), 400, "invalid_request")
	s.Redeem(t, s.PUB, code).Tokens(t)
}

// Without the store there is no verdict, and afterwards everything is as it was.
func TestTokenRequestWithoutStoreIsUnavailable(t *testing.T) {
	s := authtest.New(t)
	tok := s.Tokens(t, "alice", s.PUB)
	code := s.Code(t, "alice", s.PUB)
	s.StopStore(t)
	wantError(t, s.Redeem(t, s.PUB, code), 503, "temporarily_unavailable")
	wantError(t, s.Refresh(t, s.PUB, tok.Refresh), 503, "temporarily_unavailable")
	wantError(t, s.Revoke(t, s.PUB, tok.Refresh), 503, "temporarily_unavailable")
	wantError(t, s.Revoke(t, s.PUB, tok.Access), 503, "temporarily_unavailable")
	wantError(t, s.Introspect(t, s.PUB, tok.Access), 503, "temporarily_unavailable")
	wantError(t, s.Introspect(t, s.PUB, tok.Refresh), 503, "temporarily_unavailable")
	for _, path := range []string{"/.well-known/jwks.json", "/.well-known/oauth-authorization-server"} {
		if r := s.Get(t, path); r.StatusCode != 200 {
			t.Errorf("%s: %d", path, r.StatusCode)
		}
	}
	// A request that is wrong in itself still gets a verdict.
	wantError(t, s.Refresh(t, s.PUB, "junk"), 400, "invalid_grant")
	s.Reopen(t)
	s.Redeem(t, s.PUB, code).Tokens(t)
	s.Refresh(t, s.PUB, tok.Refresh).Tokens(t)
}

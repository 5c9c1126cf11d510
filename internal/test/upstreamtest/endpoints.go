package upstreamtest

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

func (p *Provider) algorithm() jose.SignatureAlgorithm {
	if p.o.RSA {
		return jose.RS256
	}
	return jose.ES256
}

func (p *Provider) discovery(w http.ResponseWriter, _ *http.Request) {
	p.count("discovery")
	p.mu.Lock()
	gone, change := p.s.NoDiscovery, p.s.Metadata
	p.mu.Unlock()
	if gone {
		http.Error(w, "<h1>Service Unavailable</h1>", http.StatusServiceUnavailable)
		return
	}
	base := strings.TrimSuffix(p.Issuer(), "/")
	m := map[string]any{
		"issuer": p.Issuer(), "authorization_endpoint": base + "/authorize", "token_endpoint": base + "/token", "userinfo_endpoint": base + "/userinfo", "jwks_uri": base + "/jwks",
		"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{string(p.algorithm())},
		"token_endpoint_auth_methods_supported": p.methods(), "code_challenge_methods_supported": []string{"S256"},
	}
	if !p.o.Manner.NoRevocation {
		m["revocation_endpoint"] = base + "/revoke"
	}
	if p.o.Manner.SendsIssuer {
		m["authorization_response_iss_parameter_supported"] = true
	}
	if !p.o.Manner.NoLogout {
		m["backchannel_logout_supported"], m["backchannel_logout_session_supported"] = true, true
	}
	if p.o.Registers {
		m["registration_endpoint"] = base + "/register"
	}
	if p.o.Documents {
		m["client_id_metadata_document_supported"] = true
	}
	if change != nil {
		change(m)
	}
	writeJSON(w, http.StatusOK, m)
}

func (p *Provider) methods() []string {
	switch {
	case p.o.Public:
		return []string{"none"}
	case p.o.Manner.PostOnly:
		return []string{"client_secret_post"}
	case p.o.Manner.HeaderOnly:
		return []string{"client_secret_basic"}
	}
	return []string{"client_secret_basic", "client_secret_post"}
}

func (p *Provider) keys(w http.ResponseWriter, _ *http.Request) {
	p.count("keys")
	p.mu.Lock()
	gone := p.s.KeysGone
	p.mu.Unlock()
	if gone {
		writeJSON(w, http.StatusServiceUnavailable, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}})
		return
	}
	writeJSON(w, http.StatusOK, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: p.key.Public(), KeyID: "1", Algorithm: string(p.algorithm()), Use: "sig"}}})
}

func (p *Provider) count(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts[what]++
}

// authorize shows the login page, or sends the browser back at once if the user is signed in.
func (p *Provider) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if why := p.checkClient(q); why != "" {
		http.Error(w, why, http.StatusBadRequest) // never redirected
		return
	}
	p.mu.Lock()
	s := p.s
	p.mu.Unlock()
	if code := p.checkRequest(q); code != "" {
		p.respond(w, r, q, url.Values{"error": {code}})
		return
	}
	user := s.SignedIn
	if r.Method == http.MethodPost {
		user = p.checkPassword(r)
	}
	switch {
	case s.Deny:
		p.respond(w, r, q, url.Values{"error": {"access_denied"}, "error_description": {"the user said <no>"}})
	case user == "":
		loginPage(w, r)
	default:
		p.respond(w, r, q, url.Values{"code": {p.newCode(q, user)}})
	}
}

func (p *Provider) checkClient(q url.Values) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.client(q.Get("client_id"))
	if !ok {
		return "no such client"
	}
	if !slices.Contains(c.RedirectURIs, q.Get("redirect_uri")) {
		return "redirect_uri is not registered"
	}
	return ""
}

// checkRequest returns the error code of a request that is refused.
func (p *Provider) checkRequest(q url.Values) string {
	for name, values := range q {
		if len(values) != 1 || slices.Contains(p.o.Manner.Refused, name) {
			return "invalid_request"
		}
	}
	challenge, err := base64.RawURLEncoding.DecodeString(q.Get("code_challenge"))
	switch {
	case q.Get("response_type") != "code":
		return "unsupported_response_type"
	case q.Get("code_challenge_method") != "S256" || err != nil || len(challenge) != sha256.Size:
		return "invalid_request"
	case q.Get("state") == "":
		return "invalid_request"
	case p.wrongResource(q):
		return "invalid_target"
	}
	scope := strings.Fields(q.Get("scope"))
	if !p.o.Manner.GitHub && !slices.Contains(scope, "openid") {
		return "invalid_scope"
	}
	for _, s := range scope {
		if p.o.Manner.Scopes != nil && !slices.Contains(p.o.Manner.Scopes, s) {
			return "invalid_scope"
		}
	}
	return ""
}

func (p *Provider) checkPassword(r *http.Request) string {
	if r.ParseForm() != nil {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	name := r.PostForm.Get("username")
	user, ok := p.users[name]
	if !ok || user.Password != r.PostForm.Get("password") {
		return ""
	}
	return name
}

func loginPage(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	fmt.Fprintf(w, `<!doctype html><html lang="en"><title>Provider</title><h1>Sign in at the provider</h1>
<form method="post" action="%s"><label>Name <input name="username" autofocus></label> <label>Password <input name="password" type="password"></label> <button>Sign in</button></form></html>`,
		html.EscapeString(r.URL.RequestURI()))
}

// respond sends the browser back to the client.
func (p *Provider) respond(w http.ResponseWriter, r *http.Request, q, answer url.Values) {
	p.mu.Lock()
	s := p.s
	p.mu.Unlock()
	answer.Set("state", q.Get("state"))
	if p.o.Manner.SendsIssuer && !s.NoIssuer {
		answer.Set("iss", p.Issuer())
	}
	if s.OtherIssuer != "" {
		answer.Set("iss", s.OtherIssuer)
	}
	http.Redirect(w, r, q.Get("redirect_uri")+"?"+answer.Encode(), http.StatusFound)
}

func (p *Provider) newCode(q url.Values, user string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sessions++
	g := &grant{client: q.Get("client_id"), user: user, nonce: q.Get("nonce"), session: "session-" + strconv.Itoa(p.sessions), scope: strings.Fields(q.Get("scope")), audience: q.Get("audience"), expires: map[string]time.Time{}, offline: !p.o.Manner.GitHub}
	for name, value := range p.o.Manner.RefreshParams {
		g.offline = g.offline && q.Get(name) == value
	}
	if need := p.o.Manner.RefreshScope; need != "" {
		g.offline = g.offline && slices.Contains(g.scope, need)
	}
	value := "code-" + random()
	p.codes[value] = &code{grant: g, redirectURI: q.Get("redirect_uri"), challenge: q.Get("code_challenge"), expires: time.Now().Add(time.Minute)}
	return value
}

// refuse answers with an error of the token endpoint.
func (p *Provider) refuse(w http.ResponseWriter, status int, code string) {
	if p.o.Manner.GitHub { // which says so with 200
		if code == "invalid_grant" {
			code = "bad_verification_code"
		}
		w.Header().Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
		io.WriteString(w, url.Values{"error": {code}, "error_description": {"The code passed is incorrect or expired."}}.Encode())
		return
	}
	if code == "invalid_grant" && p.o.Manner.RefusalStatus != 0 {
		status = p.o.Manner.RefusalStatus
	}
	writeJSON(w, status, map[string]string{"error": code, "error_description": "refused by the provider"})
}

func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.ParseForm() != nil {
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	client := p.knows(r)
	if client == "" {
		p.refuse(w, http.StatusUnauthorized, "invalid_client")
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var g *grant
	var why string
	switch kind := r.PostForm.Get("grant_type"); {
	case p.wrongResource(r.PostForm):
		why = "invalid_target"
	case kind == "authorization_code":
		g, why = p.redeem(client, r.PostForm)
	case kind == "refresh_token":
		g, why = p.rotate(client, r.PostForm)
	default:
		why = "unsupported_grant_type"
	}
	if why != "" {
		p.refuse(w, http.StatusBadRequest, why)
		return
	}
	answer := p.issue(g, r.PostForm.Get("grant_type") == "authorization_code")
	switch {
	case p.s.TokenAnswer != nil:
		p.s.TokenAnswer(w)
	case p.o.Manner.GitHub:
		w.Header().Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
		io.WriteString(w, url.Values{"access_token": {fmt.Sprint(answer["access_token"])}, "scope": {strings.Join(g.scope, ",")}, "token_type": {"bearer"}}.Encode())
	default:
		writeJSON(w, http.StatusOK, answer)
	}
}

// knows returns the id of the client that proves itself in a request, or "".
func (p *Provider) knows(r *http.Request) string {
	id, secret, basic := r.BasicAuth()
	if basic {
		id, _ = url.QueryUnescape(id)
		secret, _ = url.QueryUnescape(secret)
		if p.o.Manner.PostOnly || r.PostForm.Has("client_secret") {
			return ""
		}
	} else {
		if p.o.Manner.HeaderOnly {
			return ""
		}
		id, secret = r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.client(id)
	if !ok || c.Method != "" && basic != (c.Method == "client_secret_basic") || subtle.ConstantTimeCompare([]byte(secret), []byte(c.Secret)) != 1 {
		return ""
	}
	return id
}

func (p *Provider) redeem(client string, form url.Values) (*grant, string) {
	c := p.codes[form.Get("code")]
	if c == nil {
		return nil, "invalid_grant"
	}
	h := sha256.Sum256([]byte(form.Get("code_verifier")))
	switch {
	case c.spent:
		c.ended = true // RFC 6749 §4.1.2: the tokens of a code that is used twice are revoked
		return nil, "invalid_grant"
	case time.Now().After(c.expires), c.client != client, c.redirectURI != form.Get("redirect_uri"), base64.RawURLEncoding.EncodeToString(h[:]) != c.challenge:
		return nil, "invalid_grant"
	}
	c.spent = true
	p.counts["code"]++
	return c.grant, ""
}

// rotate accepts a refresh token once. Another use of it ends its family.
func (p *Provider) rotate(client string, form url.Values) (*grant, string) {
	token := form.Get("refresh_token")
	g := p.refresh[token]
	switch {
	case g == nil || g.ended || g.client != client:
		return nil, "invalid_grant"
	case g.current != token:
		g.ended = true
		p.counts["reuse"]++
		return nil, "invalid_grant"
	}
	p.counts["refresh"]++
	p.counts["refresh "+g.user]++
	return g, ""
}

// issue makes the tokens of a token answer.
func (p *Provider) issue(g *grant, first bool) map[string]any {
	life := p.s.AccessLife
	if life == 0 {
		life = time.Hour
	}
	access := "access-" + g.user + "-" + random()
	p.access[access] = g
	g.expires[access] = time.Now().Add(life)
	answer := map[string]any{"access_token": access, "token_type": "Bearer", "expires_in": int(life.Seconds()), "scope": strings.Join(g.scope, " ")}
	if p.o.Manner.GitHub {
		g.expires[access] = time.Now().Add(24 * time.Hour)
	}
	if g.offline && !p.s.NoRefresh && (first || !p.s.NoRotation) {
		g.current = "refresh-" + g.user + "-" + random()
		p.refresh[g.current] = g
		answer["refresh_token"] = g.current
	}
	if !p.o.Manner.GitHub && !p.s.NoIDToken {
		answer["id_token"] = p.idToken(g, access)
	}
	return answer
}

func (p *Provider) idToken(g *grant, access string) string {
	now := time.Now()
	h := sha256.Sum256([]byte(access))
	claims := p.claims(g.user)
	claims["iss"], claims["aud"], claims["iat"], claims["exp"] = p.Issuer(), p.o.ClientID, now.Unix(), now.Add(5*time.Minute).Unix()
	claims["sid"], claims["at_hash"] = g.session, base64.RawURLEncoding.EncodeToString(h[:16])
	if g.nonce != "" {
		claims["nonce"] = g.nonce
	}
	if p.s.Claims != nil {
		p.s.Claims(claims)
	}
	return p.Sign(claims)
}

func (p *Provider) claims(name string) map[string]any {
	u := p.users[name]
	claims := map[string]any{"sub": u.ID, "name": u.Name, "preferred_username": name, "email": u.Email, "email_verified": !u.Unverified}
	if u.Picture != "" {
		claims["picture"] = u.Picture
	}
	if u.Groups != nil {
		claims["groups"] = u.Groups
	}
	return claims
}

// Sign returns a JWT with claims, signed with the provider's key.
func (p *Provider) Sign(claims any) string {
	text, err := json.Marshal(claims)
	if err != nil {
		return ""
	}
	return p.SignText(text)
}

// SignText is Sign for a payload that is JSON already.
func (p *Provider) SignText(payload []byte) string {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: p.algorithm(), Key: jose.JSONWebKey{Key: p.key, KeyID: "1"}}, nil)
	if err != nil {
		return ""
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		return ""
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		return ""
	}
	return token
}

// bearer returns the user whose access token the request has, or answers 401.
func (p *Provider) bearer(w http.ResponseWriter, r *http.Request) string {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	user := p.Owner(token)
	if user == "" {
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		writeJSON(w, http.StatusUnauthorized, map[string]string{"error": "invalid_token"})
	}
	return user
}

func (p *Provider) userinfo(w http.ResponseWriter, r *http.Request) {
	user := p.bearer(w, r)
	if user == "" {
		return
	}
	p.mu.Lock()
	if p.s.NoUserInfo {
		p.mu.Unlock()
		writeJSON(w, http.StatusUnauthorized, map[string]string{"error": "invalid_token"})
		return
	}
	claims := p.claims(user)
	p.counts["userinfo"]++
	p.mu.Unlock()
	writeJSON(w, http.StatusOK, claims)
}

func (p *Provider) gitHubUser(w http.ResponseWriter, r *http.Request) {
	name := p.bearer(w, r)
	if name == "" {
		return
	}
	if r.Header.Get("User-Agent") == "" {
		http.Error(w, "Request forbidden by administrative rules.", http.StatusForbidden)
		return
	}
	p.mu.Lock()
	u := p.users[name]
	p.counts["userinfo"]++
	p.mu.Unlock()
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if u.Private {
		fmt.Fprintf(w, `{"login":%q,"id":%s,"name":%q,"email":null,"avatar_url":%q}`, name, u.ID, u.Name, u.Picture)
		return
	}
	fmt.Fprintf(w, `{"login":%q,"id":%s,"name":%q,"email":%q,"avatar_url":%q}`, name, u.ID, u.Name, u.Email, u.Picture)
}

// gitHubEmails tells all addresses of a user, which needs a scope.
func (p *Provider) gitHubEmails(w http.ResponseWriter, r *http.Request) {
	name := p.bearer(w, r)
	if name == "" {
		return
	}
	p.mu.Lock()
	u, g := p.users[name], p.access[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
	p.mu.Unlock()
	if !slices.Contains(g.scope, "user:email") {
		writeJSON(w, http.StatusNotFound, map[string]string{"message": "Not Found"})
		return
	}
	writeJSON(w, http.StatusOK, []map[string]any{
		{"email": "old-" + u.Email, "primary": false, "verified": true}, {"email": u.Email, "primary": true, "verified": !u.Unverified},
	})
}

// gitHubDelete deletes an access token for its client.
func (p *Provider) gitHubDelete(w http.ResponseWriter, r *http.Request) {
	id, secret, _ := r.BasicAuth()
	var sent struct {
		Token string `json:"access_token"`
	}
	switch {
	case r.Method != http.MethodDelete || id != p.o.ClientID || secret != p.o.ClientSecret:
		writeJSON(w, http.StatusUnauthorized, map[string]string{"message": "Bad credentials"})
		return
	case json.NewDecoder(r.Body).Decode(&sent) != nil || sent.Token == "":
		writeJSON(w, http.StatusUnprocessableEntity, map[string]string{"message": "Validation Failed"})
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.access[sent.Token] == nil {
		writeJSON(w, http.StatusNotFound, map[string]string{"message": "Not Found"})
		return
	}
	delete(p.access, sent.Token)
	p.counts["revocation"]++
	w.WriteHeader(http.StatusNoContent)
}

// revoke revokes a token of either kind (RFC 7009), and the others of its family.
func (p *Provider) revoke(w http.ResponseWriter, r *http.Request) {
	if p.o.Manner.NoRevocation {
		http.NotFound(w, r)
		return
	}
	if r.ParseForm() != nil || p.knows(r) == "" {
		writeJSON(w, http.StatusUnauthorized, map[string]string{"error": "invalid_client"})
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	token := r.PostForm.Get("token")
	p.counts["revocation"]++
	if g := p.refresh[token]; g != nil {
		g.ended = true
	}
	delete(p.access, token)
	w.WriteHeader(http.StatusOK)
}

// serveAPI is a protected API. It says whose token it was sent. The parameter status makes it
// answer a status of the caller's choice.
func (p *Provider) serveAPI(w http.ResponseWriter, r *http.Request) {
	user := p.bearer(w, r)
	if user == "" {
		return
	}
	p.mu.Lock()
	p.counts["api"]++
	status := p.s.APIStatus
	opaque := p.o.Manner.OpaqueAudience && p.access[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")].audience == ""
	p.mu.Unlock()
	if opaque {
		status = http.StatusUnauthorized
	}
	if asked, err := strconv.Atoi(r.URL.Query().Get("status")); err == nil && asked >= 200 && asked < 600 {
		status = asked
	}
	if status == 0 {
		status = http.StatusOK
	}
	if status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "7")
	}
	writeJSON(w, status, map[string]any{"user": user, "path": r.URL.Path})
}

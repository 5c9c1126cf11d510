package upstreamtest

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// registration is a client that the provider knows.
type registration struct {
	Secret       string   `json:"-"`
	RedirectURIs []string `json:"redirect_uris"`
	Method       string   `json:"token_endpoint_auth_method"`
	Grants       []string `json:"grant_types"`
	Responses    []string `json:"response_types"`
	Name         string   `json:"client_name"`
}

// register registers a client (RFC 7591 §3).
func (p *Provider) register(w http.ResponseWriter, r *http.Request) {
	p.count("registration")
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.s.RegistrationAnswer != nil {
		p.s.RegistrationAnswer(w)
		return
	}
	var c registration
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	switch err := d.Decode(&c); {
	case err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Authorization") != "":
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": "invalid_client_metadata"})
		return
	case len(c.RedirectURIs) != 1 || c.Name == "" || !slices.Contains(p.methods(), c.Method) || !slices.Contains(c.Grants, "authorization_code") || !slices.Equal(c.Responses, []string{"code"}):
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": "invalid_redirect_uri"})
		return
	}
	c.Method = cmp.Or(p.s.RegistersAs, c.Method)
	id := "registered-" + random()
	answer := map[string]any{"client_id": id, "redirect_uris": c.RedirectURIs, "token_endpoint_auth_method": c.Method}
	if c.Method != "none" {
		c.Secret = "registered-secret-" + random()
		answer["client_secret"], answer["client_secret_expires_at"] = c.Secret, p.s.SecretExpires
	}
	p.clients[id] = c
	writeJSON(w, http.StatusCreated, answer)
}

// ForgetClients forgets the clients that have registered.
func (p *Provider) ForgetClients() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.clients)
}

// client returns a client by its id. One that is described at a URL is public.
func (p *Provider) client(id string) (registration, bool) {
	if c, ok := p.clients[id]; ok {
		return c, true
	}
	c := registration{RedirectURIs: p.o.RedirectURIs, Secret: p.o.ClientSecret}
	if p.o.Documents && strings.HasPrefix(id, "https://") {
		c.Secret, c.Method = "", "none"
		return c, true
	}
	return c, id == p.o.ClientID && !p.o.Registers
}

// wrongResource reports whether a request is for another resource than the provider's tokens are for
// (RFC 8707 §2).
func (p *Provider) wrongResource(q url.Values) bool {
	return p.o.Resource != "" && !slices.Equal(q["resource"], []string{p.o.Resource})
}

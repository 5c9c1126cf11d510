package handlers_test

import (
	"encoding/json"
	"testing"

	"signet/internal/clients"
	"signet/internal/test/authtest"
)

// answer is an answer of the token endpoint as its JSON says.
type answer struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in,omitempty"`
	RefreshToken string `json:"refresh_token,omitempty"`
	IDToken      string `json:"id_token,omitempty"`
	Scope        string `json:"scope,omitempty"`
}

// An answer with tokens is the line that encoding/json writes, whether or not a name of a scope
// needs an escape.
func TestTokenAnswerIsALineOfEncodingJSON(t *testing.T) {
	s := authtest.New(t, func(c *authtest.Config) { c.Scopes = append(c.Scopes, "a<b>&c") })
	answers := []*authtest.Response{s.Refresh(t, s.PRE, s.Tokens(t, "alice", s.PRE).Refresh)}
	for _, id := range []string{"mcp:read", "a<b>&c"} {
		c := s.Configure(t, clients.Spec{ID: "worker-" + id[:1], ClientCredentials: true, Scopes: []string{id}})
		answers = append(answers, askForItself(t, s, c))
	}
	for _, r := range answers {
		var got answer
		if err := json.Unmarshal([]byte(r.Body), &got); err != nil || got.AccessToken == "" {
			t.Fatalf("%s: %v", r.Body, err)
		}
		want, err := json.Marshal(got)
		if err != nil || r.Body != string(want)+"\n" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s; want %s, %v", r.Header.Get("Content-Type"), r.Body, want, err)
		}
	}
}

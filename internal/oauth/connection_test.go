package oauth_test

import (
	"testing"

	"signet/internal/oauth"
)

func TestConnectionLinkNamesServerAndUser_Row55(t *testing.T) {
	const issuer = "https://auth.example/x"
	// printf 'https://auth.example/x\nalice' | sha256sum
	want := issuer + "/oauth/authorize?server_id=git+hub%26&for=" + oauth.ConnectionUser(issuer, "alice")
	if got := oauth.ConnectionLink(issuer, "git hub&", "alice"); got != want {
		t.Errorf("link %s, want %s", got, want)
	}
	if got, want := oauth.ConnectionUser(issuer, "alice"), "6615fab65825a4c0"; got != want {
		t.Errorf("hash %s, want %s", got, want)
	}
	for name, other := range map[string]string{
		"another user":   oauth.ConnectionUser(issuer, "alicf"),
		"another issuer": oauth.ConnectionUser(issuer+"y", "alice"),
	} {
		if other == oauth.ConnectionUser(issuer, "alice") {
			t.Errorf("%s has the hash of alice", name)
		}
	}
}

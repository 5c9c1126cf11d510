package fleet

import (
	"net/http"
	"sync"
	"testing"

	"signet/internal/e2e"
	"signet/internal/test/clientdoc"
)

// An assertion is used once over all replicas of one database, also when it arrives at
// all of them at the same moment; what the refused request names stays as it was.
func TestAssertionUsedOnOneReplicaIsRefusedByTheOther(t *testing.T) {
	host := clientdoc.NewTLSHost(t)
	d := e2e.Start(t, append(e2e.SharedStore(t), e2e.Trusts(host)), "--demo")
	second := d.Beside()
	second.Start()
	signer := clientdoc.NewKeyFor(t, "ES256", "one")
	id := e2e.PublishClient(t, host, "/client.json", map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks": clientdoc.Set(t, signer)})
	client := &e2e.Client{Issuer: d.Issuer, RedirectURI: e2e.RedirectURI, ID: id}
	at := []string{d.URL(), second.URL()}

	assertion := signer.Assertion(t, id, d.Issuer, nil)
	tok, status := e2e.Post(t, at[0], e2e.Signed(client.CodeForm(client.Code(t, "demo_user", "demo_password")), assertion))
	if status != http.StatusOK {
		t.Fatalf("code: %d %+v", status, tok)
	}
	for _, base := range []string{at[1], at[0]} {
		got, status := e2e.Post(t, base, e2e.Signed(client.RefreshForm(tok.RefreshToken), assertion))
		if status != http.StatusUnauthorized || got.Error != "invalid_client" {
			t.Errorf("the assertion for a second time at %s: %d %+v, want 401 invalid_client", base, status, got)
		}
	}

	for range 3 {
		assertion = signer.Assertion(t, id, d.Issuer+"/token", nil)
		var mu sync.Mutex
		var good []e2e.Tokens
		var all sync.WaitGroup
		for n := range 8 {
			all.Go(func() {
				got, status := e2e.Post(t, at[n%2], e2e.Signed(client.RefreshForm(tok.RefreshToken), assertion))
				mu.Lock()
				defer mu.Unlock()
				switch {
				case status == http.StatusOK:
					good = append(good, got)
				case status != http.StatusUnauthorized || got.Error != "invalid_client":
					t.Errorf("one of eight requests with one assertion: %d %+v", status, got)
				}
			})
		}
		if all.Wait(); len(good) != 1 {
			t.Fatalf("%d of eight requests with one assertion were accepted, want one", len(good))
		}
		tok = good[0]
	}
}

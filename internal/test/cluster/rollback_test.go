package cluster_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"testing"
	"time"

	"signet/internal/test/cluster"
)

// storeOf returns what a replica says of the store.
func storeOf(t *testing.T, h *http.Client, r *cluster.Replica) (epoch string, rolledBack time.Time) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, r.URL+"/readyz", nil)
	if err != nil {
		t.Fatal(err)
	}
	var health struct {
		Epoch      string    `json:"epoch"`
		RolledBack time.Time `json:"rolled_back"`
	}
	if answer := do(h, req); answer.status != 0 {
		if err := json.Unmarshal([]byte(answer.body), &health); err != nil {
			t.Fatalf("%s: %v: %s", r.Name, err, answer.body)
		}
	}
	return health.Epoch, health.RolledBack
}

// A database that is put back beneath running replicas gives no client access again: all
// users sign in again, at all replicas, and earlier access tokens are refused.
func TestDatabasePutBackGivesNoAccess_L08_INV15(t *testing.T) {
	t.Parallel()
	c, h := start(t, cluster.Options{}), newHTTP()
	revoked, revokedTokens := login(t, c, h, demoPerson())
	other, otherTokens := login(t, c, h, demoPerson())
	must(t, c.Postgres.Save())
	eventually(t, "the database is back", func() bool {
		next := postForm(h, c.URL+"/token", refreshForm(other, otherTokens.Refresh))
		if next.status == 200 {
			otherTokens = next.tokens()
		}
		return next.status == 200
	})
	eventually(t, "the revocation", func() bool {
		return postForm(h, c.URL+"/revoke", url.Values{"token": {revokedTokens.Refresh}, "client_id": {revoked.id}}).status == 200
	})
	epoch, _ := storeOf(t, h, c.Auth[0])
	time.Sleep(8 * time.Second) // so that each replica has read a later time from the store, as it does each second
	must(t, c.Postgres.PutBack())

	refused := map[string]bool{}
	eventually(t, "all replicas refuse the handle that was revoked", func() bool {
		for _, r := range c.Auth {
			switch got := postForm(h, r.URL+"/token", refreshForm(revoked, revokedTokens.Refresh)); {
			case got.status == 200:
				t.Fatalf("%s: the revoked handle lives again", r.Name)
			case got.error() == "invalid_grant":
				refused[r.Name] = true
			}
		}
		return len(refused) == len(c.Auth)
	})
	for _, r := range c.Auth {
		eventually(t, r.Name+" says that the store was rolled back", func() bool {
			now, at := storeOf(t, h, r)
			return now != "" && now != epoch && !at.IsZero()
		})
	}
	first, _ := storeOf(t, h, c.Auth[0])
	if second, _ := storeOf(t, h, c.Auth[1]); first != second {
		t.Errorf("the epochs differ: %s and %s", first, second)
	}
	for _, r := range c.Auth {
		if got := postForm(h, r.URL+"/token", refreshForm(other, otherTokens.Refresh)); got.error() != "invalid_grant" {
			t.Errorf("%s: the handle of another user: %s, want invalid_grant", r.Name, got.label())
		}
	}
	for _, r := range c.MCP {
		eventually(t, r.Name+" refuses the access tokens of before", func() bool {
			return call(h, r.URL, otherTokens.Access, "whoami", map[string]any{}).status == 401 && call(h, r.URL, revokedTokens.Access, "whoami", map[string]any{}).status == 401
		})
	}

	again, tok := login(t, c, h, demoPerson())
	for _, r := range c.Auth {
		got := postForm(h, r.URL+"/token", refreshForm(again, tok.Refresh))
		if tok = got.tokens(); tok.Refresh == "" {
			t.Fatalf("%s: after the next login: %s", r.Name, got.label())
		}
	}
	for _, r := range c.MCP {
		if got := call(h, r.URL, tok.Access, "whoami", map[string]any{}); got.status != 200 {
			t.Errorf("%s: after the next login: %s", r.Name, got.label())
		}
	}
	if last, _ := storeOf(t, h, c.Auth[0]); last != first {
		t.Error("the epoch ended twice")
	}
}

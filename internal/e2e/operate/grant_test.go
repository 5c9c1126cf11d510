package operate

import (
	"encoding/json"
	"net/url"
	"signet/internal/e2e"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// grantInfo is a grant of `signet grant list --json`.
type grantInfo struct {
	ID          string     `json:"id"`
	User        string     `json:"user"`
	Client      string     `json:"client"`
	Scopes      []string   `json:"scopes"`
	Resource    string     `json:"resource"`
	Since       time.Time  `json:"since"`
	LastRefresh *time.Time `json:"last_refresh,omitempty"`
	Replays     int64      `json:"replays"`
	Expires     time.Time  `json:"expires"`
}

// grantsOf lists a user's grants with the command line, beside the server.
func grantsOf(d *e2e.Program, user string) (list []grantInfo) {
	d.T.Helper()
	out, errOut, status := d.Signet("", "grant", "list", "--user", user, "--json")
	if err := json.Unmarshal([]byte(out), &list); err != nil || status != 0 {
		d.T.Fatalf("grant list: %d, %v\n%s%s", status, err, out, errOut)
	}
	return list
}

// wantEnded waits until neither the refresh handle nor the access token of a login is
// accepted.
func wantEnded(t *testing.T, d *e2e.Program, client *e2e.Client, tok e2e.Tokens) {
	t.Helper()
	if next, status := client.Refresh(t, tok.RefreshToken); status != 400 || next.Error != "invalid_grant" {
		t.Errorf("refresh after the revocation: %d %+v, want invalid_grant", status, next)
	}
	e2e.Eventually(t, func() bool { return e2e.Call(t, d.Issuer+"/mcp", tok.AccessToken) == 401 })
}

// An operator lists grants while the server runs, and ends one, then all of a user.
// Other grants are not touched.
func TestGrantsAreListedAndRevokedBesideAServer_Row32(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	if list := grantsOf(d, "demo_user"); len(list) != 0 {
		t.Fatalf("before any login: %+v", list)
	}
	began := time.Now().Truncate(time.Second)
	first, tok := d.Login()
	second, other := d.Login()
	third, last := d.Login()
	next, status := first.Refresh(t, tok.RefreshToken)
	again, status2 := first.Refresh(t, tok.RefreshToken) // as if the answer was lost
	if status != 200 || status2 != 200 {
		t.Fatalf("refresh: %d, %d", status, status2)
	}
	list := grantsOf(d, "demo_user")
	at := slices.IndexFunc(list, func(g grantInfo) bool { return g.LastRefresh != nil })
	if len(list) != 3 || at < 0 {
		t.Fatalf("grants: %+v", list)
	}
	g := list[at]
	want := grantInfo{ID: g.ID, User: "demo_user", Client: "Test client", Scopes: []string{"read", "write"}, Resource: d.Issuer + "/mcp",
		Since: g.Since, LastRefresh: g.LastRefresh, Replays: g.Replays, Expires: g.Expires}
	if diff := cmp.Diff(want, g); diff != "" || g.Since.Before(began) || g.LastRefresh.Before(began) || time.Until(g.Expires) < 29*24*time.Hour {
		t.Errorf("the refreshed grant is %+v (-want +got):\n%s", g, diff)
	}
	e2e.Eventually(t, func() bool { // written after the answer
		list := grantsOf(d, "Demo_User")
		return list[slices.IndexFunc(list, func(x grantInfo) bool { return x.ID == g.ID })].Replays == 1
	})

	if status := e2e.Call(t, d.Issuer+"/mcp", next.AccessToken); status != 200 {
		t.Fatalf("before the revocation /mcp answers %d", status)
	}
	if out, errOut, status := d.Signet("", "grant", "revoke", g.ID); status != 0 || !strings.Contains(out, "is revoked") {
		t.Errorf("grant revoke: %d\n%s%s", status, out, errOut)
	}
	wantEnded(t, d, first, next)
	wantEnded(t, d, first, again)
	if list := grantsOf(d, "demo_user"); len(list) != 2 {
		t.Errorf("after the revocation: %+v, want two", list)
	}
	if out, errOut, status := d.Signet("", "grant", "revoke", g.ID); status != 0 || !strings.Contains(out, "already") {
		t.Errorf("revoking again: %d\n%s%s", status, out, errOut)
	}
	if status := e2e.Call(t, d.Issuer+"/mcp", other.AccessToken); status != 200 {
		t.Errorf("another grant: /mcp answers %d", status)
	}
	if other, status = second.Refresh(t, other.RefreshToken); status != 200 {
		t.Errorf("another grant: refresh answers %d", status)
	}

	if out, errOut, status := d.Signet("", "grant", "revoke", "--user", " DEMO_user"); status != 0 || !strings.Contains(out, "revoked: 2") {
		t.Errorf("grant revoke --user: %d\n%s%s", status, out, errOut)
	}
	wantEnded(t, d, second, other)
	wantEnded(t, d, third, last)
	if list := grantsOf(d, "demo_user"); len(list) != 0 {
		t.Errorf("after all were revoked: %+v", list)
	}
	if _, tok := d.Login(); e2e.Call(t, d.Issuer+"/mcp", tok.AccessToken) != 200 {
		t.Error("the user cannot sign in again")
	}
}

// The grant of a redeemed code whose answer was lost can be ended, too, and the next
// server obeys a command that was given while no server ran.
func TestGrantRevokedWhileNoServerRuns_Row32(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	client, tok := d.Login()
	d.Stop()
	list := grantsOf(d, "demo_user")
	if len(list) != 1 || list[0].LastRefresh != nil {
		t.Fatalf("grants: %+v", list)
	}
	if out, errOut, status := d.Signet("", "grant", "revoke", list[0].ID); status != 0 {
		t.Fatalf("grant revoke: %d\n%s%s", status, out, errOut)
	}
	d.Start()
	if status := e2e.Call(t, d.Issuer+"/mcp", tok.AccessToken); status != 401 {
		t.Errorf("/mcp answers %d, want 401", status)
	}
	if tok, status := e2e.Post(t, d.Issuer, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tok.RefreshToken}, "client_id": {client.ID}}); status != 400 || tok.Error != "invalid_grant" {
		t.Errorf("refresh: %d %+v", status, tok)
	}
}

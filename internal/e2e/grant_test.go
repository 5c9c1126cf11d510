package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signet/internal/denylist"
	"signet/internal/seal"
	"signet/internal/state"
	"signet/internal/store"
)

// grantsOf lists a user's grants with the command line, beside the daemon.
func (d *daemon) grantsOf(user string) (list []grantInfo) {
	d.t.Helper()
	out, errOut, status := d.signet("", "grant", "list", "--user", user, "--json")
	if err := json.Unmarshal([]byte(out), &list); err != nil || status != 0 {
		d.t.Fatalf("grant list: %d, %v\n%s%s", status, err, out, errOut)
	}
	return list
}

// wantEnded waits until neither refresh nor access token of a login are accepted.
func (d *daemon) wantEnded(t *testing.T, client registration, tok tokens) {
	t.Helper()
	if next, status := refresh(t, d.issuer, client, tok.RefreshToken); status != 400 || next.Error != "invalid_grant" {
		t.Errorf("refresh after the revocation: %d %+v, want invalid_grant", status, next)
	}
	eventually(t, func() bool { return mcpStatus(t, d.issuer, tok.AccessToken) == 401 })
}

// What an operator sees of grants and ends while the server runs: one, and all of a
// user. Others are not touched.
func TestRow32_GrantCommandsBesideAServer(t *testing.T) {
	d := startDaemon(t, nil, "--demo")
	if list := d.grantsOf("demo_user"); len(list) != 0 {
		t.Fatalf("before any login: %+v", list)
	}
	first, tok := d.login()
	second, other := d.login()
	third, last := d.login()
	next, status := refresh(t, d.issuer, first, tok.RefreshToken)
	again, status2 := refresh(t, d.issuer, first, tok.RefreshToken) // the answer was lost
	if status != 200 || status2 != 200 {
		t.Fatalf("refresh: %d, %d", status, status2)
	}
	list := d.grantsOf("demo_user")
	at := slices.IndexFunc(list, func(g grantInfo) bool { return g.LastRefresh != nil })
	if len(list) != 3 || at < 0 {
		t.Fatalf("grants: %+v", list)
	}
	g := list[at]
	want := grantInfo{ID: g.ID, User: "demo_user", Client: "Test client", Scopes: []string{"read", "write"}, Resource: d.issuer + "/mcp",
		Since: g.Since, LastRefresh: g.LastRefresh, Replays: g.Replays, Expires: g.Expires}
	if diff := cmp.Diff(want, g); diff != "" || time.Since(g.Since) > time.Minute || time.Since(*g.LastRefresh) > time.Minute || time.Until(g.Expires) < 29*24*time.Hour {
		t.Errorf("the refreshed grant is %+v (-want +got):\n%s", g, diff)
	}
	eventually(t, func() bool { // written behind the request
		list := d.grantsOf("Demo_User")
		return list[slices.IndexFunc(list, func(x grantInfo) bool { return x.ID == g.ID })].Replays == 1
	})

	if status := mcpStatus(t, d.issuer, next.AccessToken); status != 200 {
		t.Fatalf("before the revocation /mcp answers %d", status)
	}
	if out, errOut, status := d.signet("", "grant", "revoke", g.ID); status != 0 || !strings.Contains(out, "is revoked") {
		t.Errorf("grant revoke: %d\n%s%s", status, out, errOut)
	}
	d.wantEnded(t, first, next)
	d.wantEnded(t, first, again)
	if list := d.grantsOf("demo_user"); len(list) != 2 {
		t.Errorf("after the revocation: %+v, want two", list)
	}
	if out, errOut, status := d.signet("", "grant", "revoke", g.ID); status != 0 || !strings.Contains(out, "already") {
		t.Errorf("revoking again: %d\n%s%s", status, out, errOut)
	}
	if status := mcpStatus(t, d.issuer, other.AccessToken); status != 200 {
		t.Errorf("another grant: /mcp answers %d", status)
	}
	if other, status = refresh(t, d.issuer, second, other.RefreshToken); status != 200 {
		t.Errorf("another grant: refresh answers %d", status)
	}

	if out, errOut, status := d.signet("", "grant", "revoke", "--user", " DEMO_user"); status != 0 || !strings.Contains(out, "revoked: 2") {
		t.Errorf("grant revoke --user: %d\n%s%s", status, out, errOut)
	}
	d.wantEnded(t, second, other)
	d.wantEnded(t, third, last)
	if list := d.grantsOf("demo_user"); len(list) != 0 {
		t.Errorf("after all were revoked: %+v", list)
	}
	if _, tok := d.login(); mcpStatus(t, d.issuer, tok.AccessToken) != 200 {
		t.Error("the user cannot sign in again")
	}
}

// A code that was redeemed but whose answer never arrived is a grant that can be
// ended, too; and a command that comes while nobody serves is heeded by the next
// server.
func TestRow32_GrantRevokedWhileNobodyServes(t *testing.T) {
	d := startDaemon(t, nil, "--demo")
	client, tok := d.login()
	d.stop()
	list := d.grantsOf("demo_user")
	if len(list) != 1 || list[0].LastRefresh != nil {
		t.Fatalf("grants: %+v", list)
	}
	if out, errOut, status := d.signet("", "grant", "revoke", list[0].ID); status != 0 {
		t.Fatalf("grant revoke: %d\n%s%s", status, out, errOut)
	}
	d.start()
	if status := mcpStatus(t, d.issuer, tok.AccessToken); status != 401 {
		t.Errorf("/mcp answers %d, want 401", status)
	}
	if tok, status := post(t, d.issuer, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tok.RefreshToken}, "client_id": {client.ClientID}}); status != 400 || tok.Error != "invalid_grant" {
		t.Errorf("refresh: %d %+v", status, tok)
	}
}

func TestGrantCommandLine(t *testing.T) {
	fresh := filepath.Join(t.TempDir(), "data")
	made := filepath.Join(t.TempDir(), "data")
	alice, nasty := fillGrants(t, made, 0)
	half := filepath.Join(t.TempDir(), "data")
	fillGrants(t, half, 0)
	if err := os.Remove(filepath.Join(half, "mirror")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, dir string
		args      []string
		status    int
		stdout    string // part of it
		stderr    string // part of it
	}{
		{"list of nothing", fresh, []string{"list"}, 0, "USER", ""},
		{"list of nothing, as JSON", fresh, []string{"list", "--json"}, 0, "[]\n", ""},
		{"list of a user of nothing", fresh, []string{"list", "--user", "alice", "--json"}, 0, "[]\n", ""},
		{"revoke of nothing", fresh, []string{"revoke", alice}, 1, "", "no such grant"},
		{"revoke a user of nothing", fresh, []string{"revoke", "--user", "alice"}, 0, "revoked: 0", ""},
		{"list", made, []string{"list"}, 0, "alice    App", ""},
		{"list of one user", made, []string{"list", "--user", " Alice "}, 0, "alice  App     read write  https://mcp.test/mcp  2025-06-01 12:00  -             0        2100-01-01 00:00  " + alice, ""},
		{"a name that other sources have", made, []string{"list", "--user", "Idp|Zed"}, 0, nasty, ""},
		{"list of nobody", made, []string{"list", "--user", "nobody", "--json"}, 0, "[]\n", ""},
		{"half a data directory", half, []string{"list"}, 1, "", "mirror"},
		{"revoke in half a data directory", half, []string{"revoke", alice}, 1, "", "mirror"},
		{"revoke without what", made, []string{"revoke"}, 2, "", "--user"},
		{"revoke with both", made, []string{"revoke", alice, "--user", "alice"}, 2, "", "--user"},
		{"revoke two", made, []string{"revoke", alice, nasty}, 2, "", "accepts at most 1"},
		{"revoke nobody", made, []string{"revoke", "--user", " "}, 2, "", "--user"},
		{"revoke what is not there", made, []string{"revoke", alice + "x"}, 1, "", "no such grant"},
		{"revoke the empty", made, []string{"revoke", ""}, 1, "", "no such grant"},
		{"revoke", made, []string{"revoke", alice}, 0, "grant " + alice + " of alice to App is revoked", ""},
		{"revoke again", made, []string{"revoke", alice}, 0, "ended already", ""},
		{"revoke a user", made, []string{"revoke", "--user", "Idp|Zed"}, 0, "revoked: 1", ""},
		{"list what is left", made, []string{"list", "--json"}, 0, "[]\n", ""},
		{"no verb", made, nil, 2, "", "a command is missing"},
	} {
		status, stdout, stderr := signet(t, c.dir, "", append([]string{"grant"}, c.args...)...)
		if status != c.status || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) {
			t.Errorf("%s: status %d, want %d\nstdout %q, want %q in it\nstderr %q, want %q in it", c.what, status, c.status, stdout, c.stdout, stderr, c.stderr)
		}
		if strings.ContainsAny(stdout+stderr, "\x1b\r\u202e") {
			t.Errorf("%s: a client's name reaches the terminal as it is: %q", c.what, stdout+stderr)
		}
	}
	if _, err := os.Stat(fresh); !os.IsNotExist(err) {
		t.Errorf("looking made a data directory: %v", err)
	}
}

// A list of many grants comes in pages, complete.
func TestGrantListOfMany(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	const more = 2*grantsShown + 1
	fillGrants(t, dir, more)
	_, stdout, _ := signet(t, dir, "", "grant", "list", "--json")
	var list []grantInfo
	if err := json.Unmarshal([]byte(stdout), &list); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, g := range list {
		ids[g.ID] = true
	}
	if len(list) != more+2 || len(ids) != more+2 {
		t.Errorf("%d grants, %d different ones; want %d", len(list), len(ids), more+2)
	}
	_, stdout, _ = signet(t, dir, "", "grant", "list")
	if n := strings.Count(stdout, "https://mcp.test/mcp"); n != more+2 {
		t.Errorf("%d lines, want %d", n, more+2)
	}
}

// fillGrants makes a data directory with a grant of alice, one whose user and client
// have names that no terminal should see, and more of others.
func fillGrants(t *testing.T, dir string, more int) (alice, nasty string) {
	t.Helper()
	data := state.Data{Dir: dir}
	if _, err := state.Prepare(t.Context(), data); err != nil {
		t.Fatal(err)
	}
	st, err := state.OpenStore(t.Context(), data)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	list, err := denylist.New(t.Context(), denylist.Options{Store: st})
	if err != nil {
		t.Fatal(err)
	}
	end := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
	since := time.Date(2025, 6, 1, 12, 0, 0, 0, time.UTC)
	g := denylist.Grant{ID: seal.NewID(end), Subject: "alice", ClientHash: "c", ClientName: "App", ConsentHash: "h", Scope: "read write",
		Resource: "https://mcp.test/mcp", Created: since.Unix(), Expires: end.Unix()}
	bad := g
	bad.ID, bad.Subject, bad.ClientName = seal.NewID(end), "Idp|Zed", "\x1b[2J\r\u202eApp\tX"
	for _, g := range []denylist.Grant{g, bad} {
		if _, err := list.Use(t.Context(), st.Epoch(), g, 0, since); err != nil {
			t.Fatal(err)
		}
	}
	err = st.Write(t.Context(), func(tx store.Tx) error {
		for i := range more {
			_, err := tx.Exec(`INSERT INTO grants (id, gen, rotated_at, revoked_at, sub, client_hash, client_name, consent_hash, scope, resource, created_at, expires_at)
				VALUES ($1, 1, 0, 0, $2, 'c', 'n', 'h', 'read', 'https://mcp.test/mcp', 0, $3)`, seal.NewID(end), fmt.Sprint("user", i), end.Unix())
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return g.ID, bad.ID
}

package clients_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"signet/internal/clients"
	"signet/internal/seal"
)

// Where the browser may go after a logout is enforced, so it is in the id and in
// the file, and held to the rule of redirect URIs.
func TestPostLogoutRedirectURIs(t *testing.T) {
	o := options(t)
	r := open(t, o)
	want := []string{"https://app.test/bye", "http://localhost:1455/bye?x=1"}
	reg := register(t, r, document("post_logout_redirect_uris", want))
	c, err := r.Find(context.Background(), reg.ClientID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, c.PostLogoutRedirectURIs); diff != "" {
		t.Errorf("registered (-want +got):\n%s", diff)
	}
	if !strings.Contains(marshal(t, reg), `"post_logout_redirect_uris":["https://app.test/bye"`) {
		t.Errorf("the answer does not repeat them: %s", marshal(t, reg))
	}

	add(t, o, clients.Spec{ID: "web", PostLogoutRedirectURIs: want})
	if c, err = open(t, o).Find(context.Background(), "web"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, c.PostLogoutRedirectURIs); diff != "" {
		t.Errorf("configured (-want +got):\n%s", diff)
	}
}

// A rule that became stricter reaches the clients that registered before.
func TestPostLogoutRedirectURIsOfOldClients(t *testing.T) {
	o := options(t)
	id, err := seal.Seal(o.Ring, seal.Client{RedirectURIs: []string{"https://app.test/cb"}, Method: "none", PostLogoutRedirectURIs: []string{"http://app.test/bye", "https://app.test/bye"}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := open(t, o).Find(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"https://app.test/bye"}, c.PostLogoutRedirectURIs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPostLogoutRedirectURIsThatAreNotAllowedAreLeftOut(t *testing.T) {
	o := options(t)
	r := open(t, o)
	var many []string
	for i := range 11 {
		many = append(many, fmt.Sprintf("https://app.test/%d", i))
	}
	if got := register(t, r, document("post_logout_redirect_uris", many)).PostLogoutRedirectURIs; len(got) != 10 {
		t.Errorf("%d post-logout URIs are registered", len(got))
	}
	for _, uri := range []string{"", "javascript:alert(1)", "http://app.test/bye", "https://app.test/bye#x", "https://u@app.test/bye", "//app.test"} {
		if got := register(t, r, document("post_logout_redirect_uris", []string{uri})).PostLogoutRedirectURIs; len(got) != 0 {
			t.Errorf("%q was registered", got)
		}
		spec := clients.Spec{ID: "web", RedirectURIs: []string{"https://app.test/cb"}, PostLogoutRedirectURIs: []string{uri}}
		if _, _, err := at(o.Path).Add(t.Context(), o.Ring, spec); err == nil {
			t.Errorf("%q was configured", uri)
		}
	}
}

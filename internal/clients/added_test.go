package clients_test

import (
	"maps"
	"slices"
	"testing"

	"signet/internal/clients"
	"signet/internal/seal"
)

// Gone are the clients that are removed, or were added again under the same id.
func TestGoneClientsAreRemovedOrAddedAgain(t *testing.T) {
	hash := seal.ClientHash
	before := clients.Added{hash("stays"): 1, hash("removed"): 1, hash("again"): 1}
	gone := before.Gone(clients.Added{hash("stays"): 1, hash("again"): 2, hash("new"): 2})
	got := slices.Sorted(maps.Keys(gone))
	want := []string{hash("again"), hash("removed")}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if len(before) != 3 {
		t.Error("the earlier clients were changed")
	}
}

func TestAddedHasTheConfiguredClients(t *testing.T) {
	o := options(t)
	add(t, o, clients.Spec{ID: "app", RedirectURIs: []string{"https://app.test/cb"}, Public: true})
	r := open(t, o)
	c := find(t, r, "app")
	if got := r.Added(); len(got) != 1 || got[c.Hash()] != c.Issued || c.Issued == 0 {
		t.Errorf("%v, want %s at %d", got, c.Hash(), c.Issued)
	}
}

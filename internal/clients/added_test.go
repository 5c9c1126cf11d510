package clients_test

import (
	"slices"
	"testing"

	"signet/internal/clients"
	"signet/internal/seal"
)

// Clients that are removed, or added again under the same id, are told, also those that were
// there for a moment; no others are.
func TestGoneClientsAreToldOnce(t *testing.T) {
	o := options(t)
	file := clients.File{Path: o.Path}
	change := func(remove []string, adds ...string) {
		t.Helper()
		for _, id := range remove {
			if err := file.Remove(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		for _, id := range adds {
			add(t, o, clients.Spec{ID: id, RedirectURIs: []string{"https://app.test/cb"}, Public: true})
		}
	}
	change(nil, "stays", "removed", "again")
	r := open(t, o)
	var told []string
	r.OnChange(func(gone, _ []string) { told = append(told, gone...) })
	want := func(ids ...string) {
		t.Helper()
		r.Reload()
		var hashes []string
		for _, id := range ids {
			hashes = append(hashes, seal.ClientHash(id))
		}
		slices.Sort(hashes)
		slices.Sort(told)
		if !slices.Equal(told, hashes) {
			t.Errorf("told %q, want %q", told, hashes)
		}
		told = nil
	}
	want()
	change([]string{"removed", "again"}, "again", "moment")
	want("removed", "again")
	change([]string{"moment"})
	want("moment")
	want()
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

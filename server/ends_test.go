package server_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"signet/internal/denylist"
	"signet/internal/seal"
	"signet/internal/test/storetest"
	"signet/server"
	"signet/users"
)

// counted is a source of users that counts how often each is looked up.
type counted map[string]int

func (c counted) Check(context.Context, string, string) (users.User, error) {
	return users.User{}, users.ErrInvalid
}

func (c counted) Lookup(_ context.Context, subject string) (users.User, error) {
	c[subject]++
	if subject == "gone" {
		return users.User{}, users.ErrUnknown
	}
	return users.User{Subject: subject, Version: "2"}, nil
}

// When very many users change at once, their grants of earlier versions end, and only they
// are looked up: a source may be slow.
func TestManyChangedUsersAloneAreLookedUp(t *testing.T) {
	st := storetest.SQLite.Open(t)
	list, err := denylist.New(t.Context(), denylist.Options{Store: st, Window: time.Minute, Skew: time.Minute, Keep: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	grant := func(subject, version string) string {
		t.Helper()
		now := st.Now()
		end := now.Add(time.Hour)
		g := denylist.Grant{ID: seal.NewID(end.Add(2 * time.Minute)), Subject: subject, ClientHash: "c", UserVersion: denylist.VersionHash(version), Created: now.Unix(), Expires: end.Unix()}
		if _, err := list.Use(t.Context(), st.Epoch(), g, 0, now); err != nil {
			t.Fatal(err)
		}
		return g.ID
	}
	live := map[string]bool{
		grant("ann", "1"): false, grant("ann", "2"): true, grant("gone", "1"): false, grant("ben", "1"): true, grant("eve", "2"): true,
	}
	changed := map[string]bool{"ann": true, "gone": true}
	for i := range 500 {
		changed[fmt.Sprint("other", i)] = true
	}
	source := counted{}
	if err := server.EndChanged(t.Context(), list, source, changed); err != nil || len(changed) != 0 {
		t.Fatalf("%v, and %d users are left", err, len(changed))
	}
	for id, want := range live {
		if g, err := list.Find(t.Context(), id); want != (err == nil) || !want && !errors.Is(err, denylist.ErrRevoked) {
			t.Errorf("a grant of %s: %v, want live %t", g.Subject, err, want)
		}
	}
	if len(source) != 2 || source["ann"] == 0 || source["gone"] == 0 {
		t.Errorf("looked up: %v, want only ann and gone", source)
	}
}

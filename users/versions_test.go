package users_test

import (
	"slices"
	"testing"
)

// Changed names the users whose sessions and grants have ended, and no others.
func TestChangedNamesTheUsersWhoseVersionMoved(t *testing.T) {
	f, _ := newFile(t)
	for _, name := range []string{"stays", "passwd", "disable", "remove", "again", "signout"} {
		add(t, f, name, "first "+name)
	}
	add(t, f, "off", "x")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(f.SetDisabled(t.Context(), "off", true))
	before := f.Versions()
	if list := before.Changed(f.Versions()); list != nil {
		t.Errorf("nothing was changed, but %q", list)
	}
	must(f.Passwd(t.Context(), "passwd", "second"))
	must(f.SetDisabled(t.Context(), "disable", true))
	must(f.Remove(t.Context(), "remove"))
	must(f.Remove(t.Context(), "again"))
	must(f.SignOut(t.Context(), "signout"))
	must(f.SetDisabled(t.Context(), "off", false))
	add(t, f, "again", "another person")
	add(t, f, "new", "x")
	list := before.Changed(f.Versions())
	slices.Sort(list)
	if want := []string{"again", "disable", "passwd", "remove", "signout"}; !slices.Equal(list, want) {
		t.Errorf("got %q, want %q", list, want)
	}
}

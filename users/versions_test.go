package users_test

import (
	"slices"
	"testing"
)

// Users whose sessions and grants have ended are told, also those that were there for a
// moment; no others are.
func TestUsersWhoseVersionMovedAreTold(t *testing.T) {
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
	var list []string
	f.OnChange(func(subjects []string) { list = append(list, subjects...) })
	f.Reload()
	if list != nil {
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
	f.Reload()
	must(f.Remove(t.Context(), "new"))
	f.Reload()
	f.Reload()
	slices.Sort(list)
	if want := []string{"again", "disable", "new", "passwd", "remove", "signout"}; !slices.Equal(slices.Compact(list), want) {
		t.Errorf("got %q, want %q", list, want)
	}
}

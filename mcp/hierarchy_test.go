package mcp_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"signet/internal/oauth"
	"signet/mcp"
)

func TestHierarchyExpands(t *testing.T) {
	const def = mcp.DefaultHierarchy
	all := []string{"read", "write", "admin", "audit"}
	for _, tt := range []struct {
		text        string
		known       []string
		scope, want string
		because     string
	}{
		{text: def, known: all, scope: "admin", want: "admin write read", because: "links chain"},
		{text: def, known: all, scope: "write", want: "write read", because: "the middle"},
		{text: def, known: all, scope: "read", want: "read", because: "the narrowest"},
		{text: def, known: all, scope: "read admin", want: "read admin write", because: "no duplicates"},
		{text: def, known: all, scope: "", want: "", because: "nothing implies nothing"},
		{text: def, known: all, scope: "ADMIN", want: "ADMIN", because: "names are case-sensitive"},
		{text: def, known: all, scope: "administrator", want: "administrator", because: "a prefix is another name"},
		{text: def, known: []string{"read", "write"}, scope: "admin write", want: "admin write read", because: "the default without admin"},
		{text: def, known: []string{"read", "admin"}, scope: "admin", want: "admin", because: "the default without its middle has no link"},
		{text: def, known: []string{"norman.read"}, scope: "norman.read", want: "norman.read", because: "the default does not apply"},
		{text: "admin>write>read, admin>audit", known: all, scope: "admin", want: "admin write audit read", because: "two chains"},
		{text: " admin > read ,\twrite>read", known: all, scope: "admin", want: "admin read", because: "spaces do not count"},
		{text: "admin>read,admin>read", known: all, scope: "admin", want: "admin read", because: "a link twice"},
		{text: "admin>write,admin>audit,write>read,audit>read", known: all, scope: "admin", want: "admin write audit read", because: "a diamond is no cycle"},
		{text: "off", known: all, scope: "admin", want: "admin", because: "off"},
		{text: "", known: all, scope: "admin", want: "admin", because: "none"},
	} {
		h, err := mcp.ParseHierarchy(tt.text, tt.known)
		if err != nil {
			t.Errorf("%s: %q: %v", tt.because, tt.text, err)
			continue
		}
		scope := strings.Fields(tt.scope)
		if got := oauth.FormatScope(h.Expand(scope)); got != tt.want {
			t.Errorf("%s: %q gives %q for %q, want %q", tt.because, tt.text, got, tt.scope, tt.want)
		}
	}
}

// The argument may be a part of a longer list.
func TestExpandLeavesItsArgument(t *testing.T) {
	h, err := mcp.ParseHierarchy("admin>read", []string{"admin", "read"})
	if err != nil {
		t.Fatal(err)
	}
	list := []string{"admin", "write"}
	h.Expand(list[:1])
	if diff := cmp.Diff([]string{"admin", "write"}, list); diff != "" {
		t.Errorf("the caller's list changed (-want +got):\n%s", diff)
	}
}

// Each row changes one thing of admin>write>read.
func TestWrongHierarchiesAreRefused(t *testing.T) {
	known := []string{"read", "write", "admin"}
	for text, want := range map[string]string{
		"admin>write>reed":                     "reed",
		"root>write>read":                      "root",
		"Admin>write>read":                     "Admin",
		"admin>write>":                         "no name",
		">write>read":                          "no name",
		"admin>>read":                          "no name",
		"admin":                                "not a chain",
		"admin>write>read,":                    "not a chain",
		"admin>write>read,write":               "not a chain",
		"admin write read":                     "not a chain",
		"admin>write read":                     "write read",
		"admin<write<read":                     "not a chain",
		"admin>write>admin":                    "implies itself",
		"admin>admin":                          "implies itself",
		"admin>write>read>admin":               "implies itself",
		"admin>write>read,read>admin":          "implies itself",
		"off,admin>read":                       "not a chain",
		"admin>off":                            "off",
		strings.Repeat("admin>", 400) + "read": "longer",
	} {
		if h, err := mcp.ParseHierarchy(text, known); err == nil {
			t.Errorf("%.40q: accepted as %v", text, h)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: error %q, want one about %q", text, err, want)
		}
	}
}

// An implied scope is known, is named in the text, and never implies the scope that implied
// it.
func FuzzHierarchy(f *testing.F) {
	for _, seed := range []string{
		mcp.DefaultHierarchy, "", "off", "a>b,b>c,c>a", "a>b>c", "a>a", ">", ",", "a>b,", "a> b\n>c", "*>a", "a>*", "a>b c", "A>b", "a\x00>b", "a>b\u00a0>c", "d>a",
	} {
		f.Add(seed, "a b c * read write admin")
	}
	f.Fuzz(func(t *testing.T, text, names string) {
		known, err := oauth.ParseScope(names)
		if err != nil {
			return
		}
		h, err := mcp.ParseHierarchy(text, known)
		if err != nil {
			return
		}
		for broad := range h {
			all := h.Expand([]string{broad})
			for _, implied := range all {
				if !slices.Contains(known, implied) || !strings.Contains(text, implied) {
					t.Errorf("%q implies %q, which is not known or not in %q", broad, implied, text)
				}
			}
			for _, implied := range all[1:] {
				if slices.Contains(h.Expand([]string{implied}), broad) {
					t.Errorf("%q and %q imply each other", broad, implied)
				}
			}
			if again := h.Expand(all); len(again) != len(all) {
				t.Errorf("%q is not expanded in one go: %q, then %q", broad, all, again)
			}
		}
	})
}

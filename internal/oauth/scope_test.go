package oauth_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"signet/internal/oauth"
)

func TestScopeKeepsItsOrderWithoutDuplicates(t *testing.T) {
	for s, want := range map[string][]string{
		"":                     nil,
		" ":                    nil,
		"read":                 {"read"},
		"write read write":     {"write", "read"},
		"  read  mcp:* ":       {"read", "mcp:*"},
		"https://x/a.b!~[]{}'": {"https://x/a.b!~[]{}'"},
	} {
		got, err := oauth.ParseScope(s)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%q: %v (-want +got):\n%s", s, err, diff)
		}
	}
}

func TestScopeAbuseIsRefused_B17(t *testing.T) {
	var many []string
	for i := range 200 {
		many = append(many, fmt.Sprint("s", i))
	}
	for _, s := range []string{`a"b`, `a\b`, "a\nb", "a\tb", "a\x00", "a\x7f", "é", strings.Join(many, " "), strings.Repeat("a", 5<<10), strings.Join(many[:51], " ")} {
		_, err := oauth.ParseScope(s)
		wantCode(t, err, oauth.InvalidScope)
	}
	if _, err := oauth.ParseScope(strings.Join(many[:50], " ")); err != nil {
		t.Error(err)
	}
	for _, all := range []string{"*", "all"} { // names like others
		if oauth.ScopeIsSubset([]string{"read"}, []string{all}) || oauth.IntersectScope([]string{all}, []string{"read"}) != nil {
			t.Errorf("%s is a wildcard", all)
		}
	}
}

// The description names the character in a way that the character set of descriptions has.
func TestScopeErrorNamesTheCharacter(t *testing.T) {
	for s, want := range map[string]string{`read "`: "U+0022", "a\tb": "U+0009", `a\b`: "U+005C", "read😀": "U+1F600", "é": "U+00E9", "\xff": "U+FFFD"} {
		_, err := oauth.ParseScope(s)
		if got, want := oauth.AsError(err).Description, "scope has a character that is not allowed: "+want; got != want {
			t.Errorf("%q: %s, want %s", s, got, want)
		}
	}
}

func TestScopeSubsetAndIntersection(t *testing.T) {
	for _, c := range []struct {
		scope, of, both string
		subset          bool
	}{
		{"", "", "", true},
		{"", "read", "", true},
		{"read", "read write", "read", true},
		{"write read", "read write", "write read", true},
		{"write admin read", "read write", "write read", false},
		{"Read", "read", "", false},
	} {
		scope, of := strings.Fields(c.scope), strings.Fields(c.of)
		if got := oauth.ScopeIsSubset(scope, of); got != c.subset {
			t.Errorf("%q within %q: %v, want %v", c.scope, c.of, got, c.subset)
		}
		if got := oauth.FormatScope(oauth.IntersectScope(scope, of)); got != c.both {
			t.Errorf("%q and %q: %q, want %q", c.scope, c.of, got, c.both)
		}
	}
}

// A parsed scope is the same after formatting and parsing, and has only names of the
// input.
func FuzzParseScope(f *testing.F) {
	for _, s := range []string{"read write", `a"b`, "a  b a", "é", "\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		scope, err := oauth.ParseScope(s)
		if err != nil {
			wantCode(t, err, oauth.InvalidScope)
			return
		}
		again, err := oauth.ParseScope(oauth.FormatScope(scope))
		if err != nil || !slices.Equal(again, scope) || !slices.Equal(scope, oauth.IntersectScope(scope, strings.Split(s, " "))) {
			t.Errorf("%q parsed to %q, then to %q (%v)", s, scope, again, err)
		}
	})
}

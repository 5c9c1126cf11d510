package oauth

import (
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	maxScopes    = 50
	maxScopeSize = 2 << 10 // bytes
)

// ParseScope splits a scope parameter (RFC 6749 §3.3). Duplicates are dropped, the
// order is kept, and "" is nil. No name is a wildcard. The error is invalid_scope, for
// characters outside the RFC's set, more than 50 names, or more than 2 KB.
func ParseScope(s string) ([]string, error) {
	if len(s) > maxScopeSize {
		return nil, Errorf(InvalidScope, "scope is longer than %d bytes", maxScopeSize)
	}
	var scope []string
	for name := range strings.SplitSeq(s, " ") {
		if name == "" || slices.Contains(scope, name) {
			continue // clients that join lists send double spaces
		}
		if i := strings.IndexFunc(name, notScopeChar); i >= 0 {
			r, _ := utf8.DecodeRuneInString(name[i:])
			return nil, Errorf(InvalidScope, "scope has a character that is not allowed: %U", r)
		}
		if len(scope) == maxScopes {
			return nil, Errorf(InvalidScope, "more than %d scopes", maxScopes)
		}
		scope = append(scope, name)
	}
	return scope, nil
}

// notScopeChar reports whether r is not in NQCHAR, %x21 / %x23-5B / %x5D-7E (RFC 6749
// Appendix A).
func notScopeChar(r rune) bool {
	return r <= 0x20 || r > 0x7e || r == '"' || r == '\\'
}

// FormatScope is the inverse of [ParseScope].
func FormatScope(scope []string) string { return strings.Join(scope, " ") }

// ScopeIsSubset reports whether every name in scope is in of.
func ScopeIsSubset(scope, of []string) bool {
	return !slices.ContainsFunc(scope, func(name string) bool { return !slices.Contains(of, name) })
}

// IntersectScope returns the names in scope that are in allowed, in scope's order.
func IntersectScope(scope, allowed []string) []string {
	var both []string
	for _, name := range scope {
		if slices.Contains(allowed, name) {
			both = append(both, name)
		}
	}
	return both
}

// ExpandScope returns scope, followed by all scopes that it implies: hierarchy has, for each scope,
// the next narrower ones. The array of scope is not changed.
func ExpandScope(hierarchy map[string][]string, scope []string) []string {
	all := slices.Clip(scope)
	for i := 0; i < len(all); i++ {
		for _, narrower := range hierarchy[all[i]] {
			if !slices.Contains(all, narrower) {
				all = append(all, narrower)
			}
		}
	}
	return all
}

package mcp

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"signet/internal/oauth"
)

// DefaultHierarchy is the hierarchy of a server without a setting for it. Links between
// scopes that the server does not have are left out.
const DefaultHierarchy = "admin>write>read"

// noHierarchy is the text of a hierarchy in which no scope implies another.
const noHierarchy = "off"

// maxHierarchy is the longest text of a hierarchy, in bytes.
const maxHierarchy = 2 << 10

// Hierarchy has, for each scope, the next narrower scopes, which it implies. It applies
// where a resource decides (MCP authorization, Step-Up Authorization Flow). Tokens carry
// the granted scopes and no implied ones.
type Hierarchy map[string][]string

// ParseHierarchy reads chains of scopes, the broadest first, as in
// "admin>write>read, admin>audit". Spaces around names are ignored. "" and "off" give nil.
// It returns an error if a scope implies itself, or is not known; in [DefaultHierarchy]
// links to unknown scopes are left out.
func ParseHierarchy(s string, known []string) (Hierarchy, error) {
	if len(s) > maxHierarchy {
		return nil, fmt.Errorf("longer than %d bytes", maxHierarchy)
	}
	if s == "" || s == noHierarchy {
		return nil, nil
	}
	h := Hierarchy{}
	for chain := range strings.SplitSeq(s, ",") {
		if err := h.add(chain, known, s == DefaultHierarchy); err != nil {
			return nil, err
		}
	}
	for scope, narrower := range h {
		if slices.Contains(h.Expand(narrower), scope) {
			return nil, fmt.Errorf("scope %q implies itself", scope)
		}
	}
	return h, nil
}

// add reads one chain.
func (h Hierarchy) add(chain string, known []string, skipUnknown bool) error {
	names := strings.Split(chain, ">")
	if len(names) < 2 {
		return fmt.Errorf("%q is not a chain of scopes such as %s", strings.TrimSpace(chain), DefaultHierarchy)
	}
	for i, name := range names {
		names[i] = strings.TrimSpace(name)
		if names[i] == "" {
			return errors.New("a scope has no name")
		}
		if !skipUnknown && !slices.Contains(known, names[i]) {
			return fmt.Errorf("%q is not a scope that exists", names[i])
		}
	}
	for i, broad := range names[:len(names)-1] {
		narrow := names[i+1]
		if slices.Contains(known, broad) && slices.Contains(known, narrow) && !slices.Contains(h[broad], narrow) {
			h[broad] = append(h[broad], narrow)
		}
	}
	return nil
}

// Expand returns scope, followed by all scopes that it implies.
func (h Hierarchy) Expand(scope []string) []string {
	return oauth.ExpandScope(h, scope)
}

package mcp

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// DefaultHierarchy is the hierarchy of a server that is not given one, as far as
// its scopes go.
const DefaultHierarchy = "admin>write>read"

// noHierarchy stands for a hierarchy without links: no scope implies another.
const noHierarchy = "off"

// maxHierarchy is the longest text of a hierarchy, in bytes.
const maxHierarchy = 2 << 10

// Hierarchy has, for each scope, the next narrower ones, which it implies. It
// counts where a resource decides (MCP authorization, Step-Up Authorization Flow).
// Tokens carry what was granted, no more.
type Hierarchy map[string][]string

// ParseHierarchy reads chains of scopes, the broadest first, as in
// "admin>write>read, admin>audit". Spaces around names do not count, and "" is
// nil like "off". A link to a scope that is not known is an error, in
// [DefaultHierarchy] it is left out. So is a scope that would imply itself.
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

// Expand returns scope with all that it implies behind it.
func (h Hierarchy) Expand(scope []string) []string {
	all := slices.Clip(scope) // what we append must not land in the caller's array
	for i := 0; i < len(all); i++ {
		for _, narrower := range h[all[i]] {
			if !slices.Contains(all, narrower) {
				all = append(all, narrower)
			}
		}
	}
	return all
}

package seal

import (
	"errors"
	"slices"
	"strings"
)

// Phase is how far the rotation of a root secret has come, as its list tells.
type Phase int

// The phases, in their order. A rotation begins and ends with Settled.
const (
	Settled Phase = iota // one root seals; others are for clients only, or there are none
	Begun                // the next root is known, and does not seal yet
	Turned               // it seals, and what the root before it sealed is still opened
)

// PhaseOf tells in which phase list is, which is one that [Parse] takes.
func PhaseOf(list string) Phase {
	phase := Settled
	for i, entry := range split(list) {
		switch {
		case strings.HasPrefix(entry, nextPrefix):
			return Begun
		case i > 0 && !strings.HasPrefix(entry, clientsPrefix):
			phase = Turned
		}
	}
	return phase
}

var errPhase = errors.New("this list of root secrets is in another phase of its rotation")

// Begin adds the next root to a Settled list: everybody must know it before anything
// is sealed under it.
func Begin(list, next string) (string, error) {
	if PhaseOf(list) != Settled {
		return "", errPhase
	}
	return join(slices.Insert(split(list), 1, nextPrefix+next)), nil
}

// Turn has the next root of a Begun list seal.
func Turn(list string) (string, error) {
	if PhaseOf(list) != Begun {
		return "", errPhase
	}
	entries := split(list)
	i := slices.IndexFunc(entries, func(e string) bool { return strings.HasPrefix(e, nextPrefix) })
	next := strings.TrimPrefix(entries[i], nextPrefix)
	return join(slices.Insert(slices.Delete(entries, i, i+1), 0, next)), nil
}

// Settle keeps all but the first root of a Turned list for clients only.
func Settle(list string) (string, error) {
	if PhaseOf(list) != Turned {
		return "", errPhase
	}
	entries := split(list)
	for i, e := range entries[1:] {
		if !strings.HasPrefix(e, clientsPrefix) {
			entries[i+1] = clientsPrefix + e
		}
	}
	return join(entries), nil
}

func split(list string) []string {
	entries := strings.Split(list, ",")
	for i, e := range entries {
		entries[i] = strings.TrimSpace(e)
	}
	return entries
}

func join(entries []string) string { return strings.Join(entries, ",") }

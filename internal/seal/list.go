package seal

import (
	"errors"
	"slices"
	"strings"
)

// Phase is the progress of a rotation of the root secret, as its list shows.
type Phase int

// The phases, in their order. A rotation begins and ends with Settled.
const (
	Settled Phase = iota // one root seals; any others are for clients only
	Begun                // the next root is known and does not seal yet
	Turned               // the next root seals; artefacts of the root before it still open
)

// PhaseOf returns the phase of list, which [Parse] must accept.
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

// Begin adds the next root to a Settled list: every replica must know the root
// before anything is sealed under it. A list in another phase is an error, here as
// in [Turn] and [Settle].
func Begin(list, next string) (string, error) {
	if PhaseOf(list) != Settled {
		return "", errPhase
	}
	return join(slices.Insert(split(list), 1, nextPrefix+next)), nil
}

// Turn makes the next root of a Begun list the one that seals.
func Turn(list string) (string, error) {
	if PhaseOf(list) != Begun {
		return "", errPhase
	}
	entries := split(list)
	i := slices.IndexFunc(entries, func(e string) bool { return strings.HasPrefix(e, nextPrefix) })
	next := strings.TrimPrefix(entries[i], nextPrefix)
	return join(slices.Insert(slices.Delete(entries, i, i+1), 0, next)), nil
}

// Settle keeps every root of a Turned list except the first for clients only.
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

package seal_test

import (
	"testing"

	"signet/internal/seal"
)

// A list goes through its phases and comes back to the first, and every root that
// ever sealed is still there for clients. A step from any other phase is refused.
func TestRotationGoesThroughItsPhasesInOrder(t *testing.T) {
	a, b, c := seal.NewSecret(), seal.NewSecret(), seal.NewSecret()
	begin := func(next string) func(string) (string, error) {
		return func(list string) (string, error) { return seal.Begin(list, next) }
	}
	steps := []struct {
		name  string
		do    func(string) (string, error)
		want  string
		phase seal.Phase
	}{
		{"begin", begin(b), a + ",next:" + b, seal.Begun},
		{"turn", seal.Turn, b + "," + a, seal.Turned},
		{"settle", seal.Settle, b + ",clients:" + a, seal.Settled},
		{"begin again", begin(c), b + ",next:" + c + ",clients:" + a, seal.Begun},
		{"turn again", seal.Turn, c + "," + b + ",clients:" + a, seal.Turned},
		{"settle again", seal.Settle, c + ",clients:" + b + ",clients:" + a, seal.Settled},
	}
	list := " " + a + " "
	for i, s := range steps {
		for j, other := range steps[:3] {
			if _, err := other.do(list); (err == nil) != (i%3 == j) {
				t.Errorf("before %s: %s gives error %v", s.name, other.name, err)
			}
		}
		next, err := s.do(list)
		if err != nil || next != s.want || seal.PhaseOf(next) != s.phase {
			t.Fatalf("%s: error %v, want the phase %d", s.name, err, s.phase)
		}
		if _, err := seal.Parse(next); err != nil {
			t.Errorf("%s: the list does not parse: %v", s.name, err)
		}
		list = next
	}
}

// Every artefact opens as long as it can be alive, through all phases; a registered
// client's id, and the secrets of clients, work for ever.
func TestRotationKeepsLivingArtefacts(t *testing.T) {
	a, b := seal.NewSecret(), seal.NewSecret()
	old := ring(t, a)
	client := mustSeal(t, old, seal.Client{Name: "n"})
	secret, err := old.ClientSecret(client)
	if err != nil {
		t.Fatal(err)
	}
	hash := old.SecretHash("app", "s3cret")
	short := samples(t, old) // kinds that expire
	delete(short, "client")
	k := ring(t, a)
	for _, list := range []string{a, a + ",next:" + b, b + "," + a, b + ",clients:" + a} {
		k.Become(ring(t, list))
		last := seal.PhaseOf(list) == seal.Settled && list != a
		for kind, raw := range short {
			if refused := kinds[kind](k, raw) == nil; refused != last {
				t.Errorf("phase %d, %s: refused %v, want %v", seal.PhaseOf(list), kind, refused, last)
			}
		}
		if got, err := k.ClientSecret(client); err != nil || got != secret {
			t.Errorf("phase %d: secret of the registered client: error %v, or another secret", seal.PhaseOf(list), err)
		}
		if _, err := seal.Open[seal.Client](k, client); err != nil || !k.SecretMatches("app", "s3cret", hash) {
			t.Errorf("phase %d: registered client: error %v; secret of the configured client matches: %v", seal.PhaseOf(list), err, k.SecretMatches("app", "s3cret", hash))
		}
	}
}

package seal_test

import (
	"testing"

	"signet/internal/seal"
)

// While the root secret is being replaced, an answer is sealed for the key of the server that asks.
func TestUpstreamTokenIsSealedForTheKeyThatAsks(t *testing.T) {
	old, next := seal.NewSecret(), seal.NewSecret()
	before, err := seal.Parse(old)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.ParseUpstreamKeys(before.UpstreamKeys())
	if err != nil {
		t.Fatal(err)
	}
	proof, err := keys.Prove("message")
	if err != nil {
		t.Fatal(err)
	}
	u := seal.Upstream{GrantID: "g", Provider: "corp", Access: "token"}
	for name, tt := range map[string]struct {
		secrets, message string
		ok               bool
	}{
		"the same secret":      {old, "message", true},
		"a newer secret":       {next + "," + old, "message", true},
		"another message":      {next + "," + old, "other", false},
		"for clients only":     {next + ",clients:" + old, "message", false},
		"none of the issuer's": {next, "message", false},
	} {
		ring, err := seal.Parse(tt.secrets)
		if err != nil {
			t.Fatal(err)
		}
		if ring.ProvesUpstream(tt.message, proof) != tt.ok {
			t.Errorf("%s: the proof counts: %v", name, !tt.ok)
		}
		sealed, err := ring.SealUpstream(u, tt.message, proof)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
		if !tt.ok {
			continue
		}
		if got, err := keys.Open(sealed); err != nil || got != u {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

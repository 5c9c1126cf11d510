package state_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"signet/internal/seal"
	"signet/internal/state"
	"signet/internal/vault"
)

// Accounts and tokens have no end, so a rotation of the root secret seals them again, also those
// that a slow request stored under the old root after the rotation.
func TestRotationKeepsAccountsAndTokens(t *testing.T) {
	data := state.Data{Dir: t.TempDir()}
	old, err := state.Prepare(t.Context(), data)
	if err != nil {
		t.Fatal(err)
	}
	store := func(ring *seal.Keyring, subject string) {
		st, err := state.OpenStore(t.Context(), data)
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		v := vault.New(vault.Options{Store: st, Ring: ring})
		defer v.Close()
		if _, err := v.SignedIn(t.Context(), vault.Account{Account: seal.Account{Subject: subject, Name: subject + " name"}}); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Put(t.Context(), seal.Credential{Subject: subject, Provider: "corp", Access: subject + " access"}); err != nil {
			t.Fatal(err)
		}
	}
	rotate := func(finish bool) string {
		var said strings.Builder
		r := state.SecretRotation{Data: data, Finish: finish, Now: true, Lives: time.Hour, Say: func(format string, args ...any) { fmt.Fprintf(&said, format+"\n", args...) }}
		if err := r.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		return said.String()
	}
	store(old, "ann")
	if said := rotate(false); !strings.Contains(said, "1 accounts and the tokens of 1") {
		t.Errorf("the rotation says\n%s", said)
	}
	store(old, "late")
	rotate(true)
	ring, err := data.Ring()
	if err != nil {
		t.Fatal(err)
	}
	if len(ring.RetiredRoots()) != 1 {
		t.Fatalf("roots %v: the rotation is not finished", ring.Roots())
	}
	st, err := state.OpenStore(t.Context(), data)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	v := vault.New(vault.Options{Store: st, Ring: ring})
	defer v.Close()
	for _, subject := range []string{"ann", "late"} {
		if a, err := v.Account(t.Context(), subject); err != nil || a.Name != subject+" name" {
			t.Errorf("account of %s: %q, %v", subject, a.Name, err)
		}
		if e, err := v.Get(t.Context(), subject, "corp"); err != nil || e.Access != subject+" access" {
			t.Errorf("tokens of %s: %v", subject, err)
		}
	}
}

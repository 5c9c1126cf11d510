package vault_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signet/internal/seal"
	"signet/internal/store"
	"signet/internal/test/storetest"
	"signet/internal/vault"
)

const (
	ann  = "upstream:corp:1"
	bob  = "upstream:corp:2"
	corp = "corp"
)

func ring(t testing.TB, secrets ...string) *seal.Keyring {
	t.Helper()
	if len(secrets) == 0 {
		secrets = []string{seal.NewSecret()}
	}
	k, err := seal.Parse(strings.Join(secrets, ","))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newVault(t testing.TB, s *store.Store, k *seal.Keyring) *vault.Vault {
	t.Helper()
	v := vault.New(vault.Options{Store: s, Ring: k})
	t.Cleanup(v.Close)
	return v
}

// open returns a vault on a store of its own.
func open(t testing.TB, e storetest.Engine) (*vault.Vault, *store.Store, *seal.Keyring) {
	t.Helper()
	s, k := e.Open(t), ring(t)
	return newVault(t, s, k), s, k
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantErr expects an error of what was done.
func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func write(t testing.TB, s *store.Store, query string, args ...any) {
	t.Helper()
	check(t, s.Write(t.Context(), func(tx store.Tx) error {
		if _, err := tx.Exec(query, args...); err != nil {
			return err
		}
		_, err := tx.Exec("UPDATE meta SET last_seen = last_seen") // a store commits what changes rows
		return err
	}))
}

func annsAccount() vault.Account {
	return vault.Account{Provider: corp, Session: "sid-1", Account: seal.Account{Subject: ann, Name: "ann.name", Email: "ann@corp.example",
		DisplayName: "Ann Display", Picture: "https://corp.example/ann.png", Scopes: []string{"read"}}}
}

func tokens(subject, access string) seal.Credential {
	return seal.Credential{Subject: subject, Provider: corp, Bound: "bound", Access: access, Refresh: access + "-refresh", Scope: []string{"openid"}, Obtained: 1, Expires: 2}
}

func TestSignInKeepsWhatTheProviderSaid(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		v, s, _ := open(t, e)
		_, err := v.Account(t.Context(), ann)
		wantErr(t, "before the first sign-in", err, vault.ErrUnknown)
		first := must[vault.Account](t)(v.SignedIn(t.Context(), annsAccount()))
		if first.Version == "" || first.Created == 0 || first.Seen != first.Created || first.Disabled || first.Session != "" {
			t.Errorf("the first sign-in made %+v", first)
		}
		write(t, s, "UPDATE accounts SET created_at = 7, seen_at = 8")
		again := annsAccount()
		again.DisplayName, again.Provider = "Ann Other", "forge"
		got := must[vault.Account](t)(v.SignedIn(t.Context(), again))
		want := again
		want.Session, want.Version, want.Created, want.Seen = "", first.Version, 7, got.Seen
		if diff := cmp.Diff(want, got); diff != "" || got.Seen < first.Seen {
			t.Errorf("the second sign-in, seen at %d (-want +got):\n%s", got.Seen, diff)
		}
		if diff := cmp.Diff(want, must[vault.Account](t)(v.Account(t.Context(), ann))); diff != "" {
			t.Errorf("what is kept (-want +got):\n%s", diff)
		}
	})
}

func TestDisabledUserDoesNotSignIn(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		v, _, _ := open(t, e)
		before := must[vault.Account](t)(v.SignedIn(t.Context(), annsAccount()))
		check(t, v.SetDisabled(t.Context(), ann, true))
		changed := annsAccount()
		changed.Email, changed.Session = "other@corp.example", "sid-2"
		_, err := v.SignedIn(t.Context(), changed)
		wantErr(t, "sign-in of a disabled user", err, vault.ErrDisabled)
		disabled := must[vault.Account](t)(v.Account(t.Context(), ann))
		if !disabled.Disabled || disabled.Version == before.Version || disabled.Email != before.Email {
			t.Errorf("disabled: %+v", disabled)
		}
		if subjects := must[[]string](t)(v.BySession(t.Context(), corp, "sid-2")); len(subjects) > 0 {
			t.Errorf("a refused sign-in has a session of %v", subjects)
		}
		check(t, v.SetDisabled(t.Context(), ann, true))
		if again := must[vault.Account](t)(v.Account(t.Context(), ann)); again.Version != disabled.Version {
			t.Error("disabling a disabled user changed the version")
		}
		check(t, v.SetDisabled(t.Context(), ann, false))
		after := must[vault.Account](t)(v.SignedIn(t.Context(), changed))
		if after.Disabled || after.Version == before.Version || after.Version == disabled.Version {
			t.Errorf("enabled: %+v; before %s, disabled %s", after, before.Version, disabled.Version)
		}
	})
}

func TestEndOfSessionsAndRemovalMoveTheVersion(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		v, _, _ := open(t, e)
		first := must[vault.Account](t)(v.SignedIn(t.Context(), annsAccount())).Version
		versions := map[string]bool{first: true}
		for range 2 { // a later end does not lengthen it
			check(t, v.EndSessions(t.Context(), ann))
			version := must[vault.Account](t)(v.Account(t.Context(), ann)).Version
			if vault.Identity(version) != vault.Identity(first) || len(version) > 2*len(first)+1 {
				t.Errorf("version %s after %s, want the same identity", version, first)
			}
			versions[version] = true
		}
		must[vault.Entry](t)(v.Put(t.Context(), tokens(ann, "a")))
		check(t, v.Remove(t.Context(), ann))
		_, err := v.Account(t.Context(), ann)
		wantErr(t, "a removed user", err, vault.ErrUnknown)
		if subjects := must[[]string](t)(v.BySession(t.Context(), corp, "sid-1")); len(subjects) > 0 {
			t.Errorf("a removed user has a session: %v", subjects)
		}
		must[vault.Entry](t)(v.Take(t.Context(), ann, corp)) // still there, to be revoked
		later := must[vault.Account](t)(v.SignedIn(t.Context(), annsAccount())).Version
		versions[later] = true
		if len(versions) != 4 || vault.Identity(later) == vault.Identity(first) {
			t.Errorf("versions %v, want 4, the last, %s, with another identity", versions, later)
		}
		for name, do := range map[string]func(string) error{
			"disable":      func(sub string) error { return v.SetDisabled(t.Context(), sub, true) },
			"enable":       func(sub string) error { return v.SetDisabled(t.Context(), sub, false) },
			"end sessions": func(sub string) error { return v.EndSessions(t.Context(), sub) },
			"remove":       func(sub string) error { return v.Remove(t.Context(), sub) },
		} {
			for _, subject := range []string{bob, "", "a\x00b", "\xff", strings.Repeat("x", 5000)} {
				wantErr(t, name+" of an unknown user", do(subject), vault.ErrUnknown)
			}
		}
	})
}

// Logout at a provider names a session, of which a user may have several there.
func TestSessionsLeadToTheirUsers(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		v, _, _ := open(t, e)
		signIn := func(subject, provider, sid string) {
			a := vault.Account{Provider: provider, Session: sid, Account: seal.Account{Subject: subject}}
			must[vault.Account](t)(v.SignedIn(t.Context(), a))
		}
		signIn(bob, corp, "both")
		for i := range vault.MostSessions + 2 {
			signIn(ann, corp, fmt.Sprint("sid-", i))
			time.Sleep(time.Millisecond) // a later one
		}
		signIn(ann, corp, "both")
		signIn(ann, corp, "")
		for sid, want := range map[string]string{"sid-0": "[]", "sid-2": "[]", "sid-3": "[" + ann + "]", fmt.Sprint("sid-", vault.MostSessions+1): "[" + ann + "]", "both": "[" + ann + " " + bob + "]", "": "[]", "other\x00": "[]"} {
			if got := fmt.Sprint(must[[]string](t)(v.BySession(t.Context(), corp, sid))); got != want {
				t.Errorf("session %q: %s, want %s", sid, got, want)
			}
		}
		if got := must[[]string](t)(v.BySession(t.Context(), "forge", "both")); len(got) > 0 {
			t.Errorf("the session of another provider leads to %v", got)
		}
	})
}

func TestAccountsAndEntriesAreListedByPage(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		v, _, _ := open(t, e)
		for _, id := range []string{"B", "a", "C", "ä"} {
			must[vault.Account](t)(v.SignedIn(t.Context(), vault.Account{Account: seal.Account{Subject: id}}))
			for _, provider := range []string{"2", "1"} {
				must[vault.Entry](t)(v.Put(t.Context(), seal.Credential{Subject: id, Provider: provider}))
			}
		}
		var accounts, entries []string
		for after := ""; ; {
			page := must[[]vault.Account](t)(v.Accounts(t.Context(), after, 3))
			if len(page) == 0 {
				break
			}
			for _, a := range page {
				accounts = append(accounts, a.Subject)
			}
			after = page[len(page)-1].Subject
		}
		for after := (vault.Entry{}); ; {
			page := must[[]vault.Entry](t)(v.Entries(t.Context(), after.Subject, after.Provider, 3))
			if len(page) == 0 {
				break
			}
			for _, e := range page {
				entries = append(entries, e.Subject+e.Provider)
				if e.Version != 1 || e.Changed == 0 {
					t.Errorf("%+v", e)
				}
			}
			after = page[len(page)-1]
		}
		if got, want := fmt.Sprint(accounts, entries), "[B C a ä] [B1 B2 C1 C2 a1 a2 ä1 ä2]"; got != want {
			t.Errorf("listed %s, want %s", got, want)
		}
	})
}

func TestTokensArePutAndTaken(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		v, _, _ := open(t, e)
		for i := range int64(3) {
			c := tokens(ann, fmt.Sprint("access-", i))
			put := must[vault.Entry](t)(v.Put(t.Context(), c))
			if diff := cmp.Diff(vault.Entry{Credential: c, Version: i + 1, Changed: put.Changed}, put); diff != "" || put.Changed == 0 {
				t.Errorf("put at %d (-want +got):\n%s", put.Changed, diff)
			}
			if diff := cmp.Diff(put, must[vault.Entry](t)(v.Get(t.Context(), ann, corp))); diff != "" {
				t.Errorf("got something else (-want +got):\n%s", diff)
			}
		}
		for _, id := range [][2]string{{bob, corp}, {ann, "forge"}, {"a\x00", corp}, {ann, "\xff"}, {"", ""}} {
			_, err := v.Get(t.Context(), id[0], id[1])
			wantErr(t, fmt.Sprintf("get of %q", id), err, vault.ErrUnknown)
			_, err = v.Take(t.Context(), id[0], id[1])
			wantErr(t, fmt.Sprintf("take of %q", id), err, vault.ErrUnknown)
		}
		var mu sync.Mutex
		var taken []vault.Entry
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				got, err := v.Take(t.Context(), ann, corp)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					taken = append(taken, got)
				} else if !errors.Is(err, vault.ErrUnknown) {
					t.Errorf("take: %v", err)
				}
			})
		}
		all.Wait()
		if len(taken) != 1 || taken[0].Access != "access-2" || taken[0].Version != 3 {
			t.Errorf("taken: %d entries, want the one", len(taken))
		}
	})
}

// What the store cannot find again, or could not open again, is refused and changes nothing.
func TestUnfitIDsAndSizesAreRefused(t *testing.T) {
	v, _, _ := open(t, storetest.SQLite)
	for name, c := range map[string]func(*seal.Credential){
		"no subject":         func(c *seal.Credential) { c.Subject = "" },
		"NUL in the subject": func(c *seal.Credential) { c.Subject = "a\x00" },
		"long subject":       func(c *seal.Credential) { c.Subject = strings.Repeat("x", 1025) },
		"not UTF-8":          func(c *seal.Credential) { c.Provider = "\xff" },
		"long provider":      func(c *seal.Credential) { c.Provider = strings.Repeat("x", 129) },
		"huge token":         func(c *seal.Credential) { c.Access = strings.Repeat("x", 256<<10) },
	} {
		good := tokens(ann, "a")
		c(&good)
		if _, err := v.Put(t.Context(), good); err == nil || errors.Is(err, store.ErrUnavailable) {
			t.Errorf("tokens, %s: %v, want a refusal", name, err)
		}
		a := annsAccount()
		a.Subject, a.Provider, a.Picture = good.Subject, good.Provider, good.Access
		if _, err := v.SignedIn(t.Context(), a); err == nil || errors.Is(err, store.ErrUnavailable) {
			t.Errorf("account, %s: %v, want a refusal", name, err)
		}
	}
	if list := must[[]vault.Account](t)(v.Accounts(t.Context(), "", 10)); len(list) > 0 {
		t.Errorf("refused accounts are kept: %d", len(list))
	}
	long := annsAccount()
	long.DisplayName = strings.Repeat("x", 50<<10)
	must[vault.Account](t)(v.SignedIn(t.Context(), long))
	if got := must[vault.Account](t)(v.Account(t.Context(), ann)); got.DisplayName != long.DisplayName {
		t.Error("a long account is not kept")
	}
}

// Without the root secret that sealed it, a row counts as missing, and is there again with it.
func TestOtherRootReadsNothing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		v, s, _ := open(t, e)
		must[vault.Account](t)(v.SignedIn(t.Context(), annsAccount()))
		must[vault.Entry](t)(v.Put(t.Context(), tokens(ann, "a")))
		var log bytes.Buffer
		other := vault.New(vault.Options{Store: s, Ring: ring(t), Log: slog.New(slog.NewTextHandler(&log, nil))})
		defer other.Close()
		for range 2 {
			_, err := other.Account(t.Context(), ann)
			wantErr(t, "account", err, vault.ErrUnknown)
			_, err = other.Get(t.Context(), ann, corp)
			wantErr(t, "get", err, vault.ErrUnknown)
			_, err = other.Take(t.Context(), ann, corp)
			wantErr(t, "take", err, vault.ErrUnknown)
			_, err = other.Refresh(t.Context(), ann, corp, 1, never(t))
			wantErr(t, "refresh", err, vault.ErrUnknown)
		}
		if n := strings.Count(log.String(), "\n"); n != 2 || !strings.Contains(log.String(), ann) {
			t.Errorf("%d lines, want one of the account and one of the tokens:\n%s", n, log.String())
		}
		list := must[[]vault.Account](t)(other.Accounts(t.Context(), "", 10))
		if len(list) != 1 || list[0].Subject != ann || list[0].Email != "" {
			t.Errorf("listed %+v", list)
		}
		if got := must[vault.Entry](t)(v.Get(t.Context(), ann, corp)); got.Access != "a" {
			t.Error("the tokens are gone for the right root too")
		}
		check(t, other.SetDisabled(t.Context(), ann, true))
		if a := must[vault.Account](t)(other.Account(t.Context(), ann)); !a.Disabled {
			t.Error("an account that cannot be opened is not disabled")
		}
		if put := must[vault.Entry](t)(other.Put(t.Context(), tokens(ann, "b"))); put.Version != 2 {
			t.Errorf("tokens in place of others that cannot be opened have version %d, want 2", put.Version)
		}
	})
}

// Who can write to the database cannot give a user the tokens or the account of another.
func TestRowOfAnotherUserIsNotOpened_INV19(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		v, s, _ := open(t, e)
		for _, subject := range []string{ann, bob} {
			must[vault.Account](t)(v.SignedIn(t.Context(), vault.Account{Provider: corp, Account: seal.Account{Subject: subject}}))
			must[vault.Entry](t)(v.Put(t.Context(), tokens(subject, subject)))
		}
		for _, table := range []string{"accounts", "credentials"} {
			write(t, s, "UPDATE "+table+" SET sealed = (SELECT sealed FROM "+table+" WHERE sub = $1) WHERE sub = $2", bob, ann)
		}
		_, err := v.Account(t.Context(), ann)
		wantErr(t, "account", err, vault.ErrUnknown)
		_, err = v.Get(t.Context(), ann, corp)
		wantErr(t, "tokens", err, vault.ErrUnknown)
		write(t, s, "UPDATE credentials SET provider = 'forge' WHERE sub = $1", bob)
		_, err = v.Get(t.Context(), bob, "forge")
		wantErr(t, "tokens of another provider", err, vault.ErrUnknown)
	})
}

func TestRowsHaveNothingInClear_INV16(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		v, s, _ := open(t, e)
		a, c := annsAccount(), tokens(ann, "access-token")
		must[vault.Account](t)(v.SignedIn(t.Context(), a))
		must[vault.Entry](t)(v.Put(t.Context(), c))
		var rows strings.Builder
		check(t, s.Dump(t.Context(), func(table store.Table, values []any) error {
			fmt.Fprintln(&rows, table.Name, values)
			return nil
		}))
		for _, secret := range []string{a.Name, a.Email, a.DisplayName, a.Picture, a.Session, c.Access, c.Refresh} {
			if secret == "" || strings.Contains(rows.String(), secret) {
				t.Errorf("%q is in clear in\n%s", secret, rows.String())
			}
		}
		if n := strings.Count(rows.String(), ann); n != 3 {
			t.Errorf("the subject is in %d rows, want 3: account, session, tokens", n)
		}
	})
}

// A rotation of the root secret leaves nothing that needs the old root, and changes nothing
// that was written meanwhile.
func TestResealedRowsNeedNoOldRoot(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		s := e.Open(t)
		old, next := seal.NewSecret(), seal.NewSecret()
		before, both, after := newVault(t, s, ring(t, old)), ring(t, next, old), newVault(t, s, ring(t, next))
		const n = vault.ResealPage + 1
		for i := range n {
			subject := fmt.Sprintf("upstream:corp:%04d", i)
			must[vault.Account](t)(before.SignedIn(t.Context(), vault.Account{Account: seal.Account{Subject: subject}}))
			must[vault.Entry](t)(before.Put(t.Context(), tokens(subject, "t")))
		}
		must[vault.Entry](t)(newVault(t, s, ring(t)).Put(t.Context(), tokens(bob, "of no root")))
		first := "upstream:corp:0000"
		check(t, before.Die(t.Context(), first, corp)) // a claim lasts through the rotation
		for _, want := range []int{n, 0} {
			accounts, credentials, err := vault.Reseal(t.Context(), s, both)
			if err != nil || accounts != want || credentials != want {
				t.Errorf("resealed %d accounts and %d tokens (%v), want %d of each", accounts, credentials, err, want)
			}
		}
		for i := range n {
			subject := fmt.Sprintf("upstream:corp:%04d", i)
			must[vault.Account](t)(after.Account(t.Context(), subject))
			if got := must[vault.Entry](t)(after.Get(t.Context(), subject, corp)); got.Version != 1 {
				t.Fatalf("version %d after the rotation, want 1", got.Version)
			}
		}
		_, err := before.Get(t.Context(), first, corp)
		wantErr(t, "with the old root", err, vault.ErrUnknown)
		var claim string
		check(t, s.Read(t.Context(), func(tx store.Tx) error {
			return tx.QueryRow("SELECT claim FROM credentials WHERE sub = $1", first).Scan(&claim)
		}))
		if claim == "" {
			t.Error("the rotation has ended a claim")
		}
	})
}

// A million accounts slow no request: each query finds its rows by a key, and reads no others.
func TestQueriesReadByKey(t *testing.T) {
	_, s, _ := open(t, storetest.SQLite)
	for _, query := range vault.Queries {
		args := []any{"a", "b", 10}[:strings.Count(query, "$")]
		var plan strings.Builder
		check(t, s.Read(t.Context(), func(tx store.Tx) error {
			plan.Reset()
			rows, err := tx.Query("EXPLAIN QUERY PLAN "+query, args...)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var id, parent, unused int64
				var detail string
				if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
					return err
				}
				fmt.Fprintln(&plan, detail)
			}
			return rows.Err()
		}))
		if !strings.HasPrefix(plan.String(), "SEARCH ") || !strings.Contains(plan.String(), "PRIMARY KEY") || strings.Contains(plan.String(), "TEMP B-TREE") {
			t.Errorf("%s\nreads\n%s", query, plan.String())
		}
	}
}

// An entry that is added leaves the one that there is.
func TestAddKeepsTheEntryThatThereIs(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		v, s, _ := open(t, e)
		first, err := v.Add(t.Context(), seal.Credential{Subject: "u", Provider: "connection:x", Access: "1"})
		if err != nil || first.Version != 1 || first.Access != "1" {
			t.Fatalf("%+v, %v", first, err)
		}
		second, err := v.Add(t.Context(), seal.Credential{Subject: "u", Provider: "connection:x", Access: "2"})
		if err != nil || second.Version != 1 || second.Access != "1" {
			t.Errorf("%+v, %v", second, err)
		}
		if _, err := v.Add(t.Context(), seal.Credential{Provider: "connection:x"}); err == nil {
			t.Error("without a subject")
		}
		other := newVault(t, s, ring(t)) // another root secret
		if third, err := other.Add(t.Context(), seal.Credential{Subject: "u", Provider: "connection:x", Access: "3"}); err != nil || third.Version != 2 || third.Access != "3" {
			t.Errorf("in place of an entry that cannot be read: %+v, %v", third, err)
		}
	})
}

// A use is noted without another version, unless the tokens have changed, or are being refreshed.
func TestUseIsNoted(t *testing.T) {
	storetest.Each(t, func(t *testing.T, e storetest.Engine) {
		v, _, _ := open(t, e)
		first := must[vault.Entry](t)(v.Put(t.Context(), tokens(ann, "first")))
		used := func() int64 { return must[vault.Entry](t)(v.Get(t.Context(), ann, corp)).Used }
		check(t, v.Use(t.Context(), ann, corp, first.Version, 1000))
		if got := must[vault.Entry](t)(v.Get(t.Context(), ann, corp)); got.Used != 1000 || got.Version != first.Version || got.Access != "first" {
			t.Errorf("used %d, version %d, %s", got.Used, got.Version, got.Access)
		}
		check(t, v.Use(t.Context(), ann, corp, first.Version+1, 2000))
		if used() != 1000 {
			t.Error("the use of another version was noted")
		}
		check(t, v.Die(t.Context(), ann, corp)) // while somebody refreshes them
		check(t, v.Use(t.Context(), ann, corp, first.Version, 3000))
		if used() != 1000 {
			t.Error("the use of tokens that are being refreshed was noted")
		}
		wantErr(t, "no tokens", v.Use(t.Context(), bob, corp, 1, 1), vault.ErrUnknown)
	})
}

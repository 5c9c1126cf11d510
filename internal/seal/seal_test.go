package seal_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signet/internal/seal"
)

func ring(t testing.TB, list ...string) *seal.Keyring {
	t.Helper()
	if len(list) == 0 {
		list = []string{seal.NewSecret()}
	}
	k, err := seal.Parse(strings.Join(list, ","))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mustSeal[T seal.Artefact](t testing.TB, k *seal.Keyring, v T) string {
	t.Helper()
	raw, err := seal.Seal(k, v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func refuses[T seal.Artefact](k *seal.Keyring, raw string) error {
	got, err := seal.Open[T](k, raw)
	if !errors.Is(err, seal.ErrInvalid) {
		return fmt.Errorf("opened as %T: %+v, error %v; want ErrInvalid", got, got, err)
	}
	return nil
}

// kinds opens a string as each kind of artefact.
var kinds = map[string]func(*seal.Keyring, string) error{
	"code":        refuses[seal.Code],
	"refresh":     refuses[seal.Refresh],
	"login":       refuses[seal.Login],
	"session":     refuses[seal.Session],
	"client":      refuses[seal.Client],
	"signing key": refuses[seal.SigningKey],
	"backup":      refuses[seal.Backup],
	"setting":     refuses[seal.Setting],
}

func samples(t testing.TB, k *seal.Keyring) map[string]string {
	grant := seal.Grant{ID: seal.NewID(time.Unix(2e9, 0)), Epoch: "e", Subject: "ann", Scope: []string{"read"}, Resource: "https://mcp.example/mcp"}
	return map[string]string{
		"code":        mustSeal(t, k, seal.Code{Grant: grant, RedirectURI: "https://app.example/cb", Challenge: "c"}),
		"refresh":     mustSeal(t, k, seal.Refresh{Grant: grant, Gen: 1}),
		"login":       mustSeal(t, k, seal.Login{ID: "1", ClientID: "c"}),
		"session":     mustSeal(t, k, seal.Session{ID: "1", Subject: "ann"}),
		"client":      mustSeal(t, k, seal.Client{Name: "n", RedirectURIs: []string{"https://app.example/cb"}, Method: "none"}),
		"signing key": mustSeal(t, k, seal.SigningKey{KeyID: "k", Private: []byte("d")}),
		"backup":      mustSeal(t, k, seal.Backup{Sum: []byte("s")}),
		"setting":     mustSeal(t, k, seal.Setting{Value: "v", Sealed: 1}),
	}
}

func TestSealedArtefactOpensUnchanged(t *testing.T) {
	k := ring(t)
	want := seal.Refresh{Gen: 7, Expires: 12, Grant: seal.Grant{ID: "i", Epoch: "e", Subject: "ann", UserVersion: "3", ClientHash: "h",
		ClientName: "Näme", ConsentHash: "c", Scope: []string{"read", "write"}, Resource: "https://mcp.example/mcp", AuthTime: 5, Expires: 9}}
	raw := mustSeal(t, k, want)
	got, err := seal.Open[seal.Refresh](k, raw)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the opened handle differs (-want +got):\n%s", diff)
	}
	if !regexp.MustCompile(`^[A-Za-z0-9_-]+$`).MatchString(raw) {
		t.Errorf("%q has characters that a URL must escape", raw)
	}
	if mustSeal(t, k, want) == raw {
		t.Error("two seals of one value are equal: the nonce is not fresh")
	}
}

// An artefact presented as any other kind is refused.
func TestArtefactOpensOnlyAsItsKind_D10(t *testing.T) {
	k := ring(t)
	for made, raw := range samples(t, k) {
		for opened, refuses := range kinds {
			if made == opened {
				continue
			}
			if err := refuses(k, raw); err != nil {
				t.Errorf("%s as a %s: %v", made, opened, err)
			}
		}
	}
}

// An artefact with a changed bit, a cut, an addition or in another spelling is
// refused.
func TestForgedArtefactIsRefused_D10(t *testing.T) {
	k := ring(t)
	for kind, raw := range samples(t, k) {
		refuses := kinds[kind]
		b, _ := base64.RawURLEncoding.DecodeString(raw)
		for i := range b {
			for bit := range 8 {
				forged := slices.Clone(b)
				forged[i] ^= 1 << bit
				if err := refuses(k, base64.RawURLEncoding.EncodeToString(forged)); err != nil {
					t.Errorf("%s with bit %d of byte %d flipped: %v", kind, bit, i, err)
				}
			}
		}
		for n := range raw {
			if err := refuses(k, raw[:n]); err != nil {
				t.Errorf("%s cut to %d characters: %v", kind, n, err)
			}
		}
		for name, other := range map[string]string{
			"appended":          raw + "A",
			"padded":            raw + "=",
			"line break inside": raw[:9] + "\n" + raw[9:],
			"line break after":  raw + "\r\n",
			"space":             " " + raw,
			"standard alphabet": strings.NewReplacer("-", "+", "_", "/").Replace(raw) + "+",
			"twice":             raw + raw,
			"too long":          strings.Repeat("A", seal.MaxSize+1),
		} {
			if err := refuses(k, other); err != nil {
				t.Errorf("%s, %s: %v", kind, name, err)
			}
		}
		if err := refuses(ring(t), raw); err != nil {
			t.Errorf("%s under another root: %v", kind, err)
		}
	}
}

// Trailing bits that base64 ignores would make a second spelling of one artefact.
func TestTrailingBitsAreRefused_D10(t *testing.T) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	k := ring(t)
	tried := 0
	for n := range 3 { // three lengths, so at least two have unused bits at the end
		raw := mustSeal(t, k, seal.Session{ID: strings.Repeat("x", n)})
		last := strings.IndexByte(alphabet, raw[len(raw)-1])
		unused := map[int]int{2: 4, 3: 2}[len(raw)%4]
		for bits := 1; bits < 1<<unused; bits++ {
			tried++
			if err := refuses[seal.Session](k, raw[:len(raw)-1]+string(alphabet[last|bits])); err != nil {
				t.Errorf("length %d: %v", len(raw), err)
			}
		}
	}
	if tried == 0 {
		t.Fatal("no length had unused bits")
	}
}

func TestRetiredRootOpensOnlyClients(t *testing.T) {
	old, next := seal.NewSecret(), seal.NewSecret()
	before := ring(t, old)
	code, client := mustSeal(t, before, seal.Code{RedirectURI: "r"}), mustSeal(t, before, seal.Client{Name: "n"})
	secret, err := before.ClientSecret(client)
	if err != nil {
		t.Fatal(err)
	}

	during := ring(t, next, old)
	if _, err := seal.Open[seal.Code](during, code); err != nil {
		t.Errorf("code of the old root while the list has it: %v", err)
	}
	if !during.HasFingerprint(before.Fingerprint()) {
		t.Error("the fingerprint of the store's root is unknown while the list has the root")
	}
	after := ring(t, next, "clients:"+old)
	if err := refuses[seal.Code](after, code); err != nil {
		t.Errorf("code of a root kept for clients only: %v", err)
	}
	if after.HasFingerprint(before.Fingerprint()) {
		t.Error("a root for clients only counts as the store's root")
	}
	for name, k := range map[string]*seal.Keyring{"during": during, "after": after} {
		if _, err := seal.Open[seal.Client](k, client); err != nil {
			t.Errorf("%s the rotation, a registered client id: %v", name, err)
		}
		if got, err := k.ClientSecret(client); err != nil || got != secret {
			t.Errorf("%s the rotation, the secret of a registered client changed, or error %v", name, err)
		}
	}
}

func TestParseRefusesBadLists(t *testing.T) {
	good := seal.NewSecret()
	for name, list := range map[string]string{
		"empty":             "",
		"short":             good[:40],
		"long":              good + "AAAA",
		"padded":            good + "=",
		"standard alphabet": "+" + good[1:],
		"empty second":      good + ",",
		"twice":             good + "," + good,
		"first for clients": "clients:" + good,
		"unknown prefix":    "other:" + good,
		"first is next":     "next:" + good,
		"clients and next":  seal.NewSecret() + ",clients:next:" + good,
		"trailing bits set": good[:42] + "_",
	} {
		if _, err := seal.Parse(list); err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), good[:20]) {
			t.Errorf("%s: the error repeats the secret: %v", name, err)
		}
	}
}

func TestSecretHashMatchesOneClientAndSecret(t *testing.T) {
	old, next := seal.NewSecret(), seal.NewSecret()
	h := ring(t, old).SecretHash("app", "s3cret")
	k := ring(t, next, "clients:"+old)
	if !k.SecretMatches("app", "s3cret", h) {
		t.Error("the right secret is refused after a rotation of the root")
	}
	for name, ok := range map[string]bool{
		"other client": k.SecretMatches("app2", "s3cret", h),
		"other secret": k.SecretMatches("app", "s3cret ", h),
		"empty hash":   k.SecretMatches("app", "s3cret", ""),
		"other root":   ring(t).SecretMatches("app", "s3cret", h),
	} {
		if ok {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestIDsSortByTheirTime(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	early, late := seal.NewID(at), seal.NewID(at.Add(time.Second))
	if early >= late {
		t.Errorf("%s, whose time is earlier, sorts after %s", early, late)
	}
	if bound := seal.IDsBefore(at.Add(time.Second)); early >= bound || late < bound {
		t.Errorf("bound %s is not between %s and %s", bound, early, late)
	}
	if a, b := seal.NewID(at), seal.NewID(at); a == b || len(a) != 23 {
		t.Errorf("ids %q and %q: want two different ids of 23 characters", a, b)
	}
}

// Open refuses every text that this keyring did not seal, and never panics.
func FuzzOpen(f *testing.F) {
	k := ring(f)
	for _, raw := range samples(f, ring(f)) {
		f.Add(raw)
	}
	f.Add("")
	f.Add("AQ")
	f.Fuzz(func(t *testing.T, raw string) {
		for kind, refuses := range kinds {
			if err := refuses(k, raw); err != nil {
				t.Errorf("%q as a %s: %v", raw, kind, err)
			}
		}
	})
}

func BenchmarkSealOpenRefresh(b *testing.B) {
	k := ring(b)
	v := seal.Refresh{Gen: 7, Grant: seal.Grant{ID: seal.NewID(time.Unix(2e9, 0)), Epoch: "e", Subject: "ann", ClientHash: "0123456789012345678901",
		Scope: []string{"read", "write"}, Resource: "https://mcp.example/mcp"}}
	for b.Loop() {
		raw, _ := seal.Seal(k, v)
		if _, err := seal.Open[seal.Refresh](k, raw); err != nil {
			b.Fatal(err)
		}
	}
}

// While a keyring gets other roots again and again, everything that is sealed in the
// meantime opens, whichever root sealed it.
func TestBecomeDuringUseLosesNothing(t *testing.T) {
	old, next := seal.NewSecret(), seal.NewSecret()
	lists := []*seal.Keyring{ring(t, old, next), ring(t, next, old)}
	k := ring(t, old)
	k.Become(lists[0])
	client := mustSeal(t, lists[1], seal.Client{Name: "n"})
	secret, err := lists[1].ClientSecret(client)
	if err != nil {
		t.Fatal(err)
	}
	hash := lists[0].SecretHash("app", "s3cret")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				k.Become(lists[i%2])
			}
		}
	})
	sealedBy := map[bool]int{}
	both := func() bool { return sealedBy[true] > 0 && sealedBy[false] > 0 }
	deadline := time.Now().Add(30 * time.Second)
	for i := 0; i < 3000 || !both() && time.Now().Before(deadline); i++ {
		raw := mustSeal(t, k, seal.Code{RedirectURI: "r"})
		if _, err := seal.Open[seal.Code](k, raw); err != nil {
			t.Fatal(err)
		}
		sealedBy[seal.IsCurrent(lists[0], raw)]++
		if got, err := k.ClientSecret(client); err != nil || got != secret {
			t.Fatalf("client secret: %v", err)
		}
		if !k.SecretMatches("app", "s3cret", hash) || !k.HasFingerprint(lists[0].Fingerprint()) {
			t.Fatal("a root that every list has was missing")
		}
	}
	close(stop)
	wg.Wait()
	if !both() {
		t.Errorf("both roots must seal, have %v", sealedBy)
	}
}

func TestRootsAreNamedInOrder(t *testing.T) {
	a, b := seal.NewSecret(), seal.NewSecret()
	k := ring(t, a, "clients:"+b)
	want := []string{ring(t, a).Fingerprint(), "clients:" + ring(t, b).Fingerprint()}
	if got := k.Roots(); !slices.Equal(got, want) {
		t.Errorf("roots %v, want %v", got, want)
	}
}

// A root that is for clients only is named as such, and no other one.
func TestRetiredRootIsNamed(t *testing.T) {
	one, two := seal.NewSecret(), seal.NewSecret()
	parse := func(list string) *seal.Keyring {
		k, err := seal.Parse(list)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	old := parse(two)
	id, err := seal.Seal(old, seal.Client{Method: "none"})
	if err != nil {
		t.Fatal(err)
	}
	k := parse(one + ",clients:" + two)
	if fp, retired := k.RetiredRoot(id); fp != old.Fingerprint() || !retired {
		t.Errorf("%q, %v", fp, retired)
	}
	if got := k.RetiredRoots(); len(got) != 1 || got[0] != old.Fingerprint() {
		t.Errorf("%q", got)
	}
	for name, k := range map[string]*seal.Keyring{"sealing": old, "second": parse(one + "," + two), "unknown": parse(one)} {
		if _, retired := k.RetiredRoot(id); retired || len(k.RetiredRoots()) != 0 {
			t.Errorf("%s: retired", name)
		}
	}
	for _, raw := range []string{"", "x", id[:20]} {
		if _, retired := k.RetiredRoot(raw); retired {
			t.Errorf("%q: retired", raw)
		}
	}
}

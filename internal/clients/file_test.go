package clients_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"signet/internal/clients"
	"signet/internal/oauth"
)

// at is the clients file at path, as commands edit it.
func at(path string) clients.File { return clients.File{Path: path} }

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // past the umask
		t.Fatal(err)
	}
}

func TestAddListRemove(t *testing.T) {
	o := options(t)
	o.Path = filepath.Join(filepath.Dir(o.Path), "made", "clients.json")
	c, secret, err := at(o.Path).Add(t.Context(), o.Ring, clients.Spec{ID: "web", Name: "Web\x00 App", RedirectURIs: []string{"https://app.test/cb"}, Scopes: []string{"read"}})
	if err != nil {
		t.Fatal(err)
	}
	want := clients.Configured{ID: "web", Name: "Web App", RedirectURIs: []string{"https://app.test/cb"}, Scopes: []string{"read"}, Created: c.Created}
	if diff := cmp.Diff(want, c); diff != "" || !unreservedOnly.MatchString(secret) || len(secret) < 43 {
		t.Errorf("secret of %d characters (-want +got):\n%s", len(secret), diff)
	}
	if got := add(t, o, clients.Spec{ID: "own", Secret: "chosen-elsewhere"}); got != "chosen-elsewhere" {
		t.Errorf("secret %q, want the given one", got)
	}
	if got := add(t, o, clients.Spec{ID: "cli", Public: true}); got != "" {
		t.Errorf("a public client got the secret %q", got)
	}
	content, err := os.ReadFile(o.Path)
	if err != nil || strings.Contains(string(content), secret) || strings.Contains(string(content), "chosen-elsewhere") {
		t.Errorf("%v; the file has a secret in the clear:\n%s", err, content)
	}
	for path, want := range map[string]os.FileMode{o.Path: 0o600, filepath.Dir(o.Path): 0o700 | os.ModeDir} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", path, info.Mode(), err, want)
		}
	}

	list, err := at(o.Path).List()
	if err != nil || len(list) != 3 || list[0].ID != "web" || list[2].ID != "cli" || !list[2].Public {
		t.Fatalf("%+v, %v", list, err)
	}
	if got := marshal(t, list); strings.Contains(got, "secret") {
		t.Errorf("the list has a secret's hash: %s", got)
	}
	if err := at(o.Path).Remove(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	if err := at(o.Path).Remove(t.Context(), "web"); !errors.Is(err, clients.ErrUnknown) || !strings.Contains(err.Error(), "web") {
		t.Errorf("removed twice: %v", err)
	}
	r := open(t, o)
	unknown(t, r, "web")
	find(t, r, "cli")
	for _, id := range []string{"cli", "own"} {
		if err := at(o.Path).Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := at(o.Path).List(); err != nil || marshal(t, list) != "[]" {
		t.Errorf("%s, %v; want an empty list", marshal(t, list), err)
	}
	open(t, o)
	leftovers, err := filepath.Glob(filepath.Join(filepath.Dir(o.Path), ".clients*"))
	if err != nil || len(leftovers) > 0 {
		t.Errorf("left behind: %q, %v", leftovers, err)
	}
}

func TestListOfNoFile(t *testing.T) {
	path := options(t).Path
	if list, err := at(path).List(); err != nil || marshal(t, list) != "[]" {
		t.Errorf("%s, %v", marshal(t, list), err)
	}
	if err := at(path).Remove(t.Context(), "x"); !errors.Is(err, clients.ErrUnknown) {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a failed removal made the file: %v", err)
	}
}

func TestAddRefuses(t *testing.T) {
	o := options(t)
	add(t, o, clients.Spec{ID: "web"})
	before, err := os.ReadFile(o.Path)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*clients.Spec){
		"known id":             func(s *clients.Spec) { s.ID = "web" },
		"no id":                func(s *clients.Spec) { s.ID = "" },
		"long id":              func(s *clients.Spec) { s.ID = strings.Repeat("a", 129) },
		"a URL for an id":      func(s *clients.Spec) { s.ID = "https://app.test/m.json" },
		"space in the id":      func(s *clients.Spec) { s.ID = "a b" },
		"colon in the id":      func(s *clients.Spec) { s.ID = "a:b" },
		"no redirect URI":      func(s *clients.Spec) { s.RedirectURIs = nil },
		"dangerous URI":        func(s *clients.Spec) { s.RedirectURIs = []string{"javascript:alert(1)"} },
		"http URI":             func(s *clients.Spec) { s.RedirectURIs = append(s.RedirectURIs, "http://app.test/") },
		"mistyped scheme":      func(s *clients.Spec) { s.RedirectURIs = []string{"htps://app.test/"} },
		"two scopes in one":    func(s *clients.Spec) { s.Scopes = []string{"read write"} },
		"bad scope":            func(s *clients.Spec) { s.Scopes = []string{`"`} },
		"public with a secret": func(s *clients.Spec) { s.Public, s.Secret = true, "0123456789" },
		"short secret":         func(s *clients.Spec) { s.Secret = "0123456" },
		"long secret":          func(s *clients.Spec) { s.Secret = strings.Repeat("a", 257) },
		"space in the secret":  func(s *clients.Spec) { s.Secret = "0123456 789" },
		"line end in it":       func(s *clients.Spec) { s.Secret = "0123456789\n" },
		"public, exchanges":    func(s *clients.Spec) { s.Public, s.Exchange = true, []string{"https://api.test/mcp"} },
		"a resource exchanges": func(s *clients.Spec) {
			s.Resource, s.RedirectURIs, s.Exchange = "https://a.test", nil, []string{"https://api.test/mcp"}
		},
		"exchange, no URL":     func(s *clients.Spec) { s.Exchange = []string{"api"} },
		"exchange, empty":      func(s *clients.Spec) { s.Exchange = []string{""} },
		"exchange, fragment":   func(s *clients.Spec) { s.Exchange = []string{"https://api.test/mcp#x"} },
		"exchange, upper case": func(s *clients.Spec) { s.Exchange = []string{"https://API.test/mcp"} },
		"exchange, twice":      func(s *clients.Spec) { s.Exchange = []string{"https://api.test", "https://api.test/"} },
		"exchange, no id":      func(s *clients.Spec) { s.Exchange = []string{"upstream:"} },
		"exchange, no link":    func(s *clients.Spec) { s.Exchange = []string{"connection:"} },
		"exchange, a bad link": func(s *clients.Spec) { s.Exchange = []string{"connection:a/b"} },
		"exchange, gateways":   func(s *clients.Spec) { s.Exchange = []string{"gateways"} },
		"exchange, a bad id":   func(s *clients.Spec) { s.Exchange = []string{"upstream:a b"} },
		"scopes, no effect": func(s *clients.Spec) {
			s.RedirectURIs, s.Exchange, s.Scopes = nil, []string{"https://api.test"}, []string{"read"}
		},
	} {
		spec := clients.Spec{ID: "new", RedirectURIs: []string{"https://app.test/cb"}}
		change(&spec)
		_, secret, err := at(o.Path).Add(t.Context(), o.Ring, spec)
		if err == nil || secret != "" {
			t.Errorf("%s: added, error %v", name, err)
		} else if spec.Secret != "" && strings.Contains(err.Error(), spec.Secret) {
			t.Errorf("%s: the error repeats the secret: %v", name, err)
		}
	}
	after, err := os.ReadFile(o.Path)
	if err != nil || string(after) != string(before) {
		t.Errorf("the file was changed (%v):\n%s", err, after)
	}
}

// A client may exchange tokens beside what else it may do; others may not.
func TestWhichClientsExchange(t *testing.T) {
	o := options(t)
	exchange := []string{"https://api.test/mcp", "https://root.test", "upstream:github"}
	if _, _, err := at(o.Path).Add(t.Context(), o.Ring, clients.Spec{ID: "gw", Exchange: exchange}); err != nil {
		t.Fatal(err)
	}
	add(t, o, clients.Spec{ID: "all", Exchange: exchange, ClientCredentials: true, Scopes: []string{"read"}, RedirectURIs: []string{"https://app.test/cb"}})
	add(t, o, clients.Spec{ID: "app", RedirectURIs: []string{"https://app.test/cb"}})
	r := open(t, o)
	if !r.Exchanges() {
		t.Error("no client exchanges")
	}
	for id, want := range map[string][]string{
		"gw":  {oauth.GrantTokenExchange},
		"all": {oauth.GrantAuthorizationCode, oauth.GrantRefreshToken, oauth.GrantClientCredentials, oauth.GrantTokenExchange},
		"app": {oauth.GrantAuthorizationCode, oauth.GrantRefreshToken},
	} {
		c, err := r.Find(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		for _, grant := range []string{oauth.GrantAuthorizationCode, oauth.GrantRefreshToken, oauth.GrantClientCredentials, oauth.GrantTokenExchange} {
			if c.MayUse(grant) != slices.Contains(want, grant) {
				t.Errorf("%s, %s: %v", id, grant, c.MayUse(grant))
			}
		}
		for audience, want := range map[string]string{"https://api.test/mcp": "https://api.test/mcp", "https://root.test/": "https://root.test", "upstream:github": "upstream:github", "https://api.test": "", "upstream:": "", "": ""} {
			got, ok := c.ExchangesFor(audience)
			if id == "app" {
				want = ""
			}
			if got != want || ok != (want != "") {
				t.Errorf("%s for %q: %q, %v", id, audience, got, ok)
			}
		}
	}
	for _, c := range []clients.Client{{ID: "registered"}, {ID: "forged", Exchange: exchange}} {
		if _, ok := c.ExchangesFor("upstream:github"); ok || c.MayUse(oauth.GrantTokenExchange) {
			t.Errorf("%s exchanges", c.ID)
		}
	}
	for _, id := range []string{"gw", "all"} {
		if err := at(o.Path).Remove(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if r.Reload(); r.Exchanges() {
		t.Error("the last client that exchanges is removed")
	}
}

// Commands that run at the same time lose nothing, and a reader sees whole files.
func TestConcurrentAdds(t *testing.T) {
	o := options(t)
	const n = 20
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, _, err := at(o.Path).Add(t.Context(), o.Ring, clients.Spec{ID: fmt.Sprint("c", i), RedirectURIs: []string{"https://app.test/"}}); err != nil {
				t.Error(err)
			}
			if _, err := at(o.Path).List(); err != nil {
				t.Errorf("a reader saw half a file: %v", err)
			}
		})
	}
	wg.Wait()
	if list, err := at(o.Path).List(); err != nil || len(list) != n {
		t.Errorf("%d clients, %v; want %d", len(list), err, n)
	}
}

// A file, or the folder around it, that others may read or write is not used; the
// error says which and what it should be.
func TestClientsFileOpenToOthersIsRefused_L01(t *testing.T) {
	o := options(t)
	add(t, o, clients.Spec{ID: "web"})
	chmod := func(path string, mode os.FileMode) {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	refuses := func(name, path, names, want string) {
		t.Helper()
		o := o
		o.Path = path
		_, listErr := at(path).List()
		_, openErr := clients.Open(o)
		_, _, addErr := at(path).Add(t.Context(), o.Ring, clients.Spec{ID: "new", RedirectURIs: []string{"https://app.test/"}})
		for _, err := range []error{listErr, openErr, addErr} {
			if err == nil || !strings.Contains(err.Error(), names) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v; want an error that names %s and %s", name, err, names, want)
			}
		}
	}
	for _, mode := range []os.FileMode{0o644, 0o640, 0o604, 0o660, 0o666, 0o610, 0o777} {
		chmod(o.Path, mode)
		refuses(fmt.Sprintf("mode %o", mode), o.Path, o.Path, "0600")
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(o.Path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := at(link).List(); err == nil {
		t.Error("a link to a readable file was followed")
	}
	chmod(o.Path, 0o600)
	if _, err := at(link).List(); err != nil {
		t.Errorf("link to a good file: %v", err)
	}
	dir := filepath.Dir(o.Path)
	chmod(dir, 0o777)
	refuses("folder", o.Path, dir, "0700")
	chmod(dir, 0o700)
	if os.Geteuid() == 0 {
		if err := os.Chown(o.Path, 12345, -1); err != nil {
			t.Fatal(err)
		}
		refuses("owner", o.Path, o.Path, "chown 0 ")
	}
	refuses("folder in the place of the file", dir, dir, "regular")
}

func TestAddMakesNoFileWhereOthersMayWrite(t *testing.T) {
	o := options(t)
	dir := filepath.Dir(o.Path)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, _, err := at(o.Path).Add(t.Context(), o.Ring, clients.Spec{ID: "web", RedirectURIs: []string{"https://app.test/"}}); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("%v; want an error that names the folder", err)
	}
	if _, err := os.Stat(o.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file was made: %v", err)
	}
}

// A link stays a link; what it points to is replaced.
func TestAddFollowsLink(t *testing.T) {
	o := options(t)
	add(t, o, clients.Spec{ID: "one"})
	link := o
	link.Path = filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(o.Path, link.Path); err != nil {
		t.Fatal(err)
	}
	add(t, link, clients.Spec{ID: "two"})
	if list, err := at(o.Path).List(); err != nil || len(list) != 2 {
		t.Errorf("behind the link: %+v, %v", list, err)
	}
}

// Mounted secrets belong to root and are readable by the group of the process.
func TestMountedClientsMayBeReadableByTheirGroup_L01(t *testing.T) {
	o := options(t)
	add(t, o, clients.Spec{ID: "web"})
	o.GroupMayRead = true
	for mode, ok := range map[os.FileMode]bool{0o440: true, 0o640: true, 0o400: true, 0o460: false, 0o444: false, 0o644: false} {
		if err := os.Chmod(o.Path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := clients.Open(o); (err == nil) != ok {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
}

const anEntry = `{"client_id":"a","redirect_uris":["https://a.test/"],"public":true,"created_at":1}`

// A damaged file stops the start; the error has its name and its fault.
func TestDamagedFileStopsTheStart(t *testing.T) {
	o := options(t)
	write(t, o.Path, `{"clients":[`+anEntry+`]}`, 0o600)
	open(t, o)
	for _, content := range []string{
		"", "x", "null", "{}", "[]", `{"clients":null}`, `{"clients":{}}`, `{"clients":[` + anEntry, `{"clients":[` + anEntry + `]}x`, `{"clients":[` + anEntry + `,` + anEntry + `]}`,
		`{"clients":[]}` + strings.Repeat(" ", 16<<20), `{"clients":[],"more":1}`, `{"clients":[{}]}`, `{"clients":[null]}`,
		`{"clients":[` + strings.Replace(anEntry, `"public":true`, `"public":false`, 1) + `]}`,
		`{"clients":[` + strings.Replace(anEntry, `"public":true`, `"public":true,"secret_hash":"x"`, 1) + `]}`,
		`{"clients":[` + strings.Replace(anEntry, `"public":true`, `"public":true,"secret":"x"`, 1) + `]}`,
		`{"clients":[` + strings.Replace(anEntry, "https://a.test/", "javascript:x", 1) + `]}`,
		`{"clients":[` + strings.Replace(anEntry, `["https://a.test/"]`, `[]`, 1) + `]}`,
	} {
		write(t, o.Path, content, 0o600)
		if _, err := clients.Open(o); err == nil || !strings.Contains(err.Error(), o.Path) {
			t.Errorf("%.200s: %v; want an error that names the file", content, err)
		}
		if _, _, err := at(o.Path).Add(t.Context(), o.Ring, clients.Spec{ID: "new", RedirectURIs: []string{"https://a.test/"}}); err == nil {
			t.Errorf("%.200s: a client was added to it", content)
		}
		if after, err := os.ReadFile(o.Path); err != nil || string(after) != content {
			t.Errorf("%.200s was overwritten (%v): %.200s", content, err, after)
		}
	}
	if _, err := clients.Open(clients.Options{}); err == nil {
		t.Error("opened without a keyring")
	}
}

// A running server takes over a changed file within about a second; one that it
// cannot use leaves the clients it knows alone, and Stale says why.
func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := options(t)
		r := open(t, o)
		unknown(t, r, "web")
		secret := add(t, o, clients.Spec{ID: "web"})
		time.Sleep(1100 * time.Millisecond)
		if _, err := authenticate(r, basic("web", secret), ""); err != nil {
			t.Fatalf("added while running: %v", err)
		}
		good, err := os.ReadFile(o.Path)
		if err != nil {
			t.Fatal(err)
		}
		repair := func() error { return os.WriteFile(o.Path, good, 0o600) }
		for name, c := range map[string]struct{ spoil, repair func() error }{
			"broken":           {func() error { return os.WriteFile(o.Path, []byte("{"), 0o600) }, repair},
			"readable for all": {func() error { return os.Chmod(o.Path, 0o644) }, func() error { return os.Chmod(o.Path, 0o600) }},
			"gone":             {func() error { return os.Remove(o.Path) }, repair},
		} {
			if err := c.spoil(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(1100 * time.Millisecond)
			find(t, r, "web")
			if err := r.Stale(); err == nil || !strings.Contains(err.Error(), o.Path) {
				t.Errorf("%s: stale because of %v", name, err)
			}
			if err := c.repair(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(1100 * time.Millisecond)
			find(t, r, "web")
			if err := r.Stale(); err != nil {
				t.Errorf("%s and repaired: %v", name, err)
			}
		}
		if err := at(o.Path).Remove(t.Context(), "web"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1100 * time.Millisecond)
		unknown(t, r, "web")
		_, err = authenticate(r, basic("web", secret), "")
		wantError(t, err, oauth.InvalidClient, 401)
	})
}

// A life that cannot be used leaves the whole file of before in use, and the error names the
// client and the member.
func TestBadLifeLeavesTheGoodFileInUse(t *testing.T) {
	o := options(t)
	add(t, o, clients.Spec{ID: "web", AccessTTL: 2 * time.Minute, RefreshTTL: time.Hour})
	r := open(t, o)
	good, err := os.ReadFile(o.Path)
	if err != nil {
		t.Fatal(err)
	}
	want := clients.Lives{Access: 2 * time.Minute, Refresh: time.Hour}
	edited := func(t *testing.T, from, to string) {
		t.Helper()
		if !strings.Contains(string(good), from) {
			t.Fatalf("%s is not in %s", from, good)
		}
		write(t, o.Path, strings.Replace(string(good), from, to, 1), 0o600)
		r.Reload()
	}
	for _, life := range []string{`"soon"`, `""`, `"5"`, `"2m0s "`, `"999ms"`, `"-2m"`, `"1ns"`, `"9999999h"`, `120`, `true`, `null,"access_ttl":"2m"`, `{}`, `["2m"]`} {
		for member, value := range map[string]string{"access_ttl": `"2m0s"`, "refresh_ttl": `"1h0m0s"`} {
			t.Run(member+" "+life, func(t *testing.T) {
				edited(t, `"`+member+`": `+value, `"`+member+`": `+strings.ReplaceAll(life, "access_ttl", member))
				if err := r.Stale(); err == nil || !strings.HasPrefix(err.Error(), o.Path) || !strings.Contains(err.Error(), member) {
					t.Errorf("stale because of %v", err)
				}
				if got := find(t, r, "web").Lives; got != want {
					t.Errorf("lives %+v, want %+v as before", got, want)
				}
			})
		}
	}
	edited(t, `"2m0s"`, `"3m"`)
	if err := r.Stale(); err != nil || find(t, r, "web").Lives.Access != 3*time.Minute {
		t.Errorf("a good life: %v, %+v", err, find(t, r, "web").Lives)
	}
}

// A list of clients that parses obeys the rules that Add has.
func FuzzFile(f *testing.F) {
	f.Add(`{"clients":[` + anEntry + `]}`)
	f.Add(`{"clients":[{"client_id":"https://a","redirect_uris":["javascript:x"],"public":true}]}`)
	f.Add(`{"clients":[]} {}`)
	path := filepath.Join(f.TempDir(), "clients.json")
	f.Fuzz(func(t *testing.T, content string) {
		write(t, path, content, 0o600)
		list, err := at(path).List()
		if err != nil {
			if !strings.Contains(err.Error(), path) {
				t.Errorf("%q: %v does not name the file", content, err)
			}
			return
		}
		if !json.Valid([]byte(content)) {
			t.Errorf("%q is no JSON", content)
		}
		seen := map[string]bool{}
		for _, c := range list {
			if !unreservedOnly.MatchString(c.ID) || seen[c.ID] || len(c.RedirectURIs) == 0 {
				t.Errorf("%q: %+v", content, c)
			}
			seen[c.ID] = true
		}
	})
}

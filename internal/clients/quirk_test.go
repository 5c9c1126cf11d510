package clients_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"signet/internal/clients"
	"signet/internal/oauth"
	"signet/internal/test/clientdoc"
)

// withQuirks are options with a file of quirks that has these rows.
func withQuirks(t testing.TB, o clients.Options, rows string) clients.Options {
	t.Helper()
	o.Quirks = filepath.Join(t.TempDir(), "quirks.json")
	writeQuirks(t, o.Quirks, rows)
	return o
}

func writeQuirks(t testing.TB, path, rows string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(`{"quirks":[`+rows+`]}`), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The file in the repository is read as an operator's is, and each row says what is known,
// where that was seen, and what follows.
func TestBuiltInQuirksSayWhatIsKnownAndWhereItWasSeen(t *testing.T) {
	text, err := os.ReadFile("quirks.json")
	if err != nil {
		t.Fatal(err)
	}
	o := options(t)
	o.Quirks = filepath.Join(t.TempDir(), "quirks.json") // a checkout may give its files any mode
	if err := os.WriteFile(o.Quirks, text, 0o644); err != nil {
		t.Fatal(err)
	}
	open(t, o)
	var file struct{ Quirks []clients.Quirk }
	if err := json.Unmarshal(text, &file); err != nil || len(file.Quirks) == 0 {
		t.Fatalf("%d rows, %v", len(file.Quirks), err)
	}
	for _, q := range file.Quirks {
		if q.Known == "" || len(q.Seen) == 0 || q.Does == "" {
			t.Errorf("%s: known %q, seen %q, does %q", q.Name, q.Known, q.Seen, q.Does)
		}
		if sets := q.Ticked+q.Choice+q.Access+q.Refresh+q.Idle+q.Replay+strings.Join(q.Methods, "") != ""; sets == strings.Contains(q.Does, "Nothing is set.") {
			t.Errorf("%s: sets something: %v, but it says %q", q.Name, sets, q.Does)
		}
	}
}

func TestClientFindsItsQuirk(t *testing.T) {
	r := open(t, options(t))
	for name, c := range map[string]struct {
		registration map[string]any
		want         string
	}{
		"Codex by its name":                    {map[string]any{"client_name": "Codex", "redirect_uris": []string{"http://127.0.0.1:1/callback/9b1c"}}, "codex"},
		"another name":                         {map[string]any{"client_name": "Codex 2", "redirect_uris": []string{"http://127.0.0.1:1/callback/9b1c"}}, ""},
		"no name":                              {map[string]any{"redirect_uris": []string{"http://127.0.0.1:1/cb"}}, ""},
		"Copilot Studio by its redirect URI":   {map[string]any{"redirect_uris": []string{"https://global.consent.azure-apim.net/redirect/x"}}, "copilot-studio"},
		"a host below":                         {map[string]any{"redirect_uris": []string{"https://x.global.consent.azure-apim.net/redirect/x"}}, ""},
		"a host that begins with it":           {map[string]any{"redirect_uris": []string{"https://global.consent.azure-apim.net.evil.test/redirect/x"}}, ""},
		"a host with a port":                   {map[string]any{"redirect_uris": []string{"https://vscode.dev:8443/redirect"}}, "vscode"},
		"VS Code by its second redirect URI":   {map[string]any{"redirect_uris": []string{"http://127.0.0.1/", "https://vscode.dev/redirect"}}, "vscode"},
		"Cursor by its scheme":                 {map[string]any{"redirect_uris": []string{"http://localhost:8787/callback", "cursor://anysphere.cursor-mcp/oauth/callback"}}, "cursor"},
		"a redirect URI goes before the name":  {map[string]any{"client_name": "Codex", "redirect_uris": []string{"https://claude.ai/api/mcp/auth_callback"}}, "claude"},
		"a host goes before a scheme":          {map[string]any{"redirect_uris": []string{"cursor://x/y", "https://claude.ai/api/mcp/auth_callback"}}, "claude"},
		"a path with the name of a known host": {map[string]any{"redirect_uris": []string{"https://evil.test/https://claude.ai/"}}, ""},
	} {
		c.registration["token_endpoint_auth_method"] = "none"
		found, err := r.Find(t.Context(), mustRegister(t, r, c.registration).ClientID)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if found.Quirk != nil {
			got = found.Quirk.Name
		}
		if got != c.want {
			t.Errorf("%s: quirk %q, want %q", name, got, c.want)
		}
	}
}

func mustRegister(t testing.TB, r *clients.Registry, metadata map[string]any) *clients.Registration {
	t.Helper()
	body, err := json.Marshal(metadata)
	if err != nil {
		t.Fatal(err)
	}
	reg, err := r.Register(t.Context(), body)
	if err != nil {
		t.Fatal(err)
	}
	return reg
}

// What is verified goes before what a client claims: otherwise it could leave a row that the
// operator made for its id.
func TestClaimDoesNotLeadAwayFromTheQuirkOfAnID(t *testing.T) {
	h := clientdoc.NewHost(t)
	id := h.Client(t, "/m.json", map[string]any{"client_name": "Codex", "redirect_uris": []string{"https://claude.ai/cb", "cursor://x/y"}})
	host := `{"name":"host","match":{"document_hosts":["127.0.0.1"]},"replay_window":"2s"}`
	for name, c := range map[string]struct{ rows, want string }{
		"id":   {host + `,{"name":"id","match":{"client_ids":["` + id + `"]},"replay_window":"1s"}`, "id"},
		"host": {host, "host"},
	} {
		r := open(t, withQuirks(t, withDocuments(t), c.rows))
		found, err := fetched(t, r, id)
		if err != nil || found.Quirk == nil || found.Quirk.Name != c.want {
			t.Errorf("%s: %+v, %v", name, found, err)
		}
	}
	o := withQuirks(t, options(t), `{"name":"mine","match":{"client_ids":["app"]},"replay_window":"0"}`)
	add(t, o, clients.Spec{ID: "app", Name: "Codex", RedirectURIs: []string{"https://claude.ai/cb"}, Public: true})
	found, err := open(t, o).Find(t.Context(), "app")
	if err != nil || found.Quirk == nil || found.Quirk.Name != "mine" || found.Lives.Replay >= 0 {
		t.Errorf("a configured client: %+v, %v", found, err)
	}
}

func TestOperatorsQuirkReplacesTheBuiltInOne(t *testing.T) {
	for name, rows := range map[string]string{
		"by name": `{"name":"codex","match":{"client_names":["Codex"]},"known":"mine"}`,
		"by key":  `{"name":"mine","match":{"client_names":["Codex"]},"known":"mine"}`,
	} {
		r := open(t, withQuirks(t, options(t), rows))
		found, err := r.Find(t.Context(), mustRegister(t, r, map[string]any{"client_name": "Codex", "redirect_uris": []string{"http://127.0.0.1/cb"}}).ClientID)
		if err != nil || found.Quirk == nil || found.Quirk.Known != "mine" || found.TicksDefaults() {
			t.Errorf("%s: %+v, %v", name, found, err)
		}
	}
	r := open(t, withQuirks(t, options(t), `{"name":"codex","match":{"client_names":["Another"]}}`))
	found, err := r.Find(t.Context(), mustRegister(t, r, map[string]any{"client_name": "Codex", "redirect_uris": []string{"http://127.0.0.1/cb"}}).ClientID)
	if err != nil || found.Quirk != nil {
		t.Errorf("the built-in row is still in use: %+v, %v", found, err)
	}
}

const goodQuirk = `{"name":"a","match":{"client_ids":["app"]}}`

func TestQuirkFileThatIsWrongIsRefused(t *testing.T) {
	o := withQuirks(t, options(t), goodQuirk)
	open(t, o)
	for rows, want := range map[string]string{
		`{"name":"a","match":{"client_ids":["app"]},"tick":"defaults"}`: "unknown member",
		`{"name":"a","match":{"client_id":["app"]}}`:                    "unknown member",
		`{"name":"a","name":"b","match":{"client_ids":["app"]}}`:        "name is there twice",
		goodQuirk + `,{"name":"a","match":{"client_ids":["b"]}}`:        `"a" is listed twice`,
		goodQuirk + `,{"name":"b","match":{"client_ids":["app"]}}`:      `"client_ids app" is listed twice`,
		`{"name":"a","match":{"client_ids":["app","app"]}}`:             `"client_ids app" is listed twice`,
		`{"match":{"client_ids":["app"]}}`:                              "name must be",
		`{"name":"a\nb","match":{"client_ids":["app"]}}`:                "name must be",
		`{"name":"a"}`:                                                                        "match has no entry",
		`{"name":"a","match":{"client_ids":[]}}`:                                              "match has no entry",
		`{"name":"a","match":{"client_ids":[""]}}`:                                            "neither the id",
		`{"name":"a","match":{"client_ids":["a b"]}}`:                                         "neither the id",
		`{"name":"a","match":{"client_ids":["https://app.test"]}}`:                            "no path",
		`{"name":"a","match":{"document_hosts":["https://app.test"]}}`:                        "not a host",
		`{"name":"a","match":{"document_hosts":["*.app.test"]}}`:                              "not a host",
		`{"name":"a","match":{"redirect_hosts":["app.test/x"]}}`:                              "not a host",
		`{"name":"a","match":{"redirect_schemes":["https"]}}`:                                 "own rules",
		`{"name":"a","match":{"redirect_schemes":["javascript"]}}`:                            "never allowed",
		`{"name":"a","match":{"client_names":[" a"]}}`:                                        "not a name",
		`{"name":"a","match":{"client_ids":["app"]},"ticked":"none"}`:                         "ticked",
		`{"name":"a","match":{"client_ids":["app"]},"choice":"shut"}`:                         "choice",
		`{"name":"a","match":{"client_ids":["app"]},"choice":"locked","ticked":"defaults"}`:   "exclude each other",
		`{"name":"a","match":{"client_ids":["app"]},"access_ttl":"5"}`:                        "access_ttl",
		`{"name":"a","match":{"client_ids":["app"]},"access_ttl":"0s"}`:                       "access_ttl",
		`{"name":"a","match":{"client_ids":["app"]},"access_ttl":5}`:                          "wrong type",
		`{"name":"a","match":{"client_ids":["app"]},"refresh_ttl":"-1h"}`:                     "refresh_ttl",
		`{"name":"a","match":{"client_ids":["app"]},"refresh_idle_ttl":"900000h"}`:            "refresh_idle_ttl",
		`{"name":"a","match":{"client_ids":["app"]},"replay_window":"x"}`:                     "replay_window",
		`{"name":"a","match":{"client_ids":["app"]},"token_endpoint_auth_methods":["plain"]}`: "plain",
	} {
		writeQuirks(t, o.Quirks, rows)
		if _, err := clients.Open(o); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "SIGNET_CLIENT_QUIRKS: "+o.Quirks) {
			t.Errorf("%s: %v, want %s", rows, err, want)
		}
	}
	for _, text := range []string{"", "[]", "{}", `{"quirks":null}`, `{"quirks":[` + goodQuirk + `]} x`, "\xff"} {
		if err := os.WriteFile(o.Quirks, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := clients.Open(o); err == nil || !strings.Contains(err.Error(), o.Quirks) {
			t.Errorf("%q: %v", text, err)
		}
	}
	o.Quirks += "x"
	if _, err := clients.Open(o); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a file that is not there: %v", err)
	}
}

// A client chooses its name and its redirect URIs, so a row that matches by these may
// not take a decision from the user. All other values only narrow.
func TestQuirkByAClaimTakesNoChoiceFromTheUser(t *testing.T) {
	for match, good := range map[string]bool{
		`"client_ids":["app"]`: true, `"client_ids":["https://app.test/m.json"]`: true, `"document_hosts":["app.test"]`: true,
		`"client_names":["App"]`: false, `"redirect_hosts":["app.test"]`: false, `"redirect_schemes":["cursor"]`: false,
		`"client_ids":["app"],"client_names":["App"]`: false,
	} {
		o := withQuirks(t, options(t), goodQuirk)
		writeQuirks(t, o.Quirks, `{"name":"a","match":{`+match+`},"choice":"locked"}`)
		if _, err := clients.Open(o); (err == nil) != good || err != nil && !strings.Contains(err.Error(), "choice: locked is for rows") {
			t.Errorf("%s: %v", match, err)
		}
	}
}

func TestQuirkFileIsLiveAndTheLastGoodOneStays(t *testing.T) {
	o := withQuirks(t, options(t), `{"name":"a","match":{"client_ids":["app"]},"replay_window":"1s"}`)
	add(t, o, clients.Spec{ID: "app", Public: true})
	r := open(t, o)
	check := func(want time.Duration) {
		t.Helper()
		r.Reload()
		if c, err := r.Find(t.Context(), "app"); err != nil || c.Lives.Replay != want {
			t.Errorf("%+v, %v, want the replay window %s", c, err, want)
		}
	}
	check(time.Second)
	writeQuirks(t, o.Quirks, `{"name":"a","match":{"client_ids":["app"]},"replay_window":"2s"}`)
	check(2 * time.Second)
	writeQuirks(t, o.Quirks, `{"name":"a","match":{"client_ids":["app"]},"replay":"3s"}`)
	check(2 * time.Second)
	if err := r.Stale(); err == nil || !strings.Contains(err.Error(), o.Quirks+":1: ") || !strings.Contains(err.Error(), "unknown member") {
		t.Errorf("stale: %v", err)
	}
	writeQuirks(t, o.Quirks, "")
	check(0)
	if err := r.Stale(); err != nil {
		t.Errorf("stale: %v", err)
	}
}

// A row takes methods away, and gives none. Nothing is spent for a refused one.
func TestQuirkAcceptsOnlySomeMethods(t *testing.T) {
	h := clientdoc.NewHost(t)
	key := clientdoc.NewKeyFor(t, "ES256", "one")
	id := h.Client(t, "/m.json", map[string]any{"client_name": "App", "redirect_uris": []string{"https://app.test/cb"}, "jwks": clientdoc.Set(t, key),
		"token_endpoint_auth_methods_supported": []string{"none", "private_key_jwt"}})
	for _, c := range []struct {
		methods            string
		none, signed, both bool
	}{
		{`"none"`, true, false, false}, {`"private_key_jwt"`, false, true, true}, {`"none","private_key_jwt"`, true, true, true}, {`"client_secret_basic"`, false, false, false},
	} {
		o := withQuirks(t, withDocuments(t), `{"name":"a","match":{"client_ids":["`+id+`"]},"token_endpoint_auth_methods":[`+c.methods+`]}`)
		r := open(t, o)
		if _, err := fetched(t, r, id); err != nil {
			t.Fatal(err)
		}
		check := func(name string, form url.Values, want bool) {
			t.Helper()
			_, _, err := r.Authenticate(t.Context(), http.Header{}, form)
			if (err == nil) != want || err != nil && (oauth.AsError(err).Code != oauth.InvalidClient || !strings.Contains(err.Error(), "the operator accepts")) {
				t.Errorf("accepted %s; %s: %v", c.methods, name, err)
			}
		}
		check("none", url.Values{"client_id": {id}}, c.none)
		signed := url.Values{"client_assertion": {key.Assertion(t, id, "https://as.test", nil)}, "client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}}
		check("signed", signed, c.signed)
		if !c.signed { // the assertion was not spent
			writeQuirks(t, o.Quirks, "")
			r.Reload()
			check("signed, after the row was removed", signed, true)
		}
	}

	o := withQuirks(t, options(t), `{"name":"a","match":{"client_names":["App"],"client_ids":["conf"]},"token_endpoint_auth_methods":["client_secret_post"]}`)
	secret := add(t, o, clients.Spec{ID: "conf"})
	r := open(t, o)
	inHeader := http.Header{"Authorization": {basic("conf", secret)}}
	if _, _, err := r.Authenticate(t.Context(), inHeader, url.Values{}); err == nil || !strings.Contains(err.Error(), "the operator accepts client_secret_post only") {
		t.Errorf("Basic: %v", err)
	}
	if _, _, err := r.Authenticate(t.Context(), http.Header{}, url.Values{"client_id": {"conf"}, "client_secret": {secret}}); err != nil {
		t.Errorf("in the body: %v", err)
	}
	for method, good := range map[string]bool{"client_secret_post": true, "client_secret_basic": false, "none": false, "": false, "private_key_jwt": false} {
		body, err := json.Marshal(map[string]any{"client_name": "App", "redirect_uris": []string{"https://app.test/cb"}, "token_endpoint_auth_method": method})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Register(t.Context(), body); (err == nil) != good || err != nil && oauth.AsError(err).Code != oauth.InvalidClientMetadata {
			t.Errorf("registration with the method %q: %v", method, err)
		}
	}
}

// A redirect URI that may no longer be registered matches no row, and a client that authenticates
// comes without redirect URIs.
func TestQuirkMatchesByAllowedRedirectURIsOnly(t *testing.T) {
	o := withQuirks(t, options(t), `{"name":"a","match":{"redirect_schemes":["cursor"]},"access_ttl":"90s"}`)
	id := mustRegister(t, open(t, o), map[string]any{
		"client_name": "App", "redirect_uris": []string{"https://app.test/cb", "cursor://x/y"}, "token_endpoint_auth_method": "none",
	}).ClientID
	for _, c := range []struct {
		schemes []string
		want    time.Duration
		uris    int
	}{{nil, 90 * time.Second, 2}, {[]string{}, 0, 1}} {
		o.Schemes = c.schemes
		r := open(t, o)
		found, err := r.Find(t.Context(), id)
		if err != nil || found.Lives.Access != c.want || len(found.RedirectURIs) != c.uris {
			t.Errorf("schemes %q: %+v, %v", c.schemes, found, err)
		}
		authenticated, _, err := r.Authenticate(t.Context(), http.Header{}, url.Values{"client_id": {id}})
		if err != nil || authenticated.Lives.Access != c.want || len(authenticated.RedirectURIs) != 0 {
			t.Errorf("schemes %q: authenticated %+v, %v", c.schemes, authenticated, err)
		}
	}
}

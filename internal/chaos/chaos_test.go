package chaos_test

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"signet/internal/chaos"
	"signet/server"
	"signet/users"
)

// newServer returns a server that does to answers what the seed says; 0 is no chaos.
func newServer(t *testing.T, seed uint64) *server.Server {
	t.Helper()
	srv, err := server.New(server.Options{
		Issuer: "http://127.0.0.1:1", DataDir: filepath.Join(t.TempDir(), "data"), Chaos: seed,
		Check: func(context.Context, string, string) (users.User, error) { return users.User{}, users.ErrInvalid },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { srv.Close() })
	return srv
}

func get(srv *server.Server, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	srv.Handler().ServeHTTP(w, httptest.NewRequest("GET", srv.Issuer()+path, nil))
	return w
}

// strip parses a document without the members that a client must ignore.
func strip(t *testing.T, body []byte) map[string]any {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(body, &doc); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	unknown := func(name string, _ any) bool { return strings.HasPrefix(name, "x_chaos") }
	maps.DeleteFunc(doc, unknown)
	keys, _ := doc["keys"].([]any)
	keys = slices.DeleteFunc(keys, func(k any) bool {
		maps.DeleteFunc(k.(map[string]any), unknown)
		return strings.HasPrefix(k.(map[string]any)["kid"].(string), "chaos-")
	})
	slices.SortFunc(keys, func(a, b any) int {
		return strings.Compare(a.(map[string]any)["kid"].(string), b.(map[string]any)["kid"].(string))
	})
	if keys != nil {
		doc["keys"] = keys
	}
	return doc
}

// Documents keep their meaning, and each answer has another form.
func TestDocumentsAreDistortedAndKeepTheirMeaning(t *testing.T) {
	srv := newServer(t, 1)
	for _, path := range []string{"/.well-known/oauth-authorization-server", "/.well-known/jwks.json", "/.well-known/oauth-protected-resource"} {
		forms, types, names, kids := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
		var want map[string]any
		for n := range 40 {
			w := get(srv, path)
			if w.Code != http.StatusOK {
				t.Fatalf("%s: %d", path, w.Code)
			}
			got := strip(t, w.Body.Bytes())
			if n == 0 {
				want = got
			} else if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%s has another meaning (-want +got):\n%s", path, diff)
			}
			forms[w.Body.String()] = true
			types[w.Header().Get("Content-Type")] = true
			for name := range w.Header() {
				names[name] = true
			}
			for _, kid := range []string{"chaos-rsa-", "chaos-okp-", `"CHAOS"`} {
				kids[kid] = kids[kid] || strings.Contains(w.Body.String(), kid)
			}
			if !strings.Contains(w.Body.String(), "x_chaos_") {
				t.Errorf("%s: no unknown member in %s", path, w.Body)
			}
			if w.Header().Get("Etag") != "" {
				t.Errorf("%s: an ETag, although the answers differ", path)
			}
		}
		if len(forms) < 40 || len(types) < 3 {
			t.Errorf("%s: %d forms and %d content types in 40 answers", path, len(forms), len(types))
		}
		for _, name := range []string{"Cache-Control", "cache-control", "CACHE-CONTROL"} {
			if !names[name] {
				t.Errorf("%s: no header is called %s", path, name)
			}
		}
		if strings.HasSuffix(path, "jwks.json") && (!kids["chaos-rsa-"] || !kids["chaos-okp-"] || !kids[`"CHAOS"`] || len(want["keys"].([]any)) < 2) {
			t.Errorf("keys are %v, keys of other kinds %v", want["keys"], kids)
		}
	}
}

// Readiness says so too. Without chaos there is no mark.
func TestEveryAnswerIsMarked(t *testing.T) {
	srv := newServer(t, 5)
	marked := func(h http.Header) bool {
		for name, values := range h {
			if strings.EqualFold(name, chaos.Header) {
				return values[0] == "seed=5"
			}
		}
		return false
	}
	for _, path := range []string{"/", "/nowhere", "/mcp", "/token", "/authorize", "/readyz", "/.well-known/jwks.json"} {
		if w := get(srv, path); !marked(w.Header()) {
			t.Errorf("%s: %v", path, w.Header())
		}
	}
	if doc := strip(t, get(srv, "/readyz").Body.Bytes()); doc["chaos"] != "on" || doc["status"] != "ok" {
		t.Errorf("/readyz: %v", doc)
	}
	calm := newServer(t, 0)
	if w := get(calm, "/readyz"); strings.Contains(w.Body.String(), "chaos") || strings.Contains(strings.ToLower(strings.Join(slices.Collect(maps.Keys(w.Header())), " ")), "chaos") {
		t.Errorf("without chaos: %v %s", w.Header(), w.Body)
	}
}

func TestSameSeedDoesTheSameToTheSameRequests(t *testing.T) {
	run := func(seed uint64) (busy []int) {
		srv := newServer(t, seed)
		for n := range 300 {
			r := httptest.NewRequest("POST", srv.Issuer()+"/token", strings.NewReader("grant_type=x"))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			w := httptest.NewRecorder()
			srv.Handler().ServeHTTP(w, r)
			switch {
			case w.Code == http.StatusServiceUnavailable:
				busy = append(busy, n)
			case w.Code != http.StatusBadRequest && w.Code != http.StatusUnauthorized:
				t.Fatalf("request %d: %d %s", n, w.Code, w.Body)
			}
			get(srv, "/.well-known/jwks.json") // requests of other paths change nothing
		}
		return busy
	}
	first, again, other := run(11), run(11), run(12)
	if !slices.Equal(first, again) || slices.Equal(first, other) {
		t.Errorf("requests %v were refused, with the same seed %v, with another seed %v", first, again, other)
	}
	if len(first) < 1 || len(first) > 20 {
		t.Errorf("%d of 300 requests were refused, want between 1 and 20", len(first))
	}
}

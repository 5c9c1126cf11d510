package server_test

import (
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"signet/server"
)

func newChaos(t *testing.T, seed uint64, change func(*server.Options)) *server.Server {
	t.Helper()
	return newServer(t, func(o *server.Options) {
		o.Chaos, o.Log = seed, slog.New(slog.DiscardHandler)
		if change != nil {
			change(o)
		}
	})
}

// strip takes out what a client must ignore.
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

// Documents of a chaotic server say what they always say, in ever other forms.
func TestChaosDistortsWithoutLying(t *testing.T) {
	srv := newChaos(t, 1, nil)
	for _, path := range []string{"/.well-known/oauth-authorization-server", "/.well-known/jwks.json", "/.well-known/oauth-protected-resource"} {
		forms, types, names, kids := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
		var want map[string]any
		for n := range 40 {
			w := get(t, srv, path)
			if w.Code != http.StatusOK {
				t.Fatalf("%s: %d", path, w.Code)
			}
			got := strip(t, w.Body.Bytes())
			if n == 0 {
				want = got
			} else if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%s says something else:\n%s", path, diff)
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
				t.Errorf("%s: one ETag for answers that differ", path)
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
			t.Errorf("keys are %v, and of other kinds %v", want["keys"], kids)
		}
	}
}

// Every answer of a chaotic server says so, readiness too; nothing of another one does.
func TestChaosIsMarked(t *testing.T) {
	srv := newChaos(t, 5, nil)
	marked := func(h http.Header) bool {
		for name, values := range h {
			if strings.EqualFold(name, "Signet-Chaos") {
				return values[0] == "seed=5"
			}
		}
		return false
	}
	for _, path := range []string{"/", "/nowhere", "/mcp", "/token", "/authorize", "/readyz", "/.well-known/jwks.json"} {
		if w := get(t, srv, path); !marked(w.Header()) {
			t.Errorf("%s: %v", path, w.Header())
		}
	}
	if _, doc := readiness(t, srv); doc["chaos"] != "on" || doc["status"] != "ok" {
		t.Errorf("/readyz: %v", doc)
	}
	calm := newServer(t, nil)
	if w := get(t, calm, "/readyz"); strings.Contains(w.Body.String(), "chaos") || strings.Contains(strings.ToLower(strings.Join(slices.Collect(maps.Keys(w.Header())), " ")), "chaos") {
		t.Errorf("without chaos: %v %s", w.Header(), w.Body)
	}
}

// Chaos is for this machine.
func TestChaosNeedsALoopbackIssuer(t *testing.T) {
	srv, err := server.New(server.Options{Check: check, DataDir: t.TempDir(), Issuer: "https://auth.example.com", Chaos: 1})
	if err == nil {
		srv.Close()
		t.Fatal("it started")
	}
	if !strings.Contains(err.Error(), "loopback") || !strings.Contains(err.Error(), "https://auth.example.com") {
		t.Errorf("error %q", err)
	}
}

// The same seed does the same to the same requests, and another one something else.
func TestChaosIsRepeated(t *testing.T) {
	run := func(seed uint64) (busy []int) {
		srv := newChaos(t, seed, nil)
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
			get(t, srv, "/.well-known/jwks.json") // what goes on beside it does not matter
		}
		return busy
	}
	first, again, other := run(11), run(11), run(12)
	if !slices.Equal(first, again) || slices.Equal(first, other) {
		t.Errorf("busy were %v, again %v, and with another seed %v", first, again, other)
	}
	if len(first) < 1 || len(first) > 20 {
		t.Errorf("%d of 300 were busy, want about 6", len(first))
	}
}

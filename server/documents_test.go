package server_test

import (
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"signet/server"
)

// Plain requests for documents are answered before the full handler, with the same answer
// except for the request ID. All other requests go to the full handler.
func TestEarlyAnswersEqualThoseOfTheFullHandler(t *testing.T) {
	ahead := newServer(t, func(o *server.Options) { o.Issuer = "http://localhost:8080/t1" })
	debug := newServer(t, func(o *server.Options) {
		o.DataDir, o.Issuer = t.TempDir()+"/data", "http://localhost:8080/t1"
		o.Log = slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	ask := func(srv *server.Server, method, target string, header http.Header, body io.Reader) *http.Response {
		r := httptest.NewRequest(method, target, body)
		maps.Copy(r.Header, header)
		w := httptest.NewRecorder()
		srv.Handler().ServeHTTP(w, r)
		return w.Result()
	}
	for _, path := range []string{
		"/.well-known/oauth-authorization-server/t1", "/.well-known/openid-configuration/t1", "/t1/.well-known/openid-configuration",
		"/t1/.well-known/jwks.json", "/t1/.well-known/revoked",
	} {
		first := ask(ahead, "GET", path, nil, nil)
		if first.StatusCode != 200 || first.Header.Get("X-Request-Id") != "" {
			t.Errorf("%s: %d, with a request ID: %t; want 200 without", path, first.StatusCode, first.Header.Get("X-Request-Id") != "")
		}
		etag := http.Header{"If-None-Match": first.Header["Etag"]}
		for name, header := range map[string]http.Header{"plain": nil, "with its tag": etag, "with another": {"If-None-Match": {`"x"`}}} {
			var got, want *http.Response
			var a, b []byte
			for range 5 {
				got, want = ask(ahead, "GET", path, header, nil), ask(ahead, "GET", path+"?", header, nil)
				a, _ = io.ReadAll(got.Body)
				b, _ = io.ReadAll(want.Body)
				// If a second passes between the two, max-age is less, or the feed is signed anew.
				if got.Header.Get("Cache-Control") == want.Header.Get("Cache-Control") && got.Header.Get("ETag") == want.Header.Get("ETag") {
					break
				}
			}
			if want.Header.Get("X-Request-Id") == "" {
				t.Errorf("%s? was not answered by the full handler", path)
			}
			want.Header.Del("X-Request-Id")
			if got.StatusCode != want.StatusCode || string(a) != string(b) || header == nil && len(a) == 0 {
				t.Errorf("%s, %s: %d %.100q, from the full handler %d %.100q", path, name, got.StatusCode, a, want.StatusCode, b)
			}
			if diff := cmp.Diff(want.Header, got.Header); diff != "" {
				t.Errorf("%s, %s: headers (-full +early)\n%s", path, name, diff)
			}
		}
		for name, resp := range map[string]*http.Response{
			"HEAD":               ask(ahead, "HEAD", path, nil, nil),
			"a preflight":        ask(ahead, "OPTIONS", path, nil, nil),
			"a query":            ask(ahead, "GET", path+"?x=y", nil, nil),
			"a body":             ask(ahead, "GET", path, nil, strings.NewReader("x")),
			"an escaped path":    ask(ahead, "GET", strings.Replace(path, "k", "%6b", 1), nil, nil),
			"another host":       ask(ahead, "GET", "http://evil.test"+path, nil, nil),
			"with an access log": ask(debug, "GET", path, nil, nil),
		} {
			if resp.Header.Get("X-Request-Id") == "" {
				t.Errorf("%s of %s: %d, not from the full handler", name, path, resp.StatusCode)
			}
		}
	}
	old := httptest.NewRequest("GET", "/t1/.well-known/jwks.json", nil)
	old.Proto, old.ProtoMinor = "HTTP/1.0", 0
	w := httptest.NewRecorder()
	if ahead.Handler().ServeHTTP(w, old); w.Header().Get("Connection") != "close" {
		t.Errorf("HTTP/1.0: %v, want the connection closed", w.Header())
	}
	if resp := ask(ahead, "POST", "/t1/.well-known/jwks.json", nil, nil); resp.StatusCode != 405 {
		t.Errorf("POST: %d, want 405", resp.StatusCode)
	}
}

// A plain request for a document costs nothing but its answer.
func TestDocumentsAreAnsweredWithoutAllocation(t *testing.T) {
	srv := newServer(t, nil)
	for _, path := range []string{"/.well-known/oauth-authorization-server", "/.well-known/jwks.json", "/.well-known/revoked"} {
		r, w := httptest.NewRequest("GET", path, nil), &discard{http.Header{}}
		srv.Handler().ServeHTTP(w, r)
		if n := testing.AllocsPerRun(1000, func() { srv.Handler().ServeHTTP(w, r) }); n > 0 || w.header.Get("ETag") == "" {
			t.Errorf("%s: %.0f allocations", path, n)
		}
	}
}

// discard is an answer that nobody reads.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}

package mcp_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/jwt"
	"signet/mcp"
)

// discard is a response that drops its body.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}

// BenchmarkCall compares a tool call through Handler with the same call of the same tools
// through the SDK alone, in the protocol without sessions and in one with them.
func BenchmarkCall(b *testing.B) {
	w := newWorld(b)
	bare := sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return w.options.Server },
		&sdk.StreamableHTTPOptions{Stateless: true, JSONResponse: true, DisableLocalhostProtection: true, PropagateRequestCancellation: true})
	guarded := w.handler(b)
	sessionless, session := w.call(b, "echo", "{}").Header, w.call(b, "echo", "{}")
	legacy(session)
	for _, bb := range []struct {
		name   string
		h      http.Handler
		header http.Header
		text   string
	}{
		{"bare", bare, sessionless, body("echo", `{"message":"hi"}`)},
		{"guarded", guarded, sessionless, body("echo", `{"message":"hi"}`)},
		{"bare_session", bare, session.Header, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"message":"hi"}}}`},
		{"guarded_session", guarded, session.Header, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"message":"hi"}}}`},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest(http.MethodPost, resource, strings.NewReader(bb.text))
				r.Header = bb.header
				bb.h.ServeHTTP(&discard{http.Header{}}, r)
			}
		})
	}
}

// BenchmarkGuard is the bearer check alone, of a token that was verified before: one without
// and one with the user's upstream token in it.
func BenchmarkGuard(b *testing.B) {
	w := newUpstreamWorld(b)
	nothing := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	h := mcp.Guard(w.options, nothing)
	for name, r := range w.withAndWithoutUpstream(b) {
		b.Run(name, func(b *testing.B) {
			r.Body = io.NopCloser(strings.NewReader(""))
			rw := &discard{http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				h.ServeHTTP(rw, r)
			}
		})
	}
}

// BenchmarkCallWithUpstream is a tool call whose access token has the user's upstream token in
// it, beside one without.
func BenchmarkCallWithUpstream(b *testing.B) {
	w := newUpstreamWorld(b)
	text := body("echo", `{"message":"hi"}`)
	for name, good := range w.withAndWithoutUpstream(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest(http.MethodPost, resource, strings.NewReader(text))
				r.Header = good.Header
				w.h.ServeHTTP(&discard{http.Header{}}, r)
			}
		})
	}
}

// withAndWithoutUpstream returns calls of echo with two kinds of tokens. The claim is as long as
// that of a usual upstream token.
func (w *upstreamWorld) withAndWithoutUpstream(b *testing.B) map[string]*http.Request {
	with := w.call(b, "echo", "{}")
	with.Header.Set("Authorization", "Bearer "+w.token(b, func(c *jwt.Claims) { c.Upstream = strings.Repeat("x", 1500) }))
	return map[string]*http.Request{"plain": w.call(b, "echo", "{}"), "upstream": with}
}

// BenchmarkMetadata compares the metadata document with a handler that writes
// the same bytes.
func BenchmarkMetadata(b *testing.B) {
	w := newWorld(b)
	document := serve(mcp.Metadata(w.options), httptest.NewRequest("GET", metadataURL, nil)).Body.Bytes()
	bare := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write(document)
	})
	for _, bb := range []struct {
		name string
		h    http.Handler
	}{{"bare", bare}, {"metadata", mcp.Metadata(w.options)}} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			r := httptest.NewRequest("GET", metadataURL, nil)
			for b.Loop() {
				bb.h.ServeHTTP(&discard{http.Header{}}, r)
			}
		})
	}
}

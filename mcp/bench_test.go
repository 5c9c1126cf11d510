package mcp_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/mcp"
)

// discard is a response that drops its body.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}

// BenchmarkCall compares a tool call through Handler with the same call of the
// same tools through the SDK alone.
func BenchmarkCall(b *testing.B) {
	w := newWorld(b)
	bare := sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return w.options.Server },
		&sdk.StreamableHTTPOptions{Stateless: true, JSONResponse: true, DisableLocalhostProtection: true, PropagateRequestCancellation: true})
	text := body("echo", `{"message":"hi"}`)
	header := w.call(b, "echo", "{}").Header
	for _, bb := range []struct {
		name string
		h    http.Handler
	}{{"bare", bare}, {"guarded", w.handler(b)}} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest(http.MethodPost, resource, strings.NewReader(text))
				r.Header = header
				bb.h.ServeHTTP(&discard{http.Header{}}, r)
			}
		})
	}
}

// BenchmarkGuard is the bearer check alone, of a token that was verified before.
func BenchmarkGuard(b *testing.B) {
	w := newWorld(b)
	r := w.call(b, "echo", "{}")
	r.Body = io.NopCloser(strings.NewReader(""))
	nothing := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	h := mcp.Guard(w.options, nothing)
	rw := &discard{http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(rw, r)
	}
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

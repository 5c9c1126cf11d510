package mcp_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"signet/mcp"
)

func TestMetadataIsPublicAndDependsOnOptionsAlone(t *testing.T) {
	w := newWorld(t)
	h := mcp.Metadata(w.options)
	get := func(method string, edit func(*http.Request)) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, metadataURL, nil)
		r.Host = "evil.example"
		r.Header.Set("X-Forwarded-Host", "evil.example")
		r.Header.Set("Origin", "https://anybody.example")
		if edit != nil {
			edit(r)
		}
		got := serve(h, r)
		if origin := got.Header().Get("Access-Control-Allow-Origin"); origin != "*" {
			t.Errorf("%s: Access-Control-Allow-Origin %q, want *", method, origin)
		}
		if got.Header().Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s: credentials allowed", method)
		}
		return got
	}

	got := get("GET", nil)
	if got.Code != http.StatusOK || got.Header().Get("Content-Type") != "application/json" || got.Header().Get("Cache-Control") != "public, max-age=3600" {
		t.Errorf("status %d, %v", got.Code, got.Header())
	}
	var document map[string]any
	if err := json.Unmarshal(got.Body.Bytes(), &document); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"resource":                 resource,
		"authorization_servers":    []any{issuer},
		"scopes_supported":         []any{"read", "write"}, // not offline_access
		"bearer_methods_supported": []any{"header"},
		"resource_name":            "Test",
	}
	if diff := cmp.Diff(want, document); diff != "" {
		t.Errorf("document (-want +got):\n%s", diff)
	}

	if head := get("HEAD", nil); head.Code != http.StatusOK || head.Body.Len() != 0 || head.Header().Get("Content-Length") == "" {
		t.Errorf("HEAD: status %d, %d bytes, %v", head.Code, head.Body.Len(), head.Header())
	}
	for _, match := range []string{`"x", W/` + got.Header().Get("ETag"), "*", " * "} {
		again := get("GET", func(r *http.Request) { r.Header.Set("If-None-Match", match) })
		if again.Code != http.StatusNotModified || again.Body.Len() != 0 {
			t.Errorf("unchanged, If-None-Match %s: status %d, %d bytes", match, again.Code, again.Body.Len())
		}
	}
	options := get("OPTIONS", nil)
	if options.Code != http.StatusNoContent || !strings.Contains(options.Header().Get("Access-Control-Allow-Headers"), "mcp-protocol-version") {
		t.Errorf("OPTIONS: status %d, %v", options.Code, options.Header())
	}
	for _, method := range []string{"POST", "PUT", "DELETE"} {
		if got := get(method, nil); got.Code != http.StatusMethodNotAllowed || got.Header().Get("Allow") != "GET, HEAD, OPTIONS" {
			t.Errorf("%s: status %d, Allow %q", method, got.Code, got.Header().Get("Allow"))
		}
	}
}

package backend_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// Arguments that a tool's schema puts into headers are sent there, whether the list of tools was
// read before or not, and whoever calls.
func TestArgumentsInHeaders(t *testing.T) {
	server := sdk.NewServer(&sdk.Implementation{Name: "s", Version: "1"}, nil)
	server.AddTool(&sdk.Tool{Name: "search", InputSchema: json.RawMessage(`{"type":"object","properties":{
		"region":{"type":"string","x-mcp-header":"Region"},"at":{"type":"object","properties":{"n":{"type":"integer","x-mcp-header":"N"}}},
		"dry":{"type":"boolean","x-mcp-header":"Dry"},"bad":{"type":"string"},"plain":{"type":"string"}}}`)},
		func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			return &sdk.CallToolResult{}, nil
		})
	endpoint := sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return server }, &sdk.StreamableHTTPOptions{Stateless: true})
	var mu sync.Mutex
	var last http.Header
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Mcp-Method") == "tools/call" { // and not a health check
			mu.Lock()
			last = r.Header.Clone()
			mu.Unlock()
		}
		endpoint.ServeHTTP(w, r)
	}))
	defer h.Close()
	for _, listed := range []bool{false, true} {
		b := open(t, at(h.URL))
		if listed {
			if _, err := b.List(t.Context(), "tools", "", nil); err != nil {
				t.Fatal(err)
			}
		}
		for arguments, want := range map[string][3]string{
			`{"region":"eu","plain":"x"}`:             {"eu", "", ""},
			`{"region":"Zürich\n","at":{"n":7.0}}`:    {"=?base64?WsO8cmljaAo=?=", "7", ""},
			`{"dry":true,"at":{"n":null},"plain":""}`: {"", "", "true"},
		} {
			mustDo(t, b, callOf("search", arguments))
			mu.Lock()
			if got := [3]string{last.Get("Mcp-Param-Region"), last.Get("Mcp-Param-N"), last.Get("Mcp-Param-Dry")}; got != want {
				t.Errorf("%s: %q, want %q", arguments, got, want)
			}
			mu.Unlock()
		}
		call := callOf("search", `{"region":"eu"}`)
		call.Header = http.Header{"Mcp-Param-Region": {"us"}}
		if a, err := b.Do(t.Context(), call, nil); err != nil || !strings.Contains(string(a.Error), "-32020") {
			t.Errorf("a caller's wrong header: %s %v", a.Error, err)
		}
	}
}

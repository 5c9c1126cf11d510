package backend_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/internal/test/backends"
)

// Lists come whole, with their items as the server wrote them.
func TestLists(t *testing.T) {
	for _, legacy := range []bool{false, true} {
		m := backends.New(t, backends.Options{Legacy: legacy})
		b := open(t, at(m.Endpoint()))
		for list, want := range map[string]string{
			"tools": `"x-own":{"order":["b","a"]}`, "prompts": `"greet"`, "resources": `file:///notes.txt`, "resourceTemplates": `file:///notes/{name}`,
		} {
			items, err := b.List(t.Context(), list, "", nil)
			text, _ := json.Marshal(items)
			if err != nil || !strings.Contains(string(text), want) {
				t.Errorf("legacy %v, %s: %v, %s in %s", legacy, list, err, want, text)
			}
		}
		if _, err := b.List(t.Context(), "secrets", "", nil); err == nil {
			t.Error("there is no such list")
		}
	}
}

// All pages of a list are read.
func TestPages(t *testing.T) {
	server := sdk.NewServer(&sdk.Implementation{Name: "many", Version: "1"}, &sdk.ServerOptions{PageSize: 7})
	for i := range 40 {
		server.AddTool(&sdk.Tool{Name: "tool" + strconv.Itoa(i), InputSchema: json.RawMessage(`{"type":"object"}`)}, nil)
	}
	h := httptest.NewServer(sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return server }, &sdk.StreamableHTTPOptions{Stateless: true}))
	defer h.Close()
	items, err := open(t, at(h.URL)).List(t.Context(), "tools", "", nil)
	if err != nil || len(items) != 40 {
		t.Errorf("%d items, %v", len(items), err)
	}
}

// Ten thousand tools are a list, more are not; neither are too many bytes.
func TestListsAreBounded(t *testing.T) {
	for n, want := range map[int]bool{10_000: true, 10_001: false} {
		h := backends.NewHostile(t, backends.HostileOptions{Tools: backends.ManyTools(n)})
		items, err := open(t, at(h.Endpoint())).List(t.Context(), "tools", "", nil)
		if (err == nil && len(items) == n) != want {
			t.Errorf("%d tools: %d items, %v", n, len(items), err)
		}
	}
	h := backends.NewHostile(t, backends.HostileOptions{Tools: []json.RawMessage{backends.Tool("echo", strings.Repeat("x", 1<<20))}})
	s := at(h.Endpoint())
	if items, err := open(t, s).List(t.Context(), "tools", "", nil); err != nil || len(items) != 1 {
		t.Errorf("a description of 1 MB: %v", err)
	}
	s.MaxAnswer = 1 << 20
	if _, err := open(t, s).List(t.Context(), "tools", "", nil); err == nil {
		t.Error("a list of more bytes than an answer may have")
	}
}

// A list ends after a thousand pages, and as soon as the server names one again.
func TestPagesAreBounded(t *testing.T) {
	for what, c := range map[string]struct {
		cursor   func(page int) string // of the page after it
		requests int
		problem  string
	}{
		"1000 pages":        {func(page int) string { return strings.Repeat("c", page%1000) }, 1000, ""},
		"pages without end": {strconv.Itoa, 1000, "have more than 1000 pages"},
		"the same page":     {func(int) string { return "again" }, 2, "name the same next page twice"},
		"pages in a circle": {func(page int) string { return strconv.Itoa(page % 3) }, 4, "name the same next page twice"},
	} {
		var requests atomic.Int64
		h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(body))
			if strings.Contains(string(body), `"tools/list"`) {
				requests.Add(1)
			}
			next := ""
			if cursor := c.cursor(int(requests.Load())); cursor != "" {
				next = `,"nextCursor":"` + cursor + `"`
			}
			answering(`{"tools":[]`+next+`}`).ServeHTTP(w, r)
		}))
		defer h.Close()
		_, err := open(t, at(h.URL)).List(t.Context(), "tools", "", nil)
		if n := int(requests.Load()); n != c.requests || (err == nil) != (c.problem == "") || err != nil && !strings.HasSuffix(err.Error(), "its answers to tools/list "+c.problem) {
			t.Errorf("%s: %v after %d requests", what, err, n)
		}
	}
}

// Some servers end a list with an empty cursor, which they answer with the first page. Others have it
// as a cursor like any other.
func TestEmptyCursor(t *testing.T) {
	for name, c := range map[string]struct {
		pages map[string]string // by the cursor
		want  string
	}{
		"one page":        {map[string]string{"none": `a ""`, `""`: `a ""`}, "a"},
		"in another way":  {map[string]string{"none": `a ""`, `""`: `A ""`}, "a"},
		"two pages":       {map[string]string{"none": `a "2"`, `"2"`: `b ""`, `""`: `a "2"`}, "a b"},
		"a cursor":        {map[string]string{"none": `a ""`, `""`: `b`}, "a b"},
		"between cursors": {map[string]string{"none": `a "2"`, `"2"`: `b ""`, `""`: `c "4"`, `"4"`: `d`}, "a b c d"},
	} {
		h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(body))
			cursor := "none"
			if _, after, ok := strings.Cut(string(body), `"cursor":`); ok {
				cursor = after[:strings.IndexAny(after, ",}")]
			}
			tool, next, _ := strings.Cut(c.pages[cursor], " ")
			if next != "" {
				next = `,"nextCursor":` + next
			}
			answering(`{"tools":[{"name":"`+tool+`"}]`+next+`}`).ServeHTTP(w, r)
		}))
		defer h.Close()
		items, err := open(t, at(h.URL)).List(t.Context(), "tools", "", nil)
		var got []string
		for _, item := range items {
			var tool struct{ Name string }
			_ = json.Unmarshal(item, &tool)
			got = append(got, tool.Name)
		}
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, want %s: %v", name, got, c.want, err)
		}
	}
}

// A server without a method has nothing in its list.
func TestListOfNothing(t *testing.T) {
	b := open(t, at(backends.NewHostile(t, backends.HostileOptions{}).Endpoint()))
	if items, err := b.List(t.Context(), "prompts", "", nil); err != nil || len(items) != 0 {
		t.Errorf("%v %v", items, err)
	}
}

// answering is a server of protocol version 2026-07-28 that answers everything with a result.
func answering(result string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var m struct {
			ID     json.RawMessage
			Method string
		}
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
			http.Error(w, "not JSON", http.StatusBadRequest)
			return
		}
		result := result
		if m.Method == "server/discover" {
			result = `{"supportedVersions":["2026-07-28"],"capabilities":{}}`
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(`{"jsonrpc":"2.0","id":` + string(m.ID) + `,"result":` + result + `}`))
	})
}

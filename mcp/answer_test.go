package mcp_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// The answer is JSON, whatever the client says it takes.
func TestAnyAcceptIsServed(t *testing.T) {
	w := newWorld(t)
	h := w.handler(t)
	for _, accept := range [][]string{
		nil, {""}, {"application/json"}, {"text/event-stream"}, {"*/*"}, {"application/*"}, {"text/*"}, {"text/html"},
		{"application/json, text/event-stream"}, {"text/event-stream,application/json"}, {"application/json", "text/event-stream"},
		{"application/json;q=0.9, text/event-stream;q=0.1"}, {"APPLICATION/JSON; charset=utf-8"}, {"application/json-rpc"}, {"x"},
	} {
		for _, version := range []string{"2026-07-28", "2025-11-25", "2025-03-26", ""} {
			r := w.call(t, "echo", `{"message":"hi"}`)
			if version < "2026-07-28" {
				r = w.legacyCall(t, "echo", `{"message":"hi"}`)
				r.Header.Set("Mcp-Protocol-Version", version)
			}
			if version == "" {
				r.Header.Del("Mcp-Protocol-Version")
			}
			r.Header["Accept"] = accept
			got := serve(h, r)
			if got.Code != http.StatusOK || got.Header().Get("Content-Type") != "application/json" || decode(t, got).text() != "Echo: hi" {
				t.Errorf("Accept %q, version %q: status %d, %s: %s", accept, version, got.Code, got.Header().Get("Content-Type"), got.Body)
			}
		}
	}
}

// They come back as they were sent, or are refused as a JSON-RPC error.
func TestIDsComeBackAsTheyWereSent(t *testing.T) {
	w := newWorld(t)
	h := w.handler(t)
	for _, id := range []string{
		"0", "1", "-1", "-0", "9007199254740991", "9007199254740992", "9007199254740993", "-9007199254740993", "9223372036854775807", "9223372036854775808",
		"18446744073709551615", "123456789012345678901234567890", "1795220278941993978", "1.5", "-2.25", "1.0", "1e2", "1E+2", "0.1", "1e-9",
		`""`, `"0"`, `"1"`, `"a b"`, `"\u0041"`, `"\ud83d"`, `"\ud83d\ude00"`, `"\"}"`, `"\/"`, `"grüße 😀"`, `"<&>"`, "\"\u2028\"", `"` + strings.Repeat("x", 100_000) + `"`, `"` + strings.Repeat(`\\`, 1000) + `"`,
	} {
		for era, method := range map[string]string{"2026-07-28": "call", "2025-11-25": "call", "2025-06-18": "unknown", "2025-03-26": "malformed", "": "call"} {
			r := w.call(t, "echo", `{"message":"hi"}`)
			switch {
			case era < "2026-07-28":
				r = w.legacyCall(t, "echo", `{"message":"hi"}`)
				r.Header.Set("Mcp-Protocol-Version", era)
				setBody(r, strings.Replace(`{"jsonrpc":"2.0", "id" :1 ,"method":"tools/call","params":{"name":"echo","arguments":{"message":"hi"}}}`, "1 ", id+" ", 1))
			default:
				setBody(r, strings.Replace(body("echo", `{"message":"hi"}`), `"id":1`, `"id":`+id, 1))
			}
			switch method {
			case "unknown":
				setBody(r, `{"method":"tasks/list","id":`+id+`,"jsonrpc":"2.0"}`)
			case "malformed":
				setBody(r, `{"jsonrpc":"2.0","id":`+id+`,"method":"tools/call"}`)
			}
			if era == "" {
				r.Header.Del("Mcp-Protocol-Version")
			}
			got := serve(h, r)
			var reply struct {
				ID    json.RawMessage
				Error *jsonrpc.Error
			}
			if err := json.Unmarshal(got.Body.Bytes(), &reply); err != nil {
				t.Errorf("%.40s, %q: status %d: %.200s", id, era, got.Code, got.Body)
				continue
			}
			var sent, back any
			if json.Unmarshal([]byte(id), &sent) != nil || json.Unmarshal(reply.ID, &back) != nil || sent != back {
				t.Errorf("%.40s, %q: came back as %.40s", id, era, reply.ID)
			}
			if id[0] != '"' && string(reply.ID) != id {
				t.Errorf("%s, %q: came back as %s", id, era, reply.ID)
			}
			if (reply.Error != nil) != (method != "call") {
				t.Errorf("%.40s, %q: %.200s", id, era, got.Body)
			}
		}
	}
	for _, id := range []string{"{}", "[]", "true", "null", "1e999", "-1e999"} {
		r := w.legacyCall(t, "echo", `{"message":"hi"}`)
		setBody(r, `{"jsonrpc":"2.0","id":`+id+`,"method":"tools/call","params":{"name":"echo","arguments":{"message":"hi"}}}`)
		if got := serve(h, r); got.Code != http.StatusBadRequest || decode(t, got).code(t) != jsonrpc.CodeInvalidRequest {
			t.Errorf("%s: status %d: %s", id, got.Code, got.Body)
		}
	}
}

// The events of a subscription repeat its id, which the SDK must not change.
func TestSubscriptionRefusesIDsThatWouldChange(t *testing.T) {
	w := newWorld(t)
	h := w.handler(t)
	for _, id := range []string{"1.5", "9007199254740993", `"\ud83d"`} {
		r := w.call(t, "echo", "{}")
		r.Header.Set("Mcp-Method", "subscriptions/listen")
		r.Header.Del("Mcp-Name")
		setBody(r, `{"jsonrpc":"2.0","id":`+id+`,"method":"subscriptions/listen","params":{"notifications":{},`+meta+`}}`)
		if got := serve(h, r); got.Code != http.StatusBadRequest || decode(t, got).code(t) != jsonrpc.CodeInvalidRequest || !strings.Contains(got.Body.String(), `"id":`+id) {
			t.Errorf("%s: status %d: %s", id, got.Code, got.Body)
		}
	}
}

// A method that the server does not know is a JSON-RPC error with the id of the request,
// which older clients read only from a 200. A notification has no answer.
func TestUnknownMethodsAreNotFound(t *testing.T) {
	w := newWorld(t)
	h := w.handler(t)
	for _, method := range []string{"tasks/list", "triggers/list", "x", "", "Tools/List", "tools/list ", "rpc.discover", strings.Repeat("m", 10_000), "gr\\u00fcn"} {
		for _, version := range []string{"2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26", ""} {
			for _, params := range []string{"", `,"params":{}`, `,"params":null`} {
				r := w.legacyCall(t, "echo", "{}")
				r.Header.Set("Mcp-Protocol-Version", version)
				want := http.StatusOK
				switch version {
				case "":
					r.Header.Del("Mcp-Protocol-Version")
				case "2026-07-28":
					want, params = http.StatusNotFound, `,"params":{`+meta+`}`
					r.Header.Set("Mcp-Method", method)
				}
				setBody(r, fmt.Sprintf(`{"jsonrpc":"2.0","id":"a1","method":"%s"%s}`, method, params))
				got := serve(h, r)
				if got.Code != want || !strings.Contains(got.Body.String(), `"id":"a1"`) || decode(t, got).code(t) != jsonrpc.CodeMethodNotFound {
					t.Errorf("%.20q, version %q, params %.10q: status %d, want %d: %s", method, version, params, got.Code, want, got.Body)
				}
				setBody(r, fmt.Sprintf(`{"jsonrpc":"2.0","method":"%s"%s}`, method, params))
				if got := serve(h, r); got.Code != http.StatusAccepted || got.Body.Len() != 0 || got.Header().Get("Content-Type") != "" {
					t.Errorf("notification %.20q, version %q: status %d: %s", method, version, got.Code, got.Body)
				}
			}
		}
	}
	// These belong to one era only.
	for method, version := range map[string]string{"ping": "2026-07-28", "initialize": "2026-07-28", "logging/setLevel": "2026-07-28", "server/discover": "2025-11-25", "subscriptions/listen": "2025-11-25"} {
		r := w.legacyCall(t, "echo", "{}")
		params := `"params":{}`
		if version == "2026-07-28" {
			params = `"params":{` + meta + `}`
			r.Header.Set("Mcp-Method", method)
		}
		r.Header.Set("Mcp-Protocol-Version", version)
		setBody(r, `{"jsonrpc":"2.0","id":7,"method":"`+method+`",`+params+`}`)
		if got := serve(h, r); !strings.Contains(got.Body.String(), `"id":7`) || decode(t, got).code(t) != jsonrpc.CodeMethodNotFound {
			t.Errorf("%s in %s: status %d: %s", method, version, got.Code, got.Body)
		}
	}
}

// Whatever the SDK cannot run is answered as JSON.
func TestNoAnswerIsPlainText(t *testing.T) {
	w := newWorld(t)
	w.options.Access.WithoutLogin("greet")
	h := w.handler(t)
	for _, message := range []string{
		`{"id":1,"method":"tools/list"}`, `{"jsonrpc":"1.0","id":1,"method":"tools/list"}`, `{"jsonrpc":2,"id":1,"method":"tools/list"}`,
		`{"jsonrpc":"2.0","method":"tools/call","params":{"name":"echo"}}`, `{"jsonrpc":"2.0","id":1,"method":"tools/call"}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}`, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":7}}`,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"no_such_tool"}}`, `{"jsonrpc":"2.0","id":1,"method":"notifications/initialized"}`,
		`{"jsonrpc":"2.0","id":1,"method":"notifications/cancelled","params":{}}`, `{"jsonrpc":"2.0","method":"notifications/cancelled"}`,
		`{"jsonrpc":"2.0","id":1,"method":"initialize"}`, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":7}}`, `{"jsonrpc":"2.0","method":"initialize","params":{}}`,
		`{"jsonrpc":"2.0","id":1,"method":"logging/setLevel"}`, `{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"x"}}`, `{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"x"}}`,
		`{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{}}`, `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"x"}}`, `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":{}}}`,
		`{"jsonrpc":"2.0","id":1,"result":{}}`, `{"jsonrpc":"2.0","result":{}}`, `{"jsonrpc":"2.0","id":1}`, `{"jsonrpc":"2.0"}`, `{}`, `{"jsonrpc":"2.0","id":1,"error":7}`,
		`[]`, `7`, ``, `{`, `[{"jsonrpc":"2.0","id":1,"method":"ping"}]`,
	} {
		for _, version := range []string{"2026-07-28", "2025-11-25", "2025-03-26", "", "2024-11-05", "x"} {
			for _, method := range []string{"POST", "GET", "PUT", "DELETE"} {
				for _, token := range []bool{true, false} {
					r := w.legacyCall(t, "echo", "{}")
					r.Method = method
					r.Header.Set("Mcp-Protocol-Version", version)
					r.Header.Set("Mcp-Method", "tools/list")
					setBody(r, message)
					if !token {
						r.Header.Del("Authorization")
					}
					got := serve(h, r)
					if got.Code == http.StatusAccepted && got.Body.Len() == 0 {
						continue
					}
					if got.Header().Get("Content-Type") != "application/json" || !json.Valid(got.Body.Bytes()) {
						t.Errorf("%s %s, version %q: status %d, %s: %s", method, message, version, got.Code, got.Header().Get("Content-Type"), got.Body)
					}
				}
			}
		}
	}
}

// A resource without a path has two spellings.
func TestGuardTakesBothSpellingsOfAHost(t *testing.T) {
	for _, served := range []string{"https://mcp.example", "https://mcp.example/"} {
		w := newWorld(t)
		w.options.Resource = served
		w.options.Verifier = w.verifier(t, served)
		h := w.handler(t)
		for audience, want := range map[string]int{
			"https://mcp.example": 200, "https://mcp.example/": 200,
			"https://mcp.example//": 401, "https://mcp.example/mcp": 401, "https://mcp.example.evil": 401, "http://mcp.example": 401, "https://mcp.example:443": 401, "mcp.example/": 401, "https://MCP.example/": 401,
		} {
			r := w.call(t, "echo", `{"message":"hi"}`)
			r.Header.Set("Authorization", "Bearer "+w.tokenFor(t, audience))
			if got := serve(h, r); got.Code != want {
				t.Errorf("%s: a token for %s: status %d, want %d: %s", served, audience, got.Code, want, got.Body)
			}
		}
	}
	w := newWorld(t)
	r := w.call(t, "echo", `{"message":"hi"}`)
	r.Header.Set("Authorization", "Bearer "+w.tokenFor(t, resource+"/"))
	if got := serve(w.handler(t), r); got.Code != http.StatusUnauthorized {
		t.Errorf("a slash behind a path: status %d, want 401", got.Code)
	}
}

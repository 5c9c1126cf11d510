package flows

import (
	"net/http"
	"strings"
	"testing"

	"signet/internal/e2e"
	"signet/internal/test/backends"
)

// A program's own function adds a header for one server, and another one is the whole strategy of
// a server.
func TestGatewayStrategyExample_Row70_Row88_C30(t *testing.T) {
	notes, files, mail := backends.New(t, backends.Options{}), backends.New(t, backends.Options{}), backends.New(t, backends.Options{})
	issuer, _ := e2e.StartServerExample(t, "gateway-strategy", "NOTES_URL="+notes.Endpoint(), "FILES_URL="+files.Endpoint(), "MAIL_URL="+mail.Endpoint(), "MAIL_KEY=secret")
	session := e2e.Connect(t, issuer+"/mcp", e2e.SDKLogin(t, "alice", "cows"), nil)
	for _, name := range []string{"notes.whoami", "files.whoami", "mail.whoami"} {
		if got := e2e.CallTool(t, session, name, nil); got != "" {
			t.Errorf("%s was sent the token %q", name, got)
		}
	}
	for name, tt := range map[string]struct {
		log              *backends.MCP
		custom, sub, mac string
	}{
		"notes": {notes, "enabled", "", ""},
		"files": {files, "", "", ""},
		// printf 1 | openssl dgst -sha256 -hmac secret
		"mail": {mail, "", "1", "bd28ee142ca5b46259f6e27fc3a4216f447bd5843c406e63219cff30e73b135b"},
	} {
		calls := tt.log.Calls()
		if len(calls) != 1 {
			t.Errorf("%s: %d calls", name, len(calls))
			continue
		}
		h := calls[0].Header
		if h.Get("X-Custom-Auth") != tt.custom || h.Get("X-User") != tt.sub || h.Get("X-User-Signature") != tt.mac || h["Authorization"] != nil {
			t.Errorf("%s was sent %v", name, h)
		}
		if strings.Contains(tt.log.Log(), "Bearer") {
			t.Errorf("%s has seen a token", name)
		}
	}
	if status, body := e2e.Fetch(t, http.DefaultClient, issuer+"/about"); status != 200 || !strings.Contains(body, "own") {
		t.Errorf("the program's own page: %d %s", status, body)
	}
}

package gateway

import (
	"encoding/json"
	"strings"
	"testing"

	"signet/internal/e2e"
	"signet/internal/test/backends"
	"signet/internal/test/npm"
)

// The TypeScript SDK logs in and calls tools of servers of both eras.
func TestTypeScriptClients_Row77(t *testing.T) {
	npm.Node(t)
	a, b := backends.New(t, backends.Options{}), backends.New(t, backends.Options{Legacy: true})
	w := start(t, two(a.Endpoint(), b.Endpoint()))
	for _, version := range []string{"v1", "v2"} {
		t.Run(version, func(t *testing.T) {
			p := npm.Start(t, t.TempDir(), npm.Driver, version, w.Issuer+"/mcp", "auto", "{}")
			for _, command := range []string{`{"do":"connect"}`, `{"do":"call","tool":"a.echo","arguments":{"n":7}}`, `{"do":"call","tool":"b.echo","arguments":{"n":7}}`} {
				answer := drive(t, p, command)
				if strings.Contains(command, "call") && !strings.Contains(answer, `\"n\":7`) && !strings.Contains(answer, `"n":7`) {
					t.Errorf("%s: %s", command, answer)
				}
			}
		})
	}
}

// drive sends a command to the driver, signs in if it asks for that, and returns the result.
func drive(t *testing.T, p *npm.Process, command string) string {
	t.Helper()
	for range 3 {
		var answer struct {
			Authorize string
			Result    json.RawMessage
		}
		line := ask(t, p, command)
		if err := json.Unmarshal([]byte(line), &answer); err != nil {
			t.Fatalf("%s: %s", command, line)
		}
		if answer.Authorize == "" {
			if answer.Result == nil {
				t.Fatalf("%s: %s", command, line)
			}
			return string(answer.Result)
		}
		back, err := json.Marshal(map[string]string{"do": "finish", "back": e2e.SignIn(t, answer.Authorize, "ann", e2e.AnnsPassword).String()})
		if err != nil {
			t.Fatal(err)
		}
		ask(t, p, string(back))
	}
	t.Fatalf("%s: it asks for a login again and again", command)
	return ""
}

// ask sends a line and returns the answer.
func ask(t *testing.T, p *npm.Process, line string) string {
	t.Helper()
	p.Send(line)
	for {
		answer, ok := p.Next()
		if !ok {
			t.Fatalf("%s: the client has ended:\n%s", line, p.Output())
		}
		if !answer.Stderr {
			return answer.Text
		}
	}
}

package backend_test

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"signet/internal/backend"
	"signet/internal/test/npm"
)

// The server by which the protocol's authors show all of it, as people start it.
func TestServerFromNPM_Probe15_Row79(t *testing.T) {
	t.Chdir("../..") // paths of npm are seen from there
	node := npm.Node(t)
	script, err := filepath.Abs(filepath.Join(npm.Modules, "@modelcontextprotocol/server-everything/dist/index.js"))
	if err != nil {
		t.Fatal(err)
	}
	s := newStdio(t, "", "", func(o *backend.Options) { o.Server.Instances[0].Command = []string{node, script, "stdio"} })
	tools, err := s.List(t.Context(), "tools", "", nil)
	if err != nil || len(tools) < 5 {
		t.Fatalf("%d tools, error %v", len(tools), err)
	}
	if got := text(t, s.call(t, "echo", `{"message":"caf\u00e9"}`)); !strings.Contains(got, "café") {
		t.Errorf("echo answers %q", got)
	}
	var progress []string
	m := backend.Message{Method: "tools/call", Name: "trigger-long-running-operation", Params: json.RawMessage(`{"name":"trigger-long-running-operation","_meta":{"progressToken":"mine"},"arguments":{"duration":0.1,"steps":3}}`)}
	s.send(t, m, func(method string, message json.RawMessage) { progress = append(progress, string(message)) })
	if len(progress) != 3 || !strings.Contains(progress[2], `"progressToken":"mine"`) {
		t.Errorf("progress: %s", progress)
	}
	for list, least := range map[string]int{"prompts": 1, "resources": 1, "resourceTemplates": 1} {
		if items, err := s.List(t.Context(), list, "", nil); err != nil || len(items) < least {
			t.Errorf("%s: %d, error %v", list, len(items), err)
		}
	}
}

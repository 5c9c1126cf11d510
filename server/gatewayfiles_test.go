package server_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"signet/server"
)

// A server of every role in one process starts with each file that master-mcp-server documents,
// and lives while the servers in it answer nothing.
func TestFilesOfTheOtherGatewayStart_Row71_Probe20(t *testing.T) {
	files, err := filepath.Glob("../internal/gatewayconfig/testdata/good/*")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			srv := newServer(t, func(o *server.Options) {
				o.Gateway.Config, o.Gateway.Environ = file, func(name string) (string, bool) {
					set := map[string]bool{"GITHUB_CLIENT_ID": true, "GITHUB_CLIENT_SECRET": true, "GOOGLE_CLIENT_ID": true, "GOOGLE_CLIENT_SECRET": true, "INTERNAL_BACKEND_TOKEN": true, "MASTER_OAUTH_CLIENT_SECRET": true}[name]
					return "x", set
				}
				o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
			})
			w := httptest.NewRecorder()
			srv.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, srv.Issuer()+"/mcp", nil))
			if w.Code != http.StatusUnauthorized {
				t.Errorf("a call without a token: %d %s", w.Code, w.Body)
			}
		})
	}
}

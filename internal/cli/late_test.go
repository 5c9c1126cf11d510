package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Each variable whose wrong value shows only when the value is used stops the server, and
// the doctor finds it; both name the variable.
func TestLateFailureNamesTheVariable(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file, open := write("file", "neither <form> nor {}", 0o600), write("open", "", 0o666)
	if err := os.Chmod(open, 0o666); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }))
	defer other.Close()
	busy := other.Listener.Addr().String()
	none := filepath.Join(dir, "none")
	any := []string(nil) // any value that is read can be used, or only warns
	late := map[string][]string{
		"ISSUER": {"https://as.example:port", "localhost:8080"}, "LISTEN": {"127.0.0.1:99999", "127.0.0.1:-1", "192.0.2.1:0", "nowhere.invalid:0", busy, "127.0.0.1:nothing"},
		"TLS_CERT": {none, file, dir}, "TLS_KEY": {none, file}, "ROLE": {"none"}, "RESOURCES": {"https://a.example/#x", "a"},
		"DATA_DIR": {file, filepath.Join(file, "data")}, "SECRET": {"short", strings.Repeat("A", 42) + "!", strings.Repeat("A", 43) + "," + strings.Repeat("A", 43)},
		"STORE":      {filepath.Join(none, "signet.db"), file, dir, "postgres://u:p@127.0.0.1:1/x?sslrootcert=" + none + "&sslmode=verify-full"},
		"USERS_FILE": {file, open, dir}, "CLIENTS_FILE": {file, open, dir}, "GROUP_READ": {"maybe"},
		"SCOPES": {"a\"b", ","}, "DEFAULT_SCOPES": {"none"}, "REQUIRED_SCOPES": {"none"}, "SCOPE_HIERARCHY": {"none>read"},
		"CODE_TTL": {"1"}, "ACCESS_TTL": {"0s"}, "REFRESH_TTL": {"-1s"}, "REFRESH_IDLE_TTL": {"x"}, "REPLAY_WINDOW": {"2h"}, "KEY_ROTATION": {"1s"},
		"KEYS_DIR": {none, empty, file}, "TRUSTED_PROXIES": {"10.0.0.1", "none"}, "MCP_ORIGINS": {"*", "null", "https://a.example/"}, "PUBLIC_TOOLS": any, "HIDDEN_TOOLS": any,
		"REGISTRATION": {"closed"}, "REGISTRATION_TOKEN": {"short"}, "REDIRECT_SCHEMES": {"http"}, "LIMITS": {"none=1"}, "APP_NAME": any,
		"LOGO": {none, file, dir}, "COLOR": {"green"}, "MESSAGES": {none, file, dir}, "LOGIN_TEMPLATE": {none, file, dir},
		"REVOCATION_POLL": {"0s"}, "REVOCATION_MAX_AGE": {"1s"}, "METRICS_LISTEN": {"127.0.0.1:99999", "192.0.2.1:0", busy},
		"ROLLBACK": {"none"}, "CLIENT_DOCUMENTS": {"maybe"}, "CLIENT_DOCUMENT_HOSTS": {"https://a.example"}, "CLIENT_DOCUMENT_DENIED_HOSTS": {"a b"}, "CLIENT_DOCUMENT_FILES": {none, file, dir}, "CLIENT_QUIRKS": {none, file, dir},
		"UPSTREAM_ISSUER": {"http://id.example", "id.example"}, "UPSTREAM_CLIENT_ID": {"x"}, "UPSTREAM_CLIENT_SECRET": {"x"}, "UPSTREAM_CONFIG": {none, file, dir}, "UPSTREAM_KEY": {"short"}, "UPSTREAM_USERNAME": any, "UPSTREAM_PASSWORD": any,
		"GATEWAY_CONFIG": {none, file, dir}, "GATEWAY_CLIENT_ID": {"x"}, "GATEWAY_CLIENT_SECRET": {"x"}, "GATEWAY_CLIENT_KEY": {none},
		"LOG_FORMAT": {"xml"}, "LOG_LEVEL": {"loud"}, "DRAIN_DELAY": {"1h"},
	}
	needed := map[string]string{"TLS_CERT": "TLS_KEY", "TLS_KEY": "TLS_CERT"}
	for i, f := range variables() {
		name := f.Tag.Get("env")
		values, ok := late[name]
		if !ok {
			t.Errorf("%s: no row", name)
		}
		for j, value := range values {
			environ := []string{"SIGNET_DATA_DIR=" + filepath.Join(dir, fmt.Sprint("data", i, "-", j)), envPrefix + name + "=" + value}
			if pair := needed[name]; pair != "" {
				environ = append(environ, envPrefix+pair+"="+file)
			}
			if strings.HasPrefix(value, "postgres:") {
				environ = append(environ, "SIGNET_SECRET="+strings.Repeat("A", 43))
			}
			if out := serveUntil(t, `"msg":"serving"`, environ...).String(); strings.Contains(out, `"msg":"serving"`) || !strings.Contains(out, envPrefix+name) {
				t.Errorf("%s=%s: serve: %s", name, value, out)
			}
			var out strings.Builder
			status := Run(t.Context(), Process{Environ: append([]string{"SIGNET_LISTEN=127.0.0.1:0", "SIGNET_METRICS_LISTEN=off"}, environ...), Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out}, []string{"doctor"})
			if status != exitFailed || !strings.Contains(out.String(), envPrefix+name) {
				t.Errorf("%s=%s: doctor: status %d, %s", name, value, status, out.String())
			}
		}
	}
}

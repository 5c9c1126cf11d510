package server_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"signet/server"
)

// Each new content that comes into use is a generation. A content that cannot be used is not.
func TestReadinessShowsTheGenerationsOfUsersAndClients(t *testing.T) {
	dir := t.TempDir()
	srv := newServer(t, func(o *server.Options) { o.Check, o.DataDir = nil, dir })
	write := func(name, content string) {
		t.Helper()
		temp := filepath.Join(dir, "temp")
		if err := os.WriteFile(temp, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(temp, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	wait := func(users, clients int, config string) {
		t.Helper()
		until(t, fmt.Sprintf("users %d, clients %d, config %s", users, clients, config), func() (any, bool) {
			_, doc := readiness(t, srv)
			if doc.Users == nil || doc.Clients == nil {
				t.Fatalf("/readyz says %+v, without a generation", doc)
			}
			return get(t, srv, "/readyz").Body, *doc.Users == users && *doc.Clients == clients && doc.Config == config
		})
	}
	wait(1, 1, "ok")
	write("users", "# nobody\n")
	wait(2, 1, "ok")
	write("clients.json", `{"clients":[]}`)
	wait(2, 2, "ok")
	write("users", "nonsense\n")
	wait(2, 2, "stale")
	write("users", "# nobody yet\n")
	wait(3, 2, "ok")

	without := newServer(t, nil)
	if _, got := readiness(t, without); got.Users != nil || got.Clients == nil {
		t.Errorf("with a check in place of the users file: %+v, want clients alone", got)
	}
}

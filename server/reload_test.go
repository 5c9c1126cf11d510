package server_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"signet/server"
)

// Each other content of a file that comes into use is a generation of its own; a content
// that cannot be used is none.
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
	until := func(users, clients int, config string) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			_, got := readiness(t, srv)
			if got.Users == nil || got.Clients == nil {
				t.Fatalf("/readyz says %+v, without a generation", got)
			}
			if *got.Users == users && *got.Clients == clients && got.Config == config {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("/readyz says users %d, clients %d, config %s; want %d, %d, %s", *got.Users, *got.Clients, got.Config, users, clients, config)
			}
		}
	}
	until(1, 1, "ok")
	write("users", "# nobody\n")
	until(2, 1, "ok")
	write("clients.json", `{"clients":[]}`)
	until(2, 2, "ok")
	write("users", "nonsense\n")
	until(2, 2, "stale")
	write("users", "# nobody yet\n")
	until(3, 2, "ok")

	without := newServer(t, nil)
	if _, got := readiness(t, without); got.Users != nil || got.Clients == nil {
		t.Errorf("with a check in place of the users file: %+v, want clients alone", got)
	}
}

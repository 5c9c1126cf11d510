package server_test

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
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

// Reload looks at the files now, although they were looked at just before.
func TestReloadLooksAtOnce(t *testing.T) {
	dir, log := t.TempDir(), &safeBuffer{}
	srv := newServer(t, func(o *server.Options) {
		o.Check, o.DataDir, o.Log = nil, dir, slog.New(slog.NewTextHandler(log, nil))
	})
	for round := 1; round <= 3; round++ {
		readiness(t, srv) // looks
		content := fmt.Sprintf("# %d\n", round)
		if err := os.WriteFile(filepath.Join(dir, "users"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		srv.Reload()
		until(t, "the result in the log", func() (any, bool) {
			return log, strings.Count(log.String(), "users and clients are as their files say") == round
		})
		if _, doc := readiness(t, srv); *doc.Users != round+1 {
			t.Errorf("after %d reloads the users are of generation %d", round, *doc.Users)
		}
	}
}

// A pinned document that cannot be used any longer is reported as users and clients are.
func TestPinnedDocumentThatCannotBeUsedIsReported(t *testing.T) {
	file, log := filepath.Join(t.TempDir(), "client.json"), &safeBuffer{}
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const good = `{"client_id":"https://app.test/m.json","client_name":"App","redirect_uris":["https://app.test/cb"]}`
	write(good)
	srv := newServer(t, func(o *server.Options) {
		o.ClientDocuments.Files, o.Log = []string{file}, slog.New(slog.NewTextHandler(log, nil))
	})
	wait := func(config, line string) {
		t.Helper()
		srv.Reload()
		until(t, config+" and "+line, func() (any, bool) {
			_, doc := readiness(t, srv)
			return fmt.Sprint(doc, log), doc.Config == config && strings.Contains(log.String(), line)
		})
	}
	wait("ok", "as their files say")
	write("{}")
	wait("stale", "client_id is not the URL of the document")
	write(good)
	wait("ok", "as their files say")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	wait("stale", file+" is gone")
}

// Reload makes new connections get the certificate that is in the files now. One that
// cannot be used changes nothing.
func TestReloadTakesNewCertificate(t *testing.T) {
	cert, key := selfSigned(t)
	nextCert, nextKey := selfSigned(t)
	srv := newServer(t, func(o *server.Options) { o.Issuer, o.TLSCert, o.TLSKey = "https://localhost:8443", cert, key })
	base, stop := serving(t, srv)
	defer stop()
	presented := func() string {
		t.Helper()
		c, err := tls.Dial("tcp", strings.TrimPrefix(base, "http://"), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return string(c.ConnectionState().PeerCertificates[0].Raw)
	}
	replace := func(path, by string) {
		t.Helper()
		b, err := os.ReadFile(by)
		if err == nil {
			err = os.WriteFile(path, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	first := presented()
	replace(cert, nextCert)
	srv.Reload() // certificate and key do not belong together
	if presented() != first {
		t.Error("a certificate without its key is in use")
	}
	replace(key, nextKey)
	srv.Reload()
	if presented() == first {
		t.Error("the new certificate is not in use")
	}
}

// The start says, before it reads a users file that takes long, what to use in its place.
func TestLongUsersFileIsWarnedOf(t *testing.T) {
	comments := strings.Repeat("# "+strings.Repeat("x", 1021)+"\n", 1<<10) // 1 MiB
	for megabytes, warned := range map[int]bool{20: false, 21: true} {
		dir, log := t.TempDir(), &safeBuffer{}
		if err := os.WriteFile(filepath.Join(dir, "users"), []byte(strings.Repeat(comments, megabytes)), 0o600); err != nil {
			t.Fatal(err)
		}
		newServer(t, func(o *server.Options) {
			o.Check, o.DataDir, o.Log = nil, dir, slog.New(slog.NewTextHandler(log, nil))
		})
		text := log.String()
		if got := strings.Contains(text, "the users file is long") && strings.Contains(text, "docs/upstream.md"); got != warned {
			t.Errorf("%d MiB: warned %t, want %t:\n%s", megabytes, got, warned, text)
		}
	}
}

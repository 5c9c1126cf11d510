// Package pgtest gives each test a PostgreSQL database of its own, on a throwaway
// cluster that the test binary starts for its first test, from Debian's postgresql.
// SIGNET_TEST_POSTGRES is the URL of another server to use, with a user that may create
// databases.
//
// Without PostgreSQL the test is skipped, or fails if SIGNET_TEST_ALL is set. [Bouncer]
// puts a PgBouncer in front of one.
package pgtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const given = "SIGNET_TEST_POSTGRES"

// URL returns the URL of an empty database that exists until the end of the test.
func URL(t testing.TB) string {
	t.Helper()
	admin, err := server()
	if err != nil {
		if os.Getenv("SIGNET_TEST_ALL") != "" {
			t.Fatal("no PostgreSQL: ", err)
		}
		t.Skip("no PostgreSQL: ", err)
	}
	u, err := url.Parse(admin)
	if err != nil {
		t.Fatal(given, " is not a URL")
	}
	name := "signet_test_" + strings.ToLower(rand.Text()[:12])
	Exec(t, admin, "CREATE DATABASE "+name+" TEMPLATE template0 ENCODING 'UTF8'")
	if os.Getenv(given) != "" { // a throwaway cluster is removed as a whole
		t.Cleanup(func() { Exec(t, admin, "DROP DATABASE "+name+" WITH (FORCE)") })
	}
	u.Path = "/" + name
	return u.String()
}

// Exec runs a statement on a database, outside of any store.
func Exec(t testing.TB, url, query string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// server is the URL of the server that all tests of this binary share.
var server = sync.OnceValues(func() (string, error) {
	if url := os.Getenv(given); url != "" {
		return url, nil
	}
	s, err := NewServer()
	if err != nil {
		return "", err
	}
	return s.URL, nil // it ends with this process
})

// Bin finds PostgreSQL's programs, which Debian keeps out of the PATH.
func Bin() (dir string, err error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path), nil
		}
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("no initdb in the PATH or /usr/lib/postgresql (Debian's package postgresql has it)")
	}
	return filepath.Dir(slices.Max(found)), nil
}

func owner(dir string) (*syscall.Credential, error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, os.Chown(dir, int(uid), int(gid))
}

// Package pgtest gives tests a PostgreSQL database: each its own, on a throwaway
// cluster that the test binary starts when the first test asks, from Debian's
// postgresql. SIGNET_TEST_POSTGRES names a server to use instead, by the URL of a
// user who may make databases.
//
// Where there is no PostgreSQL the test is skipped, or fails if SIGNET_TEST_ALL is
// set.
package pgtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
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

// URL returns the URL of an empty database that is gone after the test.
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
	if os.Getenv(given) != "" { // a throwaway cluster goes as a whole
		t.Cleanup(func() { Exec(t, admin, "DROP DATABASE "+name+" WITH (FORCE)") })
	}
	u.Path = "/" + name
	return u.String()
}

// Exec runs a statement of the test's own, outside of any store.
func Exec(t testing.TB, url, query string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
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
	return start()
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

// start makes a cluster and runs it until this process ends, however it ends: a
// shell waits for the end of its input, and cleans up.
func start() (string, error) {
	bin, err := Bin()
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "signet-postgres-")
	if err != nil {
		return "", err
	}
	attr := &syscall.SysProcAttr{Setpgid: true}
	if os.Geteuid() == 0 { // as whom PostgreSQL does not run
		if attr.Credential, err = owner(dir); err != nil {
			return "", err
		}
	}
	port, err := freePort()
	if err != nil {
		return "", err
	}
	password := rand.Text()
	cmd := exec.Command("/bin/sh", "-c", script, bin, dir, strconv.Itoa(port), password)
	cmd.Dir, cmd.SysProcAttr = dir, attr
	if cmd.Stdout, err = os.CreateTemp("", "signet-postgres-*.log"); err != nil {
		return "", err
	}
	cmd.Stderr = cmd.Stdout
	if _, err := cmd.StdinPipe(); err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	go cmd.Wait() // keeps its input open, too
	log := cmd.Stdout.(*os.File).Name()
	defer os.Remove(log)
	u := fmt.Sprintf("postgres://postgres:%s@127.0.0.1:%d/postgres?sslmode=disable", password, port)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		c, err := pgx.Connect(ctx, u)
		if err == nil {
			c.Close(ctx)
		}
		cancel()
		if err == nil {
			return u, nil
		}
	}
	text, _ := os.ReadFile(log)
	return "", fmt.Errorf("the cluster does not start: %s", text)
}

// script is called with the programs' folder as $0, then folder, port and password.
const script = `
printf '%s\n' "$3" >"$1/password"
"$0/initdb" -D "$1/data" -U postgres -E UTF8 --locale=C.UTF-8 --auth-local=trust --auth-host=password --pwfile="$1/password" >/dev/null || exit
"$0/postgres" -D "$1/data" -c listen_addresses=127.0.0.1 -c port="$2" -c unix_socket_directories="$1" -c max_connections=200 -c shared_buffers=64MB </dev/null &
read _
kill -QUIT $!
wait
rm -rf "$1/data" "$1/password"
rmdir "$1" 2>/dev/null
`

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

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

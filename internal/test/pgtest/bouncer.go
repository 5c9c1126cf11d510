package pgtest

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"signet/internal/test/freeport"
)

// Bouncer starts a PgBouncer in front of the database of url, with its defaults except
// for more settings, such as "pool_mode = transaction", and returns its URL. It ends with
// the test, or with this process. Without Debian's package pgbouncer the test is skipped,
// or fails if SIGNET_TEST_ALL is set.
func Bouncer(t testing.TB, to string, settings ...string) string {
	t.Helper()
	program, err := bouncerProgram()
	if err != nil {
		if os.Getenv("SIGNET_TEST_ALL") != "" {
			t.Fatal("no PgBouncer: ", err)
		}
		t.Skip("no PgBouncer: ", err)
	}
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal("not a URL")
	}
	port, err := freeport.New()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "signet-pgbouncer-")
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	conf := fmt.Sprintf("[databases]\n* = host=%s port=%s\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %d\nunix_socket_dir =\nauth_file = %s/users\n%s\n",
		u.Hostname(), u.Port(), port, dir, strings.Join(settings, "\n"))
	for name, content := range map[string]string{"pgbouncer.ini": conf, "users": fmt.Sprintf("%q %q\n", u.User.Username(), password)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	user := ""
	if os.Geteuid() == 0 { // as which PgBouncer does not run
		user = "postgres"
		if _, err := owner(dir); err != nil {
			t.Fatal(err)
		}
	}
	log := startBouncer(t, program, dir, user)
	u.Host = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	awaitBouncer(t, u.String(), log)
	return u.String()
}

func bouncerProgram() (string, error) {
	for _, name := range []string{"pgbouncer", "/usr/sbin/pgbouncer"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("no pgbouncer in the PATH or /usr/sbin (Debian's package pgbouncer has it)")
}

// bouncerScript is called with the program as $0, then folder and user. The shell ends
// PgBouncer when its input ends, as that of [Server] does.
const bouncerScript = `
"$0" -q ${2:+-u "$2"} "$1/pgbouncer.ini" </dev/null &
pid=$!
read end
kill -TERM "$pid"
wait
rm -rf "$1"
`

// startBouncer returns the file of what PgBouncer logs.
func startBouncer(t testing.TB, program, dir, user string) *os.File {
	t.Helper()
	log, err := os.CreateTemp(t.TempDir(), "pgbouncer")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", bouncerScript, program, dir, user)
	cmd.SysProcAttr, cmd.Stdout, cmd.Stderr = &syscall.SysProcAttr{Setpgid: true}, log, log
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		input.Close()
		cmd.Wait()
		log.Close()
	})
	return log
}

// awaitBouncer waits until PgBouncer answers, also with a refusal.
func awaitBouncer(t testing.TB, url string, log *os.File) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal("not a URL")
	}
	for address := net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port))); ; time.Sleep(20 * time.Millisecond) {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err == nil {
			c.Close()
			return
		}
		if ctx.Err() != nil {
			said, _ := os.ReadFile(log.Name())
			t.Fatalf("PgBouncer does not start: %v\n%s", err, said)
		}
	}
}

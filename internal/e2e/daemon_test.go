package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/internal/test/freeport"
	"signet/internal/test/process"
)

// builds is where the tests' builds of the program are.
var builds = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "signet-test-") })

var plainBinary = sync.OnceValues(func() (string, error) { return build("signet") })

// build builds the program with more flags than usual.
func build(name string, flags ...string) (string, error) {
	dir, err := builds()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	return path, process.Build(context.Background(), path, append(flags, "-ldflags", "-s -w")...)
}

func TestMain(m *testing.M) {
	if addr := os.Getenv(bareServer); addr != "" {
		fmt.Fprintln(os.Stderr, serveBare(addr))
		os.Exit(1)
	}
	if err := os.Chdir("../.."); err != nil { // paths are seen from the root of the module
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if dir, err := builds(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// program is the built binary, as a user runs it.
func program(t testing.TB) string {
	t.Helper()
	path, err := plainBinary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// need skips the test where a program it drives is missing, and fails it where
// nothing may be skipped.
func need(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("SIGNET_TEST_ALL") != "" {
		t.Fatalf("%s is missing, and SIGNET_TEST_ALL lets nothing be skipped", name)
	}
	t.Skipf("%s is missing", name)
	return ""
}

// daemon is a running `signet serve`.
type daemon struct {
	t      testing.TB
	p      *process.Process // nil before the first start
	issuer string           // http://localhost:PORT
	dir    string           // data directory
	env    []string
	args   []string
	prefix []string // of the command line: a program that starts ours
	binary string   // another build than program's

	mu  sync.Mutex
	log []byte        // everything it wrote
	new int           // what was written in this life, and not yet read, begins here
	up  chan struct{} // closed when it says that it serves
}

// freePort returns a loopback port that nobody listens on.
func freePort(t testing.TB) string {
	t.Helper()
	port, err := freeport.New()
	if err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(port)
}

// serve starts the binary with a data directory of its own and waits until it
// serves. settings are more variables, args more arguments.
func startDaemon(t testing.TB, settings []string, args ...string) *daemon {
	t.Helper()
	d := newDaemon(t, settings, args...)
	d.start()
	return d
}

// newDaemon is startDaemon before the start.
func newDaemon(t testing.TB, settings []string, args ...string) *daemon {
	t.Helper()
	port := freePort(t)
	d := &daemon{t: t, issuer: "http://localhost:" + port, dir: filepath.Join(t.TempDir(), "data"), args: append([]string{"serve"}, args...)}
	d.env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(),
		"SIGNET_ISSUER=" + d.issuer, "SIGNET_LISTEN=127.0.0.1:" + port, "SIGNET_DATA_DIR=" + d.dir, "SIGNET_METRICS_LISTEN=off", "SIGNET_LOG_LEVEL=debug",
	}, settings...)
	t.Cleanup(func() {
		d.kill()
	})
	return d
}

// start runs the binary until it says that it serves, or fails the test with what
// it said instead.
func (d *daemon) start() {
	d.t.Helper()
	cmd := d.command()
	cmd.Stdout, cmd.Stderr = d, d // one pipe, which keeps the order
	up := make(chan struct{})
	d.mu.Lock()
	d.up, d.new = up, len(d.log)
	d.mu.Unlock()
	p, err := process.Start(cmd)
	if err != nil {
		d.t.Fatal(err)
	}
	d.p = p
	select {
	case <-up:
	case <-p.Ended():
		d.t.Fatalf("signet %s stopped at once:\n%s", strings.Join(d.args, " "), d.output())
	case <-time.After(process.Patience):
		d.t.Fatalf("signet %s does not serve after %s:\n%s", strings.Join(d.args, " "), process.Patience, d.output())
	}
}

func (d *daemon) command() *exec.Cmd {
	path := d.binary
	if path == "" {
		path = program(d.t)
	}
	line := slices.Concat(d.prefix, []string{path}, d.args)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = d.env
	return cmd
}

// Write takes what the process writes.
func (d *daemon) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log = append(d.log, b...)
	for d.up != nil {
		line, _, whole := bytes.Cut(d.log[d.new:], []byte("\n"))
		if !whole {
			break
		}
		d.new += len(line) + 1
		var entry struct{ Msg string }
		if json.Unmarshal(line, &entry) == nil && entry.Msg == "serving" {
			close(d.up)
			d.up = nil
		}
	}
	return len(b), nil
}

func (d *daemon) output() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return string(d.log)
}

// stop asks the process to stop and returns its exit status.
func (d *daemon) stop() int {
	d.t.Helper()
	if err := d.p.Stop(); err != nil {
		d.t.Errorf("%v:\n%s", err, d.output())
	}
	return d.p.Status()
}

// kill ends the process, if it runs, without a chance to tidy up.
func (d *daemon) kill() {
	if d.p != nil && d.p.Running() {
		d.p.Kill()
	}
}

// signet runs one command beside the daemon, on the same data, and returns what it
// printed.
func (d *daemon) signet(stdin string, args ...string) (stdout, stderr string, status int) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(d.t), args...)
	cmd.Env, cmd.Stdin = d.env, strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		d.t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

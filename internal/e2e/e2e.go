// Package e2e runs the built program as a user does, with a browser, a client and a
// network in between: [Program], [Browser], [Client] and [Proxy]. The tests that use
// them are in the folders below.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"signet/internal/cli"
	"signet/internal/test/freeport"
	"signet/internal/test/process"
)

// Update is the flag -update: tests write the files that they otherwise compare with.
var Update = flag.Bool("update", false, "write the generated files that tests compare with")

// Main is the TestMain of a package of tests. The tests run in the root of the module,
// and the programs built for them are removed at the end.
func Main(m *testing.M) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err == nil {
		err = os.Chdir(filepath.Dir(strings.TrimSpace(string(out))))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "changing to the root of the module:", err)
		os.Exit(1)
	}
	code := m.Run()
	if dir, err := BuildDir(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// BuildDir is the directory of the programs built for the tests of this process.
var BuildDir = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "signet-test-") })

// released are the flags with which make build builds the program.
var released = []string{"-tags", pgxTag, "-ldflags", "-s -w"}

const pgxTag = "nopgxregisterdefaulttypes"

// Build builds the program with more flags than usual.
func Build(name string, flags ...string) (path string, err error) {
	dir, err := BuildDir()
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, name)
	return path, process.Build(context.Background(), path, append(released[:len(released):len(released)], flags...)...)
}

var plainBinary = sync.OnceValues(func() (string, error) { return Build("signet") })

// Binary is the path of the program as users run it.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := plainBinary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Need returns the path of another program. If the program is missing, the test is
// skipped; it fails if SIGNET_TEST_ALL is set.
func Need(t testing.TB, name string) string {
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

// FreePort returns a loopback port that no process listens on.
func FreePort(t testing.TB) string {
	t.Helper()
	port, err := freeport.New()
	if err != nil {
		t.Fatal(err)
	}
	return strconv.Itoa(port)
}

// Exit statuses of the program.
const (
	ExitFailed   = 1
	ExitWrongUse = 2
)

// Signet carries out one command line in this process, with a data directory and
// standard input, and returns the status and the output.
func Signet(t *testing.T, dir, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	p := cli.Process{Environ: []string{"SIGNET_DATA_DIR=" + dir}, Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs}
	status = cli.Run(t.Context(), p, args)
	return status, out.String(), errs.String()
}

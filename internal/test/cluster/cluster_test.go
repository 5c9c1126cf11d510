package cluster_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"signet/internal/test/cluster"
	"signet/internal/test/process"
)

// program is built once for all tests; with the race detector if SIGNET_TEST_RACE is
// set.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "signet-test-")
	if err != nil {
		return "", err
	}
	var flags []string
	if os.Getenv("SIGNET_TEST_RACE") != "" {
		flags = append(flags, "-race")
	}
	path := filepath.Join(dir, "signet")
	return path, process.Build(context.Background(), path, flags...)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if cluster.Missing() == nil {
		if path, err := program(); err == nil {
			os.RemoveAll(filepath.Dir(path))
		}
	}
	os.Exit(code)
}

// start runs a cluster until the end of the test. If nginx or PostgreSQL is missing,
// the test is skipped, or fails if SIGNET_TEST_ALL is set.
func start(t *testing.T, o cluster.Options) *cluster.Cluster {
	t.Helper()
	if err := cluster.Missing(); err != nil {
		if os.Getenv("SIGNET_TEST_ALL") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	var err error
	if o.Program == "" {
		if o.Program, err = program(); err != nil {
			t.Fatal(err)
		}
	}
	c, err := cluster.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the last of nginx:\n%s", cluster.Tail(c.NginxLog(), 15))
			for _, r := range c.Replicas() {
				t.Logf("the last of %s:\n%s", r.Name, cluster.Tail(r.Log, 15))
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Close leaves no process and no file, also of killed or paused replicas.
func TestCloseLeavesNothing(t *testing.T) {
	c := start(t, cluster.Options{Auth: 1, MCP: 2})
	if resp, err := http.Get(c.URL + "/mcp"); err != nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("the MCP endpoint through nginx: %v, %v", resp, err)
	}
	if err := c.MCP[0].Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.MCP[0].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.MCP[1].Pause(); err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, r := range c.Replicas() {
		pids = append(pids, r.PID())
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); err == nil {
			t.Errorf("process %d is left", pid)
		}
	}
	for _, dir := range []string{c.Dir, c.Postgres.Dir} {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is left", dir)
		}
	}
	if _, err := http.Get(c.URL); err == nil {
		t.Error("nginx is left")
	}
}

package faults

import (
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"signet/internal/e2e"
	"signet/internal/test/journal"
)

// smallDisk mounts a disk of 4 MiB at path until the test ends.
func smallDisk(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	err := syscall.Mount("tmpfs", path, "tmpfs", 0, "size=4m,mode=0700")
	if err != nil && os.Getenv("SIGNET_TEST_ALL") != "" {
		t.Fatal("mounting a small disk, and SIGNET_TEST_ALL lets nothing be skipped: ", err)
	}
	if err != nil {
		t.Skip("needs the right to mount: ", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// fill writes a file until the disk has no room left.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

// onFullDisk sends a form that needs a write. The answer is 503 with Retry-After; or
// 200, since a small write may find room where a larger one did not.
func onFullDisk(t *testing.T, d *e2e.Program, what, path string, form url.Values) (tok e2e.Tokens, done bool) {
	t.Helper()
	resp, err := http.PostForm(d.Issuer+path, form)
	if err != nil {
		t.Fatal(err)
	}
	err = decodeAll(resp, &tok)
	if err == nil && resp.StatusCode == 200 {
		return tok, true
	}
	if err != nil || resp.StatusCode != 503 || tok.Error != "temporarily_unavailable" || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%s on a full disk: %d %+v, Retry-After %q (%v)", what, resp.StatusCode, tok, resp.Header.Get("Retry-After"), err)
	}
	return tok, false
}

// If the disk runs full under load, requests that write are answered with 503 and
// change nothing. Requests that only read go on. Once there is room again, all requests
// work without a restart.
func TestDiskFullUnderLoadIsSurvived_L06(t *testing.T) {
	d := e2e.New(t, []string{"SIGNET_LIMITS=off", "SIGNET_LOG_LEVEL=info"}, "--demo")
	smallDisk(t, d.Dir)
	d.Start()
	client, tok := d.Login()
	code := client.Code(t, "demo_user", "demo_password")
	second, revocable := d.Login()

	path := filepath.Join(t.TempDir(), "journal")
	j, err := journal.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	var workers []*worker
	for i := range 4 {
		workers = append(workers, newWorker(t, d, j, i, seed(t)))
	}
	more := func(n int64, of func(*worker) *atomic.Int64) {
		t.Helper()
		enough := total(workers, of) + n
		e2e.Eventually(t, func() bool { return total(workers, of) >= enough })
	}
	refreshed := func(w *worker) *atomic.Int64 { return &w.refreshed }
	turnedAway := func(w *worker) *atomic.Int64 { return &w.turnedAway }
	ballast := filepath.Join(d.Dir, "ballast")
	work(workers, func(*atomic.Int64) {
		more(20, refreshed)
		fill(t, ballast)
		more(20, turnedAway) // load on a full disk
		fill(t, ballast+"2")
		next, done := onFullDisk(t, d, "refresh", "/token", client.RefreshForm(tok.RefreshToken))
		_, redeemed := onFullDisk(t, d, "code", "/token", client.CodeForm(code))
		_, revoked := onFullDisk(t, d, "revoke", "/revoke", second.TokenForm(revocable.RefreshToken))
		for _, path := range []string{"/.well-known/jwks.json", "/.well-known/oauth-authorization-server", "/.well-known/oauth-protected-resource", "/livez", "/readyz"} {
			if resp, err := http.Get(d.Issuer + path); err != nil || resp.StatusCode != 200 {
				t.Errorf("%s on a full disk: %v %v", path, resp, err)
			}
		}
		if status := e2e.Call(t, d.Issuer+"/mcp", tok.AccessToken); status != 200 {
			t.Errorf("an MCP call on a full disk: %d", status)
		}
		grant, gen := d.Generation(tok.RefreshToken)
		if now, dead := d.Row(grant); !done && now != gen || dead {
			t.Errorf("the handle was rotated to %d, revoked %t, by a request that failed", now, dead)
		}
		for _, b := range []string{ballast, ballast + "2"} {
			if err := os.Remove(b); err != nil {
				t.Error(err)
			}
		}
		if !done {
			next, _ = client.Refresh(t, tok.RefreshToken)
		}
		if _, now := d.Generation(next.RefreshToken); now != gen+1 {
			t.Errorf("generation %d after %d", now, gen)
		}
		if !redeemed {
			client.Exchange(t, code)
		}
		if _, status, ok := try(d, "/revoke", second.TokenForm(revocable.RefreshToken)); !revoked && (!ok || status != 200) {
			t.Errorf("revoke with room again: %d", status)
		}
		wantDead(t, d, second, "revoked", revocable.RefreshToken)
		more(20, refreshed)
	})
	d.Stop()
	d.Start() // acknowledged writes are on disk
	work(workers, func(*atomic.Int64) { more(20, refreshed) })
	d.Stop()
	if out, errOut, status := d.Signet("", "doctor"); status != 0 {
		t.Errorf("doctor: %d\n%s%s", status, out, errOut)
	}
	var verdict string
	if err := d.Database().QueryRow("PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
		t.Errorf("integrity_check: %s (%v)", verdict, err)
	}
	checker := journal.NewChecker(journal.Rules{Window: time.Minute})
	if err := checker.Follow(path); err != nil {
		t.Fatal(err)
	}
	n := checker.Counts()
	if broken := checker.Broken(); len(broken) > 0 || n.Unavailable < 20 || n.Refreshes < 60 {
		t.Errorf("%+v, broken:\n%s", n, strings.Join(broken, "\n"))
	}
	t.Logf("%+v", n)
}

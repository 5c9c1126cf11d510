package e2e

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

// onFullDisk sends a form that needs a write. It is told to come again; or, as a
// small write may find room where a larger one did not, it is done.
func onFullDisk(t *testing.T, d *daemon, what, path string, form url.Values) (tok tokens, done bool) {
	t.Helper()
	resp, err := http.PostForm(d.issuer+path, form)
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

// A disk that runs full under load costs 503s for what writes, and nothing else: what
// only reads goes on, nothing is rotated or lost, and with room again all goes on
// without a restart.
func TestL06_DiskFullUnderLoad(t *testing.T) {
	d := newDaemon(t, []string{"SIGNET_LIMITS=off", "SIGNET_LOG_LEVEL=info"}, "--demo")
	smallDisk(t, d.dir)
	d.start()
	const redirectURI = "http://127.0.0.1:9/callback"
	client, tok := d.login()
	code := signIn(t, authorizationURL(d.issuer, client, redirectURI, "s"), "demo_user", "demo_password").Query().Get("code")
	second, revocable := d.login()

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
		eventually(t, func() bool { return total(workers, of) >= enough })
	}
	refreshed := func(w *worker) *atomic.Int64 { return &w.refreshed }
	turnedAway := func(w *worker) *atomic.Int64 { return &w.turnedAway }
	ballast := filepath.Join(d.dir, "ballast")
	work(workers, func() {
		more(20, refreshed)
		fill(t, ballast)
		more(20, turnedAway) // load on a full disk
		fill(t, ballast+"2")
		next, done := onFullDisk(t, d, "refresh", "/token", refreshForm(client, tok.RefreshToken))
		_, redeemed := onFullDisk(t, d, "code", "/token", codeForm(client, code))
		_, revoked := onFullDisk(t, d, "revoke", "/revoke", revokeForm(second, revocable.RefreshToken))
		for _, path := range []string{"/.well-known/jwks.json", "/.well-known/oauth-authorization-server", "/.well-known/oauth-protected-resource", "/livez", "/readyz"} {
			if resp, err := http.Get(d.issuer + path); err != nil || resp.StatusCode != 200 {
				t.Errorf("%s on a full disk: %v %v", path, resp, err)
			}
		}
		if status := mcpStatus(t, d.issuer, tok.AccessToken); status != 200 {
			t.Errorf("an MCP call on a full disk: %d", status)
		}
		grant, gen := d.generation(tok.RefreshToken)
		if now, dead := d.row(grant); !done && now != gen || dead {
			t.Errorf("the handle was rotated to %d, revoked %t, by a request that failed", now, dead)
		}
		for _, b := range []string{ballast, ballast + "2"} {
			if err := os.Remove(b); err != nil {
				t.Error(err)
			}
		}
		if !done {
			next, _ = refresh(t, d.issuer, client, tok.RefreshToken)
		}
		if _, now := d.generation(next.RefreshToken); now != gen+1 {
			t.Errorf("generation %d after %d", now, gen)
		}
		if !redeemed {
			exchange(t, d.issuer, client, code)
		}
		if _, status, ok := d.try("/revoke", revokeForm(second, revocable.RefreshToken)); !revoked && (!ok || status != 200) {
			t.Errorf("revoke with room again: %d", status)
		}
		wantDead(t, d, second, "revoked", revocable.RefreshToken)
		more(20, refreshed)
	})
	d.stop()
	d.start() // what was acknowledged is on disk
	work(workers, func() { more(20, refreshed) })
	d.stop()
	if out, errOut, status := d.signet("", "doctor"); status != 0 {
		t.Errorf("doctor: %d\n%s%s", status, out, errOut)
	}
	var verdict string
	if err := d.database().QueryRow("PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
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

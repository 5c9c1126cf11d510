package operate

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"signet/internal/e2e"
	"signet/internal/test/pgtest"
)

// keyIDs are the IDs of the published keys.
func keyIDs(t *testing.T, d *e2e.Program) (ids []string) {
	t.Helper()
	var set struct{ Keys []struct{ Kid string } }
	doc, _ := e2e.GetJSON(t, d.Issuer+"/.well-known/jwks.json")
	b, _ := json.Marshal(doc)
	if err := json.Unmarshal(b, &set); err != nil || len(set.Keys) == 0 {
		t.Fatalf("%s: %v", b, err)
	}
	for _, k := range set.Keys {
		ids = append(ids, k.Kid)
	}
	slices.Sort(ids)
	return ids
}

func addAnn(d *e2e.Program) {
	d.T.Helper()
	d.AddUser("ann", "walnut radio summer ladder")
}

// loginAs signs a user in for a registered client and returns the tokens.
func loginAs(d *e2e.Program, client *e2e.Client, name, password string) e2e.Tokens {
	d.T.Helper()
	back := e2e.SignIn(d.T, client.AuthorizationURL("s"), name, password)
	return client.Exchange(d.T, back.Query().Get("code"))
}

// lives are the tokens issued by a server that was backed up.
type lives struct {
	client  *e2e.Client
	before  e2e.Tokens // issued before the backup
	revoked e2e.Tokens // issued and revoked before the backup
	after   e2e.Tokens // issued after the backup
	keys    []string
}

// backedUp signs in beside a running server, makes a backup in the middle, and stops
// the server.
func backedUp(t *testing.T, d *e2e.Program, file string) (l lives) {
	t.Helper()
	addAnn(d)
	d.Must("client", "add", "conf", "--redirect-uri", "http://127.0.0.1:9/callback")
	l.client, l.before = d.Login()
	other, revoked := d.Login()
	l.revoked = revoked
	if resp, err := http.PostForm(d.Issuer+"/revoke", url.Values{"token": {revoked.AccessToken}, "client_id": {other.ID}}); err != nil || resp.StatusCode != 200 {
		t.Fatalf("revocation: %v, %v", resp, err)
	}
	if out := d.Must("backup", file); !strings.Contains(out, "root secret is NOT in the backup") {
		t.Errorf("the backup says %q", out)
	}
	l.after = loginAs(d, l.client, "demo_user", "demo_password")
	l.keys = keyIDs(t, d)
	return l
}

// check looks at the server that was restored.
func (l lives) check(t *testing.T, d *e2e.Program) {
	t.Helper()
	for name, tok := range map[string]e2e.Tokens{"before": l.before, "after": l.after} {
		if got, status := l.client.Refresh(t, tok.RefreshToken); status != 400 || got.Error != "invalid_grant" {
			t.Errorf("a handle issued %s the backup: %d %+v, want invalid_grant", name, status, got)
		}
	}
	if got := keyIDs(t, d); !slices.Equal(got, l.keys) {
		t.Errorf("published keys are %v, were %v", got, l.keys)
	}
	// The backup cannot say whose grant was revoked after it was made.
	for name, tok := range map[string]e2e.Tokens{"before": l.before, "after": l.after, "before the backup, and revoked": l.revoked} {
		if status := e2e.Call(t, d.Issuer+"/mcp", tok.AccessToken); status != 401 {
			t.Errorf("an access token issued %s the backup: %d, want 401", name, status)
		}
	}
	tok := loginAs(d, l.client, "ann", "walnut radio summer ladder")
	if next, status := l.client.Refresh(t, tok.RefreshToken); status != 200 {
		t.Errorf("after signing in again: %d %+v", status, next)
	} else if status := e2e.Call(t, d.Issuer+"/mcp", next.AccessToken); status != 200 {
		t.Errorf("an access token issued after signing in again: %d", status)
	}
	if out := d.Must("client", "list"); !strings.Contains(out, "conf") {
		t.Errorf("clients are %s", out)
	}
}

// A backup made beside the running server is restored in the place of the store, in an
// empty directory that has only the secret, and, from SQLite, in a PostgreSQL database.
func TestBackupAndRestore(t *testing.T) {
	t.Run("in its place", func(t *testing.T) {
		d, file := e2e.Start(t, nil, "--demo"), filepath.Join(t.TempDir(), "backup")
		l := backedUp(t, d, file)
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the backup: %v, %v; want mode 0600", info.Mode(), err)
		}
		if _, errOut, status := d.Signet("", "restore", "--replace", file); status != e2e.ExitFailed || !strings.Contains(errOut, "signet.db.lock") {
			t.Errorf("restoring under the server: %d %s", status, errOut)
		}
		d.Stop()
		before := e2e.Hashes(t, d.Dir)
		if _, errOut, status := d.Signet("", "restore", file); status != e2e.ExitFailed || !strings.Contains(errOut, "--replace") {
			t.Errorf("restoring over a store: %d %s", status, errOut)
		}
		if got := e2e.Hashes(t, d.Dir); fmt.Sprint(got) != fmt.Sprint(before) {
			t.Errorf("the refused restore changed files:\n%v\n%v", before, got)
		}
		if _, errOut, status := d.Signet("violet engine harbour tulip", "user", "passwd", "ann", "--password-stdin"); status != 0 {
			t.Fatal(errOut)
		}
		out := d.Must("restore", "--replace", "--replace-files", file)
		for _, path := range []string{"signet.db", "mirror", "users"} {
			aside, _ := filepath.Glob(filepath.Join(d.Dir, path+".replaced-*"))
			if len(aside) != 1 || path != "mirror" && !strings.Contains(out, aside[0]) {
				t.Errorf("%s was set aside as %q; it says %s", path, aside, out)
			}
		}
		d.Start()
		l.check(t, d)
	})
	t.Run("elsewhere", func(t *testing.T) {
		d := e2e.Start(t, nil, "--demo")
		file := filepath.Join(t.TempDir(), "backup")
		l := backedUp(t, d, file)
		d.Stop()
		if err := os.Rename(d.Dir, d.Dir+".old"); err != nil {
			t.Fatal(err)
		}
		if _, errOut, status := d.Signet("", "restore", file); status != e2e.ExitFailed || !strings.Contains(errOut, "does not hold the root secret") {
			t.Errorf("without the secret: %d %s", status, errOut)
		}
		if err := os.Rename(d.Dir+".old/secret", d.Dir+"/secret"); err != nil {
			t.Fatal(err)
		}
		d.Must("restore", file)
		d.Start()
		l.check(t, d)
	})
	t.Run("moved to PostgreSQL", func(t *testing.T) {
		database := pgtest.URL(t)
		d, file := e2e.Start(t, nil, "--demo"), filepath.Join(t.TempDir(), "backup")
		l := backedUp(t, d, file)
		d.Stop()
		secret := strings.TrimSpace(e2e.ReadText(t, filepath.Join(d.Dir, "secret")))
		d.Env = append(d.Env, "SIGNET_STORE="+database, "SIGNET_SECRET="+secret)
		d.Must("restore", file)
		d.Start()
		l.check(t, d)
		if _, errOut, status := d.Signet("", "restore", "--replace", file); status != e2e.ExitFailed || !strings.Contains(errOut, "stop all replicas first") {
			t.Errorf("restoring under the server: %d %s", status, errOut)
		}
	})
}

// Killed at every system call that changes a name or makes it durable, a restore leaves
// the old store or the new one. A server starts with it, and the same command again
// completes the restore.
func TestRestoreIsKilled(t *testing.T) {
	strace := e2e.Need(t, "strace")
	d, dir := e2e.Start(t, nil, "--demo"), t.TempDir()
	addAnn(d)
	client, first := d.Login()
	file := filepath.Join(dir, "backup")
	d.Must("backup", file)
	d.Stop()
	kept := filepath.Join(dir, "kept")
	if out, err := exec.Command("cp", "-a", d.Dir, kept).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	outcomes := map[string]int{}
	// strace counts the calls of each thread, so a run may also end before its n-th.
	for n, completed := 1, 0; completed < 3; n++ {
		if err := os.RemoveAll(d.Dir); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("cp", "-a", kept, d.Dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		const calls = "rename,renameat,renameat2,unlink,unlinkat,link,linkat,fsync"
		cmd := exec.Command(strace, "-f", "-o", "/dev/null", "-e", "trace="+calls, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", calls, n), e2e.Binary(t), "restore", "--replace", "--replace-files", file)
		cmd.Env = append(slices.Clone(d.Env), "GOMAXPROCS=1")
		if err := cmd.Run(); err == nil {
			completed++
		}
		interrupted := exec.Command("cp", "-a", d.Dir, filepath.Join(dir, fmt.Sprint("n", n)))
		if out, err := interrupted.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		d.Start()
		switch tok, status := client.Refresh(t, first.RefreshToken); {
		case status == 200:
			outcomes["old"]++
		case status == 400 && tok.Error == "invalid_grant":
			outcomes["new"]++
		default:
			t.Fatalf("killed at call %d: %d %+v", n, status, tok)
		}
		d.Stop()
		// The same command again, on the files that the kill left.
		if err := os.RemoveAll(d.Dir); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, fmt.Sprint("n", n)), d.Dir); err != nil {
			t.Fatal(err)
		}
		d.Must("restore", "--replace", "--replace-files", file)
		d.Start()
		if tok, status := client.Refresh(t, first.RefreshToken); status != 400 || tok.Error != "invalid_grant" {
			t.Errorf("killed at call %d and completed: %d %+v", n, status, tok)
		}
		d.Stop()
	}
	t.Logf("%v", outcomes)
	if outcomes["old"] < 3 || outcomes["new"] < 3 { // the completed runs leave the new store
		t.Errorf("kills and three whole runs left %v, want both", outcomes)
	}
}

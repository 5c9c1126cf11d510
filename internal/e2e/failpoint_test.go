package e2e

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"signet/internal/seal"
	"signet/internal/test/pgtest"
)

// The tests in this file kill the program at named points on the way of a request
// (see internal/failpoint).

var breakableBinary = sync.OnceValues(func() (string, error) { return build("signet-failpoint", "-tags", "failpoint") })

const failpointVariable = "SIGNET_TEST_FAILPOINT"

// breakable is a demo of the build that can be broken, before its start.
func breakable(t testing.TB, settings ...string) *daemon {
	t.Helper()
	path, err := breakableBinary()
	if err != nil {
		t.Fatal(err)
	}
	d := newDaemon(t, append(settings, failpointVariable+"="+filepath.Join(t.TempDir(), "failpoint")), "--demo")
	d.binary = path
	return d
}

// sharedStore are the settings of a server on a database of its own.
func sharedStore(t testing.TB) []string {
	t.Helper()
	return []string{"SIGNET_STORE=" + pgtest.URL(t), "SIGNET_SECRET=" + seal.NewSecret()}
}

// setting is a variable of the daemon's, as the process sees it.
func (d *daemon) setting(name string) (value string) {
	for _, kv := range d.env {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			value = v
		}
	}
	return value
}

// arm has the nth pass of a point do an action.
func (d *daemon) arm(point, action string, n int) {
	d.t.Helper()
	path := d.setting(failpointVariable)
	if err := os.WriteFile(path+".new", fmt.Appendln(nil, point, action, n), 0o600); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		d.t.Fatal(err)
	}
}

// isArmed reports whether what was armed has not happened yet.
func (d *daemon) isArmed() bool {
	_, err := os.Stat(d.setting(failpointVariable))
	return !errors.Is(err, fs.ErrNotExist)
}

// ring opens what the daemon seals.
func (d *daemon) ring() *seal.Keyring {
	d.t.Helper()
	secret := d.setting("SIGNET_SECRET")
	if secret == "" {
		b, err := os.ReadFile(filepath.Join(d.dir, "secret"))
		if err != nil {
			d.t.Fatal(err)
		}
		secret = strings.TrimSpace(string(b))
	}
	ring, err := seal.Parse(secret)
	if err != nil {
		d.t.Fatal(err)
	}
	return ring
}

// generation is that of a refresh handle, with the id of its grant.
func (d *daemon) generation(handle string) (grant string, gen int64) {
	d.t.Helper()
	h, err := seal.Open[seal.Refresh](d.ring(), handle)
	if err != nil {
		d.t.Fatal(err)
	}
	return h.Grant.ID, h.Gen
}

// database reads the daemon's store beside it.
func (d *daemon) database() *sql.DB {
	d.t.Helper()
	driver, source := "sqlite", "file:"+filepath.Join(d.dir, "signet.db")+"?mode=ro&_pragma=busy_timeout(2000)"
	if u := d.setting("SIGNET_STORE"); u != "" {
		driver, source = "pgx", u+"&search_path=signet"
	}
	db, err := sql.Open(driver, source)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { db.Close() })
	return db
}

// row is what the store holds of a grant; gen -1 if nothing.
func (d *daemon) row(grant string) (gen int64, revoked bool) {
	d.t.Helper()
	var at int64
	err := d.database().QueryRow("SELECT gen, revoked_at FROM grants WHERE id = $1", grant).Scan(&gen, &at)
	if errors.Is(err, sql.ErrNoRows) {
		return -1, false
	}
	if err != nil {
		d.t.Fatal(err)
	}
	return gen, at != 0
}

// try sends a form. ok means that the whole answer was read.
func (d *daemon) try(path string, form url.Values) (tok tokens, status int, ok bool) {
	resp, err := http.PostForm(d.issuer+path, form)
	if err != nil {
		return tok, 0, false
	}
	if decodeAll(resp, &tok) != nil {
		return tok, 0, false
	}
	return tok, resp.StatusCode, true
}

func refreshForm(c registration, handle string) url.Values {
	return url.Values{"grant_type": {"refresh_token"}, "refresh_token": {handle}, "client_id": {c.ClientID}}
}

func codeForm(c registration, code string) url.Values {
	return url.Values{"grant_type": {"authorization_code"}, "code": {code}, "client_id": {c.ClientID}, "code_verifier": {verifier}}
}

func revokeForm(c registration, token string) url.Values {
	return url.Values{"token": {token}, "client_id": {c.ClientID}}
}

// killedAt sends a form to a server that dies at the point, and starts it again.
func killedAt(d *daemon, point, path string, form url.Values) {
	d.t.Helper()
	http.DefaultClient.CloseIdleConnections()
	d.arm(point, "exit", 1)
	if tok, status, ok := d.try(path, form); ok {
		d.t.Fatalf("killed at %s, and yet it answered: %d %+v", point, status, tok)
	}
	select {
	case <-d.p.Ended():
	case <-time.After(10 * time.Second):
		d.t.Fatalf("not killed at %s:\n%s", point, d.output())
	}
	d.start()
}

// points are those of a request that writes, and whether its write is durable then.
var points = []struct {
	name    string
	durable bool
}{{"begin", false}, {"commit", false}, {"committed", true}, {"signed", true}, {"half", true}}

// Wherever between the request and the end of its answer the server is killed, the
// client that repeats a refresh goes on with the one next generation, and there never
// are two lines of a grant.
func TestL04_KilledWhileRefreshing(t *testing.T) {
	onBothStores(t, func(t *testing.T, settings []string) {
		d := breakable(t, settings...)
		d.start()
		for _, p := range points {
			client, first := d.login()
			killedAt(d, p.name, "/token", refreshForm(client, first.RefreshToken))
			grant, _ := d.generation(first.RefreshToken)
			want := int64(1)
			if p.durable {
				want = 2
			}
			if gen, revoked := d.row(grant); gen != want || revoked {
				t.Errorf("%s: the row has generation %d, revoked %t, want %d and false", p.name, gen, revoked, want)
			}
			again := func(handle string) tokens {
				t.Helper()
				tok, status := refresh(t, d.issuer, client, handle)
				if status != 200 {
					t.Fatalf("%s: repeated: %d %+v", p.name, status, tok)
				}
				return tok
			}
			second, sibling := again(first.RefreshToken), again(first.RefreshToken)
			for _, h := range []string{second.RefreshToken, sibling.RefreshToken} {
				if _, gen := d.generation(h); gen != 2 {
					t.Errorf("%s: the repeated refresh gave generation %d, want 2", p.name, gen)
				}
			}
			third := again(second.RefreshToken)
			wantDead(t, d, client, p.name, first.RefreshToken, sibling.RefreshToken, third.RefreshToken)
		}
	})
}

// wantDead presents handles of which the first is too old: that ends the grant, and
// no other lives on.
func wantDead(t *testing.T, d *daemon, client registration, what string, handles ...string) {
	t.Helper()
	for i, h := range handles {
		if tok, status := refresh(t, d.issuer, client, h); status != 400 || tok.Error != "invalid_grant" {
			t.Errorf("%s: handle %d of a dead grant got %d %+v", what, i, status, tok)
		}
	}
}

// A code that was not spent is good after the kill. One that was is refused, and
// nobody holds a line of its grant: the user signs in again.
func TestL04_KilledWhileRedeeming(t *testing.T) {
	onBothStores(t, func(t *testing.T, settings []string) {
		d := breakable(t, settings...)
		d.start()
		const redirectURI = "http://127.0.0.1:9/callback"
		client := registerClient(t, d.issuer, redirectURI)
		for _, p := range points {
			code := signIn(t, authorizationURL(d.issuer, client, redirectURI, "s"), "demo_user", "demo_password").Query().Get("code")
			sealed, err := seal.Open[seal.Code](d.ring(), code)
			if err != nil {
				t.Fatal(err)
			}
			killedAt(d, p.name, "/token", codeForm(client, code))
			gen, _ := d.row(sealed.Grant.ID)
			tok, status := post(t, d.issuer, codeForm(client, code))
			if !p.durable {
				if gen != -1 || status != 200 {
					t.Errorf("%s: the row has generation %d, and the code got %d %+v", p.name, gen, status, tok)
				}
				continue
			}
			if gen != 1 || status != 400 || tok.Error != "invalid_grant" {
				t.Errorf("%s: the row has generation %d, and the code got %d %+v", p.name, gen, status, tok)
			}
			if _, revoked := d.row(sealed.Grant.ID); !revoked {
				t.Errorf("%s: a line of the code that was used twice lives on", p.name)
			}
		}
	})
}

// A revocation that was acknowledged, or could have been, counts; one that was not
// has changed nothing and can be sent again.
func TestL04_KilledWhileRevoking(t *testing.T) {
	onBothStores(t, func(t *testing.T, settings []string) {
		d := breakable(t, settings...)
		d.start()
		for _, p := range points[:4] { // the answer has no body to be cut in half
			client, tok := d.login()
			killedAt(d, p.name, "/revoke", revokeForm(client, tok.RefreshToken))
			next, status := refresh(t, d.issuer, client, tok.RefreshToken)
			if p.durable {
				if status != 400 || next.Error != "invalid_grant" || mcpStatus(t, d.issuer, tok.AccessToken) != 401 {
					t.Errorf("%s: the handle after a revocation that is on disk: %d %+v", p.name, status, next)
				}
				continue
			}
			if status != 200 || mcpStatus(t, d.issuer, tok.AccessToken) != 200 {
				t.Errorf("%s: the handle after a revocation that did not happen: %d %+v", p.name, status, next)
			}
			if _, status, ok := d.try("/revoke", revokeForm(client, next.RefreshToken)); !ok || status != 200 {
				t.Errorf("%s: the revocation again: %d", p.name, status)
			}
			killed(d)
			wantDead(t, d, client, p.name, next.RefreshToken, tok.RefreshToken)
		}
	})
}

// killed kills the server and starts it again.
func killed(d *daemon) {
	d.t.Helper()
	d.kill()
	http.DefaultClient.CloseIdleConnections()
	d.start()
}

// An error or a pause in place of the kill: the client is told to come again, and
// has lost nothing; nobody who does not need the store waits.
func TestL04_ErrorAndPause(t *testing.T) {
	d := breakable(t)
	d.start()
	for _, p := range points[:3] {
		client, tok := d.login()
		d.arm(p.name, "error", 1)
		if got, status := refresh(t, d.issuer, client, tok.RefreshToken); status != 503 || got.Error != "temporarily_unavailable" {
			t.Errorf("%s: %d %+v, want 503 temporarily_unavailable", p.name, status, got)
		}
		next, status := refresh(t, d.issuer, client, tok.RefreshToken)
		if status != 200 {
			t.Fatalf("%s: again: %d %+v", p.name, status, next)
		}
		if _, gen := d.generation(next.RefreshToken); gen != 2 {
			t.Errorf("%s: generation %d, want 2", p.name, gen)
		}
	}
	client, tok := d.login()
	d.arm("commit", "sleep=5s", 1)
	done := make(chan int)
	go func() {
		_, status, _ := d.try("/token", refreshForm(client, tok.RefreshToken))
		done <- status
	}()
	eventually(t, func() bool { return !d.isArmed() })
	if status := mcpStatus(t, d.issuer, tok.AccessToken); status != 200 {
		t.Errorf("an MCP call beside a store that hangs: %d", status)
	}
	select {
	case <-done:
		t.Error("the refresh did not wait for its commit")
	default:
	}
	if status := <-done; status != 200 {
		t.Errorf("the refresh after the pause: %d", status)
	}
}

// onBothStores runs a test on a SQLite file and on a PostgreSQL database.
func onBothStores(t *testing.T, test func(t *testing.T, settings []string)) {
	t.Run("SQLite", func(t *testing.T) { test(t, nil) })
	t.Run("PostgreSQL", func(t *testing.T) { test(t, sharedStore(t)) })
}

// What people run cannot be broken in this way: nothing of it is in the program.
func TestFailpointsAreInNoOrdinaryBuild(t *testing.T) {
	breaks, err := breakableBinary()
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{program(t): false, breaks: true} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{failpointVariable, "SIGNET_TEST_SYNCHRONOUS", "failpoint.At", "breakableWriter"} {
			if bytes.Contains(b, []byte(name)) != want {
				t.Errorf("%s in %s: %t, want %t", name, filepath.Base(path), !want, want)
			}
		}
	}
	d := newDaemon(t, []string{failpointVariable + "=" + filepath.Join(t.TempDir(), "failpoint")}, "--demo")
	d.arm("begin", "exit", 1)
	d.start()
	client, tok := d.login()
	if _, status := refresh(t, d.issuer, client, tok.RefreshToken); status != 200 || !d.isArmed() {
		t.Errorf("an ordinary build looked at the file: %d", status)
	}
}

// decodeAll reads a whole answer; one that was cut is an error.
func decodeAll(resp *http.Response, v any) error {
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || len(body) == 0 {
		return err
	}
	return json.Unmarshal(body, v)
}

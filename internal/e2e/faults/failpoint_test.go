package faults

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"signet/internal/e2e"
	"signet/internal/seal"
	"signet/internal/test/process"
)

// The tests in this file kill the program at named points in the course of a request
// (see internal/failpoint).

// try sends a form. ok means that the whole answer was read.
func try(d *e2e.Program, path string, form url.Values) (tok e2e.Tokens, status int, ok bool) {
	resp, err := http.PostForm(d.Issuer+path, form)
	if err != nil {
		return tok, 0, false
	}
	if decodeAll(resp, &tok) != nil {
		return tok, 0, false
	}
	return tok, resp.StatusCode, true
}

// killedAt sends a form to a server that dies at the point, and starts it again.
func killedAt(d *e2e.Program, point, path string, form url.Values) {
	d.T.Helper()
	http.DefaultClient.CloseIdleConnections()
	d.Arm(point, "exit", 1)
	if tok, status, ok := try(d, path, form); ok {
		d.T.Fatalf("killed at %s, but it answered: %d %+v", point, status, tok)
	}
	select {
	case <-d.Ended():
	case <-time.After(process.Patience):
		d.T.Fatalf("not killed at %s:\n%s", point, d.Output())
	}
	d.Start()
}

// points are the failpoints of a request that writes, and whether its write is durable
// there.
var points = []struct {
	name    string
	durable bool
}{{"begin", false}, {"commit", false}, {"committed", true}, {"signed", true}, {"half", true}}

// Wherever the server is killed between the request and the end of its answer, a client
// that repeats the refresh gets the one next generation, and a grant never has two
// lines of handles.
func TestKillWhileRefreshingLeavesOneLine_L04(t *testing.T) {
	e2e.OnBothStores(t, func(t *testing.T, settings []string) {
		d := e2e.Breakable(t, settings...)
		d.Start()
		for _, p := range points {
			client, first := d.Login()
			killedAt(d, p.name, "/token", client.RefreshForm(first.RefreshToken))
			grant, _ := d.Generation(first.RefreshToken)
			want := int64(1)
			if p.durable {
				want = 2
			}
			if gen, revoked := d.Row(grant); gen != want || revoked {
				t.Errorf("%s: the row has generation %d, revoked %t, want %d and false", p.name, gen, revoked, want)
			}
			again := func(handle string) e2e.Tokens {
				t.Helper()
				tok, status := client.Refresh(t, handle)
				if status != 200 {
					t.Fatalf("%s: repeated: %d %+v", p.name, status, tok)
				}
				return tok
			}
			second, sibling := again(first.RefreshToken), again(first.RefreshToken)
			for _, h := range []string{second.RefreshToken, sibling.RefreshToken} {
				if _, gen := d.Generation(h); gen != 2 {
					t.Errorf("%s: the repeated refresh gave generation %d, want 2", p.name, gen)
				}
			}
			third := again(second.RefreshToken)
			wantDead(t, d, client, p.name, first.RefreshToken, sibling.RefreshToken, third.RefreshToken)
		}
	})
}

// wantDead presents handles of which the first is too old: that ends the grant, so all
// are refused.
func wantDead(t *testing.T, d *e2e.Program, client *e2e.Client, what string, handles ...string) {
	t.Helper()
	for i, h := range handles {
		if tok, status := client.Refresh(t, h); status != 400 || tok.Error != "invalid_grant" {
			t.Errorf("%s: handle %d of a dead grant got %d %+v", what, i, status, tok)
		}
	}
}

// After the kill, a code that was not spent is accepted. A code that was spent is
// refused and its grant has no live handle: the user signs in again.
func TestKillWhileRedeemingLeavesNoLine_L04(t *testing.T) {
	e2e.OnBothStores(t, func(t *testing.T, settings []string) {
		d := e2e.Breakable(t, settings...)
		d.Start()
		client := e2e.Register(t, d.Issuer, e2e.RedirectURI)
		for _, p := range points {
			code := client.Code(t, "demo_user", "demo_password")
			sealed, err := seal.Open[seal.Code](d.Ring(), code)
			if err != nil {
				t.Fatal(err)
			}
			killedAt(d, p.name, "/token", client.CodeForm(code))
			gen, _ := d.Row(sealed.Grant.ID)
			tok, status := e2e.Post(t, d.Issuer, client.CodeForm(code))
			if !p.durable {
				if gen != -1 || status != 200 {
					t.Errorf("%s: the row has generation %d, and the code got %d %+v", p.name, gen, status, tok)
				}
				continue
			}
			if gen != 1 || status != 400 || tok.Error != "invalid_grant" {
				t.Errorf("%s: the row has generation %d, and the code got %d %+v", p.name, gen, status, tok)
			}
			if _, revoked := d.Row(sealed.Grant.ID); !revoked {
				t.Errorf("%s: a handle of the code that was used twice was accepted", p.name)
			}
		}
	})
}

// A revocation that is on disk when the server is killed holds. Otherwise it has
// changed nothing and can be sent again.
func TestKillWhileRevokingLosesNoRevocation_L04(t *testing.T) {
	e2e.OnBothStores(t, func(t *testing.T, settings []string) {
		d := e2e.Breakable(t, settings...)
		d.Start()
		for _, p := range points[:4] { // the answer has no body to be cut in half
			client, tok := d.Login()
			killedAt(d, p.name, "/revoke", client.TokenForm(tok.RefreshToken))
			next, status := client.Refresh(t, tok.RefreshToken)
			if p.durable {
				if status != 400 || next.Error != "invalid_grant" || e2e.Call(t, d.Issuer+"/mcp", tok.AccessToken) != 401 {
					t.Errorf("%s: the handle after a revocation that is on disk: %d %+v", p.name, status, next)
				}
				continue
			}
			if status != 200 || e2e.Call(t, d.Issuer+"/mcp", tok.AccessToken) != 200 {
				t.Errorf("%s: the handle after a revocation that did not happen: %d %+v", p.name, status, next)
			}
			if _, status, ok := try(d, "/revoke", client.TokenForm(next.RefreshToken)); !ok || status != 200 {
				t.Errorf("%s: the revocation again: %d", p.name, status)
			}
			killed(d)
			wantDead(t, d, client, p.name, next.RefreshToken, tok.RefreshToken)
		}
	})
}

// killed kills the server and starts it again.
func killed(d *e2e.Program) {
	d.T.Helper()
	d.Kill()
	http.DefaultClient.CloseIdleConnections()
	d.Start()
}

// An error or a pause in place of the kill: the client gets 503 and has lost nothing.
// Requests that do not need the store do not wait.
func TestErrorAndPauseLoseNothing_L04(t *testing.T) {
	d := e2e.Breakable(t)
	d.Start()
	for _, p := range points[:3] {
		client, tok := d.Login()
		d.Arm(p.name, "error", 1)
		if got, status := client.Refresh(t, tok.RefreshToken); status != 503 || got.Error != "temporarily_unavailable" {
			t.Errorf("%s: %d %+v, want 503 temporarily_unavailable", p.name, status, got)
		}
		next, status := client.Refresh(t, tok.RefreshToken)
		if status != 200 {
			t.Fatalf("%s: again: %d %+v", p.name, status, next)
		}
		if _, gen := d.Generation(next.RefreshToken); gen != 2 {
			t.Errorf("%s: generation %d, want 2", p.name, gen)
		}
	}
	client, tok := d.Login()
	d.Arm("commit", "sleep=5s", 1)
	done := make(chan int)
	go func() {
		_, status, _ := try(d, "/token", client.RefreshForm(tok.RefreshToken))
		done <- status
	}()
	e2e.Eventually(t, func() bool { return !d.Armed() })
	if status := e2e.Call(t, d.Issuer+"/mcp", tok.AccessToken); status != 200 {
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

// The ordinary program contains no failpoints.
func TestFailpointsAreInNoOrdinaryBuild(t *testing.T) {
	breaks, err := e2e.BreakableBinary()
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{e2e.Binary(t): false, breaks: true} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{e2e.FailpointVariable, "SIGNET_TEST_SYNCHRONOUS", "failpoint.At", "failpointWriter"} {
			if bytes.Contains(b, []byte(name)) != want {
				t.Errorf("%s in %s: %t, want %t", name, filepath.Base(path), !want, want)
			}
		}
	}
	d := e2e.New(t, []string{e2e.FailpointVariable + "=" + filepath.Join(t.TempDir(), "failpoint")}, "--demo")
	d.Arm("begin", "exit", 1)
	d.Start()
	client, tok := d.Login()
	if _, status := client.Refresh(t, tok.RefreshToken); status != 200 || !d.Armed() {
		t.Errorf("an ordinary build obeyed the file of failpoints: %d", status)
	}
}

// decodeAll reads a whole answer; a truncated one is an error.
func decodeAll(resp *http.Response, v any) error {
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || len(body) == 0 {
		return err
	}
	return json.Unmarshal(body, v)
}

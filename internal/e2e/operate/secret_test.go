package operate

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/internal/e2e"
	"signet/internal/seal"
	"signet/internal/test/person"
	"signet/internal/test/pgtest"
)

// visitor is a user that stops in the middle of a login, so that sealed forms are in
// flight.
type visitor struct {
	*person.Person
	t    *testing.T
	page *person.Page // last page
}

func newVisitor(t *testing.T) *visitor {
	return &visitor{Person: person.New("demo_user", "demo_password"), t: t}
}

func (v *visitor) went(page *person.Page, err error) *visitor {
	v.t.Helper()
	if err != nil {
		v.t.Fatal(err)
	}
	v.page = page
	return v
}

func (v *visitor) open(to string) *visitor {
	v.t.Helper()
	return v.went(v.Open(to))
}

func (v *visitor) signIn() *visitor {
	v.t.Helper()
	return v.went(v.Submit(v.page, v.Credentials()))
}

func (v *visitor) approve() (code string) {
	v.t.Helper()
	v.went(v.Submit(v.page, url.Values{"decision": {"approve"}}))
	if v.page.Left() == nil || v.page.Left().Query().Get("code") == "" {
		v.t.Fatalf("no code: %s", v.page)
	}
	return v.page.Left().Query().Get("code")
}

// inFlight holds artefacts of every kind that were sealed and not yet used.
type inFlight struct {
	t       *testing.T
	d       *e2e.Program
	client  *e2e.Client // client with a derived secret
	handle  string
	code    string
	login   *visitor // visitor on the login page
	consent *visitor // visitor on the consent page
	session *visitor // visitor that is signed in
	access  string
}

func fly(t *testing.T, d *e2e.Program) *inFlight {
	t.Helper()
	f := &inFlight{t: t, d: d}
	f.client = e2e.RegisterWithSecret(t, d.Issuer, e2e.RedirectURI)
	authorize := f.client.AuthorizationURL("s")
	f.session = newVisitor(t).open(authorize).signIn()
	tok, status := f.redeem(f.session.approve())
	if status != 200 {
		t.Fatalf("exchange: %d %+v", status, tok)
	}
	f.handle, f.access = tok.RefreshToken, tok.AccessToken
	f.code = newVisitor(t).open(authorize).signIn().approve()
	f.login = newVisitor(t).open(authorize)
	f.consent = newVisitor(t).open(authorize).signIn()
	return f
}

func (f *inFlight) redeem(code string) (e2e.Tokens, int) {
	return e2e.Post(f.t, f.d.Issuer, f.client.CodeForm(code))
}

func (f *inFlight) refresh() (e2e.Tokens, int) { return f.client.Refresh(f.t, f.handle) }

// land uses all artefacts, which must work.
func (f *inFlight) land(when string) {
	f.t.Helper()
	if status := e2e.Call(f.t, f.d.Issuer+"/mcp", f.access); status != 200 {
		f.t.Errorf("%s the access token: %d", when, status)
	}
	if tok, status := f.redeem(f.code); status != 200 {
		f.t.Errorf("%s a code in flight: %d %+v", when, status, tok)
	}
	tok, status := f.refresh()
	if status != 200 {
		f.t.Errorf("%s the refresh handle: %d %+v", when, status, tok)
	}
	f.handle = tok.RefreshToken
	if f.session.open(f.d.Issuer + "/account").page.AsksPassword() {
		f.t.Errorf("%s the session is over", when)
	}
	for name, code := range map[string]string{
		"login transaction": f.login.signIn().approve(),
		"consent":           f.consent.approve(),
	} {
		if tok, status := f.redeem(code); status != 200 {
			f.t.Errorf("%s the %s: %d %+v", when, name, status, tok)
		}
	}
}

// phase is the phase of the rotation by the secret file.
func phase(d *e2e.Program) seal.Phase {
	d.T.Helper()
	text, err := os.ReadFile(filepath.Join(d.Dir, "secret"))
	if err != nil {
		d.T.Fatal(err)
	}
	if _, err := seal.Parse(strings.TrimSpace(string(text))); err != nil {
		d.T.Fatal(err)
	}
	return seal.PhaseOf(strings.TrimSpace(string(text)))
}

func rotateSecret(d *e2e.Program, args ...string) string {
	d.T.Helper()
	out, errOut, status := d.Signet("", append([]string{"secret", "rotate"}, args...)...)
	if status != 0 {
		d.T.Fatalf("secret rotate %v: %d %s%s", args, status, out, errOut)
	}
	if text, err := os.ReadFile(filepath.Join(d.Dir, "secret")); err == nil {
		for _, entry := range strings.FieldsFunc(string(text), func(r rune) bool { return strings.ContainsRune(",:\n", r) }) {
			if len(entry) > 20 && strings.Contains(out+errOut+d.Output(), entry) {
				d.T.Error("a root secret was shown")
			}
		}
	}
	return out
}

// keepRefreshing refreshes until the returned function is called, but at least a number
// of times, and checks that every answer is good.
func keepRefreshing(t *testing.T, d *e2e.Program, workers int) (stop func(least int) (refreshes int)) {
	t.Helper()
	end := make(chan struct{})
	var all sync.WaitGroup
	var mu sync.Mutex
	n := 0
	for range workers {
		client, tok := d.Login()
		all.Go(func() {
			for {
				select {
				case <-end:
					return
				case <-time.After(2 * time.Millisecond):
				}
				next, status := client.Refresh(t, tok.RefreshToken)
				if status != 200 {
					t.Errorf("a refresh under way: %d %+v", status, next)
					return
				}
				if status := e2e.Call(t, d.Issuer+"/mcp", next.AccessToken); status != 200 {
					t.Errorf("a call under way: %d", status)
				}
				tok = next
				mu.Lock()
				n++
				mu.Unlock()
			}
		})
	}
	return func(least int) int {
		done := func() int { mu.Lock(); defer mu.Unlock(); return n }
		for deadline := time.Now().Add(time.Minute); done() < least && !t.Failed() && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		}
		close(end)
		all.Wait()
		return n
	}
}

// The root secret rotates beside a running server under load. No request fails, all
// artefacts in flight are accepted, and no secret is shown. After the last step
// artefacts sealed under the old root are refused, but registered clients and their
// secrets stay.
func TestSecretRotatesBesideAServer(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	configured := &e2e.Client{Issuer: d.Issuer, RedirectURI: e2e.RedirectURI, ID: "app", Secret: "a-secret-of-some-length"}
	if _, errOut, status := d.Signet(configured.Secret+"\n", "client", "add", "app", "--redirect-uri", e2e.RedirectURI, "--secret-stdin"); status != 0 {
		t.Fatal(errOut)
	}
	first, second := fly(t, d), fly(t, d)
	stop := keepRefreshing(t, d, 2)
	if rotateSecret(d); phase(d) != seal.Turned {
		t.Errorf("phase %d", phase(d))
	}
	first.land("after a rotation")
	if out := rotateSecret(d); !strings.Contains(out, "already") || phase(d) != seal.Turned {
		t.Errorf("rotating again: phase %d, %s", phase(d), out)
	}
	if _, errOut, status := d.Signet("", "secret", "rotate", "--finish"); status != 1 || !strings.Contains(errOut, "too early") || phase(d) != seal.Turned {
		t.Errorf("--finish at once: %d %s", status, errOut)
	}
	if rotateSecret(d, "--finish", "--now"); phase(d) != seal.Settled {
		t.Errorf("phase %d", phase(d))
	}
	if n := stop(50); n < 50 {
		t.Errorf("%d refreshes: the test is idle", n)
	}
	for name, got := range map[string]func() (e2e.Tokens, int){
		"refresh handle": second.refresh, "code": func() (e2e.Tokens, int) { return second.redeem(second.code) },
	} {
		if tok, status := got(); status != 400 || tok.Error != "invalid_grant" { // and not invalid_client
			t.Errorf("a %s of the old root after --finish: %d %+v", name, status, tok)
		}
	}
	if second.session.open(d.Issuer + "/account"); !second.session.page.AsksPassword() {
		t.Error("a session of the old root after --finish needs no password")
	}
	second.session.open(second.client.AuthorizationURL("s"))
	if code := second.session.signIn().approve(); code == "" {
		t.Error("the registered client gets no code")
	} else if tok, status := second.redeem(code); status != 200 {
		t.Errorf("the registered client of the old root: %d %+v", status, tok)
	}
	code := newVisitor(t).open(configured.AuthorizationURL("s")).signIn().approve()
	if tok, status := e2e.Post(t, d.Issuer, url.Values{"grant_type": {"authorization_code"}, "code": {code}, "code_verifier": {e2e.Verifier},
		"client_id": {configured.ID}, "client_secret": {configured.Secret}}); status != 200 {
		t.Errorf("the configured client, whose secret was hashed under the old root: %d %+v", status, tok)
	}
	if _, errOut, status := d.Signet("", "secret", "rotate", "--finish"); status != 1 || !strings.Contains(errOut, "there is no rotation to finish") {
		t.Errorf("--finish twice: %d %s", status, errOut)
	}
	// Rotate again, from a list that has a root for clients.
	third := fly(t, d)
	rotateSecret(d)
	third.land("after a second rotation")
	if tok, status := third.refresh(); status != 200 {
		t.Errorf("%d %+v", status, tok)
	}
	d.Stop()
	rotateSecret(d, "--finish", "--now") // no server runs
	d.Start()
	if tok, status := first.refresh(); status != 400 || tok.Error != "invalid_grant" {
		t.Errorf("a handle of the second root: %d %+v", status, tok)
	}
}

// rotateAndKill runs the command and kills it when it has written that many lines, or
// after a while.
func rotateAndKill(d *e2e.Program, lines int, after time.Duration) {
	d.T.Helper()
	cmd := exec.Command(e2e.Binary(d.T), "secret", "rotate")
	cmd.Env = d.Env
	out, err := cmd.StdoutPipe()
	if err != nil {
		d.T.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		d.T.Fatal(err)
	}
	if lines > 0 {
		for said := bufio.NewScanner(out); lines > 0 && said.Scan(); lines-- {
		}
	} else {
		time.Sleep(after)
	}
	cmd.Process.Kill()
	cmd.Wait()
}

// Killed at any moment, beside a server or without one, a rotation leaves a state with
// which a server starts and opens all artefacts. The next call completes it.
func TestKilledRotationOfTheSecretCanBeCompleted_L02(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	client, tok := d.Login()
	seen := map[seal.Phase]int{}
	check := func(what string) {
		t.Helper()
		next, status := client.Refresh(t, tok.RefreshToken)
		if status != 200 {
			t.Fatalf("%s: %d %+v", what, status, next)
		}
		tok = next
	}
	for i := range 12 {
		serving := i%2 == 0
		if !serving {
			d.Stop()
		}
		lines, after := 0, time.Duration(0)
		if i < 6 {
			lines = i/2 + 1
		} else if after = time.Duration(i-6) * 4 * time.Millisecond; serving {
			after = time.Duration(i-6) * 400 * time.Millisecond
		}
		rotateAndKill(d, lines, after)
		at := phase(d)
		seen[at]++
		what := fmt.Sprintf("killed after %d lines or %v, in phase %d", lines, after, at)
		if serving {
			check(what + ", the server that ran")
			d.Kill()
		}
		d.Start()
		check(what + ", a new server")
		out := rotateSecret(d)
		if phase(d) != seal.Turned {
			t.Fatalf("%s, and again: phase %d\n%s", what, phase(d), out)
		}
		check(what + ", and again")
		rotateSecret(d, "--finish", "--now")
		check(what + ", and finished")
	}
	if seen[seal.Begun] == 0 || seen[seal.Turned] == 0 {
		t.Errorf("phases after the kill %v: the test is idle", seen)
	}
}

// Two replicas on PostgreSQL, to which the secret is deployed: rolling restarts, with
// replicas of two lists side by side. The command refuses while one replica is behind.
func TestSecretRotatesWithReplicas(t *testing.T) {
	old, next := seal.NewSecret(), seal.NewSecret()
	storeURL := "SIGNET_STORE=" + pgtest.URL(t)
	secret := func(list string) []string { return []string{storeURL, "SIGNET_SECRET=" + list} }
	a := e2e.Start(t, secret(old), "--demo")
	b := e2e.Start(t, append(secret(old), "SIGNET_ISSUER="+a.Issuer), "--demo")
	deploy := func(d *e2e.Program, list string) {
		t.Helper()
		d.Stop()
		d.Env = append(d.Env, "SIGNET_SECRET="+list)
		d.Start()
	}
	command := func(list string, args ...string) (string, int) {
		t.Helper()
		env := a.Env
		a.Env = append(a.Env[:len(a.Env):len(a.Env)], "SIGNET_SECRET="+list)
		out, errOut, status := a.Signet("", append([]string{"secret", "rotate"}, args...)...)
		a.Env = env
		return out + errOut, status
	}
	want := func(list string, status int, text string, args ...string) {
		t.Helper()
		if out, got := command(list, args...); got != status || !strings.Contains(out, text) || strings.Contains(out, old) || strings.Contains(out, next) {
			t.Errorf("secret rotate %v: %d, want %d with %q\n%s", args, got, status, text, out)
		}
	}
	client, tok := a.Login()
	onBoth := func(when string) {
		t.Helper()
		for _, d := range []*e2e.Program{a, b} {
			got, status := client.At(d.URL()).Refresh(t, tok.RefreshToken)
			if status != 200 {
				t.Fatalf("%s: %d %+v", when, status, got)
			}
			tok = got
			if status := e2e.Call(t, d.URL()+"/mcp", tok.AccessToken); status != 200 {
				t.Errorf("%s: %d", when, status)
			}
		}
	}
	want(old, 1, "Deploy old,new")
	want(next+","+old, 1, "servers that do not have the first root secret")
	deploy(a, old+","+next)
	onBoth("one has old,new")
	want(next+","+old, 1, "servers that do not have the first root secret")
	deploy(b, old+","+next)
	onBoth("both have old,new")
	want(old+","+next, 0, "deploy new,old to all servers")
	want(next+","+old, 1, "still seal under the old root secret")
	deploy(b, next+","+old)
	onBoth("one has new,old")
	deploy(a, next+","+old)
	want(next+","+old, 1, "run `signet secret rotate` first", "--finish")
	want(next+","+old, 0, "2 signing keys are sealed again")
	onBoth("the store is under the new one")
	want(next+","+old, 0, "already")
	want(next+","+old, 1, "too early", "--finish")
	want(next+","+old, 0, "Deploy new,clients:old", "--finish", "--now")
	deploy(a, next+",clients:"+old)
	onBoth("one has new,clients:old")
	deploy(b, next+",clients:"+old)
	onBoth("both have new,clients:old")
	deploy(b, next)
	if got, status := client.At(b.URL()).Refresh(t, tok.RefreshToken); status != 401 || got.Error != "invalid_client" {
		t.Errorf("a registered client without its root: %d %+v", status, got)
	}
	b.Stop()
	b.Env = append(b.Env, "SIGNET_SECRET="+old)
	out, err := b.Command().CombinedOutput()
	if err == nil || !strings.Contains(string(out), "made under another root secret") {
		t.Errorf("a replica with the old one alone: %v %s", err, out)
	}
}

// A secret file that was made useless by hand is not taken up.
func TestSecretFileChangedByHandIsNotTakenUp_L03(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	client, tok := d.Login()
	path := filepath.Join(d.Dir, "secret")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	config := func() string {
		resp, err := http.Get(d.Issuer + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var health struct{ Config string }
		json.NewDecoder(resp.Body).Decode(&health)
		return health.Config
	}
	for name, change := range map[string]func() error{
		"another root": func() error { return os.WriteFile(path, []byte(seal.NewSecret()), 0o600) },
		"cut off":      func() error { return os.WriteFile(path, good[:20], 0o600) },
		"empty":        func() error { return os.WriteFile(path, nil, 0o600) },
		"open to all":  func() error { return os.Chmod(path, 0o644) },
		"gone":         func() error { return os.Remove(path) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		e2e.Eventually(t, func() bool { return config() == "stale" })
		next, status := client.Refresh(t, tok.RefreshToken)
		if status != 200 {
			t.Fatalf("%s: %d %+v", name, status, next)
		}
		tok = next
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
		os.Chmod(path, 0o600)
		e2e.Eventually(t, func() bool { return config() == "ok" })
	}
}

// Whoever got a root secret that was retired makes no client with it: ids under it are taken if
// they were made before, and where registration is closed, if they are in use.
func TestRetiredSecretMakesNoClients(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	stolen, err := seal.Parse(strings.TrimSpace(e2e.ReadText(t, filepath.Join(d.Dir, "secret"))))
	if err != nil {
		t.Fatal(err)
	}
	client, _ := d.Login()
	unused := e2e.Register(t, d.Issuer, e2e.RedirectURI)
	rotateSecret(d)
	rotateSecret(d, "--finish", "--now")
	id, err := seal.Seal(stolen, seal.Client{Name: "Evil", RedirectURIs: []string{e2e.RedirectURI}, Method: "none", Scope: []string{"read"}, Issued: time.Now().Unix()})
	if err != nil {
		t.Fatal(err)
	}
	forged := &e2e.Client{Issuer: d.Issuer, RedirectURI: e2e.RedirectURI, ID: id}
	wantKnown := func(when string, want map[*e2e.Client]bool) {
		t.Helper()
		for c, known := range want {
			var tok e2e.Tokens
			var status int
			e2e.Eventually(t, func() bool { // the grants were read
				tok, status = c.Refresh(t, "x")
				return status != http.StatusServiceUnavailable
			})
			if (tok.Error == "invalid_grant") != known || (tok.Error == "invalid_client") == known {
				t.Errorf("%s, client %.8s: %d %s, want known %v", when, c.ID, status, tok.Error, known)
			}
			if page := newVisitor(t).open(c.AuthorizationURL("s")).page; page.AsksPassword() != known {
				t.Errorf("%s, client %.8s: %s", when, c.ID, page)
			}
		}
	}
	wantKnown("registration open", map[*e2e.Client]bool{client: true, unused: true, forged: false})
	d.Stop()
	d.Env = append(d.Env, "SIGNET_REGISTRATION=off")
	d.Start()
	wantKnown("registration off", map[*e2e.Client]bool{client: true, unused: false, forged: false})
	client.Exchange(t, client.Code(t, "demo_user", "demo_password"))
}

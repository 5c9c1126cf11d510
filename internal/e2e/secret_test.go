package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/internal/seal"
	"signet/internal/test/pgtest"
)

// visitor is a browser that stops on the way, so that something is in flight.
type visitor struct {
	t     *testing.T
	http  *http.Client
	page  string   // the last one
	at    *url.URL // where it came from
	left  *url.URL // where a redirect leaves the server
	state int
}

func newVisitor(t *testing.T) *visitor {
	v := &visitor{t: t}
	jar, _ := cookiejar.New(nil)
	v.http = &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if r.URL.Host != via[0].URL.Host {
			v.left = r.URL
			return http.ErrUseLastResponse
		}
		return nil
	}}
	return v
}

func (v *visitor) do(r *http.Request) {
	v.t.Helper()
	v.left = nil
	resp, err := v.http.Do(r)
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	v.page, v.at, v.state = string(b), resp.Request.URL, resp.StatusCode
}

func (v *visitor) open(to string) *visitor {
	v.t.Helper()
	r, _ := http.NewRequest("GET", to, nil)
	v.do(r)
	return v
}

// submit sends the page's form with what is typed in.
func (v *visitor) submit(typed url.Values) *visitor {
	v.t.Helper()
	action := formAction.FindStringSubmatch(v.page)
	if action == nil {
		v.t.Fatalf("no form in the answer %d:\n%s", v.state, v.page)
	}
	for _, field := range hidden.FindAllStringSubmatch(v.page, -1) {
		typed.Set(html.UnescapeString(field[1]), html.UnescapeString(field[2]))
	}
	to, err := v.at.Parse(html.UnescapeString(action[1]))
	if err != nil {
		v.t.Fatal(err)
	}
	r, _ := http.NewRequest("POST", to.String(), strings.NewReader(typed.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", v.at.Scheme+"://"+v.at.Host)
	v.do(r)
	return v
}

func (v *visitor) signIn() *visitor {
	v.t.Helper()
	return v.submit(url.Values{"username": {"demo_user"}, "password": {"demo_password"}})
}

func (v *visitor) approve() (code string) {
	v.t.Helper()
	v.submit(url.Values{"decision": {"approve"}})
	if v.left == nil || v.left.Query().Get("code") == "" {
		v.t.Fatalf("no code: %d %v", v.state, v.left)
	}
	return v.left.Query().Get("code")
}

const redirectURI = "http://127.0.0.1:9/callback"

// inFlight is everything that was sealed at some moment and not used yet.
type inFlight struct {
	t       *testing.T
	d       *daemon
	client  registration // with a derived secret
	handle  string
	code    string
	login   *visitor // on the login page
	consent *visitor // on the consent page
	session *visitor // signed in
	access  string
}

func (d *daemon) fly(t *testing.T) *inFlight {
	t.Helper()
	f := &inFlight{t: t, d: d}
	resp, err := http.Post(d.issuer+"/register", "application/json", strings.NewReader(`{"client_name":"With a secret","redirect_uris":["`+redirectURI+
		`"],"token_endpoint_auth_method":"client_secret_post","grant_types":["authorization_code","refresh_token"]}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&f.client); err != nil || f.client.ClientSecret == "" {
		t.Fatalf("registration: %d %v", resp.StatusCode, err)
	}
	authorize := authorizationURL(d.issuer, f.client, redirectURI, "s")
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

func (f *inFlight) redeem(code string) (tokens, int) {
	return post(f.t, f.d.issuer, url.Values{"grant_type": {"authorization_code"}, "code": {code}, "code_verifier": {verifier},
		"client_id": {f.client.ClientID}, "client_secret": {f.client.ClientSecret}})
}

func (f *inFlight) refresh() (tokens, int) {
	return post(f.t, f.d.issuer, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {f.handle}, "client_id": {f.client.ClientID}, "client_secret": {f.client.ClientSecret}})
}

// land uses all of it, which has to work.
func (f *inFlight) land(when string) {
	f.t.Helper()
	if status := mcpStatus(f.t, f.d.issuer, f.access); status != 200 {
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
	for name, code := range map[string]string{
		"login transaction": f.login.signIn().approve(),
		"consent":           f.consent.approve(),
		"session":           f.session.open(authorizationURL(f.d.issuer, f.client, redirectURI, "s")).approve(), // without a password
	} {
		if tok, status := f.redeem(code); status != 200 {
			f.t.Errorf("%s the %s: %d %+v", when, name, status, tok)
		}
	}
}

// phase is how far the secret file says that a rotation has come.
func (d *daemon) phase() seal.Phase {
	d.t.Helper()
	text, err := os.ReadFile(filepath.Join(d.dir, "secret"))
	if err != nil {
		d.t.Fatal(err)
	}
	if _, err := seal.Parse(strings.TrimSpace(string(text))); err != nil {
		d.t.Fatal(err)
	}
	return seal.PhaseOf(strings.TrimSpace(string(text)))
}

func (d *daemon) rotateSecret(args ...string) string {
	d.t.Helper()
	out, errOut, status := d.signet("", append([]string{"secret", "rotate"}, args...)...)
	if status != 0 {
		d.t.Fatalf("secret rotate %v: %d %s%s", args, status, out, errOut)
	}
	if text, err := os.ReadFile(filepath.Join(d.dir, "secret")); err == nil {
		for _, entry := range strings.FieldsFunc(string(text), func(r rune) bool { return strings.ContainsRune(",:\n", r) }) {
			if len(entry) > 20 && strings.Contains(out+errOut+d.output(), entry) {
				d.t.Error("a root secret was shown")
			}
		}
	}
	return out
}

// keepRefreshing refreshes until the returned function is called, and at least so many
// times, and wants every answer to be good.
func (d *daemon) keepRefreshing(t *testing.T, workers int) (stop func(least int) (refreshes int)) {
	t.Helper()
	end := make(chan struct{})
	var all sync.WaitGroup
	var mu sync.Mutex
	n := 0
	for range workers {
		client, tok := d.login()
		all.Go(func() {
			for {
				select {
				case <-end:
					return
				case <-time.After(2 * time.Millisecond):
				}
				next, status := refresh(t, d.issuer, client, tok.RefreshToken)
				if status != 200 {
					t.Errorf("a refresh under way: %d %+v", status, next)
					return
				}
				if status := mcpStatus(t, d.issuer, next.AccessToken); status != 200 {
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

// P15: the root secret rotates beside a running server under load. No request fails, all
// that is in flight lands, and nothing is shown. After the last step what the old root
// sealed is refused, but registered clients and their secrets stay.
func TestP15_SecretRotateBesideAServer(t *testing.T) {
	d := startDaemon(t, nil, "--demo")
	configured := registration{ClientID: "app", ClientSecret: "a-secret-of-some-length"}
	if _, errOut, status := d.signet(configured.ClientSecret+"\n", "client", "add", "app", "--redirect-uri", redirectURI, "--secret-stdin"); status != 0 {
		t.Fatal(errOut)
	}
	first, second := d.fly(t), d.fly(t)
	stop := d.keepRefreshing(t, 2)
	if d.rotateSecret(); d.phase() != seal.Turned {
		t.Errorf("phase %d", d.phase())
	}
	first.land("after a rotation")
	if out := d.rotateSecret(); !strings.Contains(out, "already") || d.phase() != seal.Turned {
		t.Errorf("rotating again: phase %d, %s", d.phase(), out)
	}
	if _, errOut, status := d.signet("", "secret", "rotate", "--finish"); status != 1 || !strings.Contains(errOut, "too early") || d.phase() != seal.Turned {
		t.Errorf("--finish at once: %d %s", status, errOut)
	}
	if d.rotateSecret("--finish", "--now"); d.phase() != seal.Settled {
		t.Errorf("phase %d", d.phase())
	}
	if n := stop(50); n < 50 {
		t.Errorf("%d refreshes: the test is idle", n)
	}
	for name, got := range map[string]func() (tokens, int){
		"refresh handle": second.refresh, "code": func() (tokens, int) { return second.redeem(second.code) },
	} {
		if tok, status := got(); status != 400 || tok.Error != "invalid_grant" { // and not invalid_client
			t.Errorf("a %s of the old root after --finish: %d %+v", name, status, tok)
		}
	}
	if second.session.open(authorizationURL(d.issuer, second.client, redirectURI, "s")); !strings.Contains(second.session.page, `name="password"`) {
		t.Error("a session of the old root after --finish needs no password")
	}
	if code := second.session.signIn().approve(); code == "" {
		t.Error("the registered client cannot sign anybody in")
	} else if tok, status := second.redeem(code); status != 200 {
		t.Errorf("the registered client of the old root: %d %+v", status, tok)
	}
	code := newVisitor(t).open(authorizationURL(d.issuer, configured, redirectURI, "s")).signIn().approve()
	if tok, status := post(t, d.issuer, url.Values{"grant_type": {"authorization_code"}, "code": {code}, "code_verifier": {verifier},
		"client_id": {configured.ClientID}, "client_secret": {configured.ClientSecret}}); status != 200 {
		t.Errorf("the configured client, whose secret was hashed under the old root: %d %+v", status, tok)
	}
	if _, errOut, status := d.signet("", "secret", "rotate", "--finish"); status != 1 || !strings.Contains(errOut, "no rotation is to be finished") {
		t.Errorf("--finish twice: %d %s", status, errOut)
	}
	// Once more, from a list that has a root for clients.
	third := d.fly(t)
	d.rotateSecret()
	third.land("after a second rotation")
	if tok, status := third.refresh(); status != 200 {
		t.Errorf("%d %+v", status, tok)
	}
	d.stop()
	d.rotateSecret("--finish", "--now") // nobody serves
	d.start()
	if tok, status := first.refresh(); status != 400 || tok.Error != "invalid_grant" {
		t.Errorf("a handle of the second root: %d %+v", status, tok)
	}
}

// rotateAndKill runs the command and kills it as soon as it has said lines, or after a
// while.
func (d *daemon) rotateAndKill(lines int, after time.Duration) {
	d.t.Helper()
	cmd := exec.Command(program(d.t), "secret", "rotate")
	cmd.Env = d.env
	out, err := cmd.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
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

// L02, P15: killed at any moment, beside a server or without one, a rotation leaves what
// starts and opens everything; the next call completes it.
func TestL02_SecretRotateKilled(t *testing.T) {
	d := startDaemon(t, nil, "--demo")
	client, tok := d.login()
	seen := map[seal.Phase]int{}
	check := func(what string) {
		t.Helper()
		next, status := refresh(t, d.issuer, client, tok.RefreshToken)
		if status != 200 {
			t.Fatalf("%s: %d %+v", what, status, next)
		}
		tok = next
	}
	for i := range 12 {
		serving := i%2 == 0
		if !serving {
			d.stop()
		}
		lines, after := 0, time.Duration(0)
		if i < 6 {
			lines = i/2 + 1
		} else if after = time.Duration(i-6) * 4 * time.Millisecond; serving {
			after = time.Duration(i-6) * 400 * time.Millisecond
		}
		d.rotateAndKill(lines, after)
		phase := d.phase()
		seen[phase]++
		what := fmt.Sprintf("killed after %d lines or %v, in phase %d", lines, after, phase)
		if serving {
			check(what + ", the server that ran")
			d.kill()
		}
		d.start()
		check(what + ", a new server")
		out := d.rotateSecret()
		if d.phase() != seal.Turned {
			t.Fatalf("%s, and again: phase %d\n%s", what, d.phase(), out)
		}
		check(what + ", and again")
		d.rotateSecret("--finish", "--now")
		check(what + ", and finished")
	}
	if seen[seal.Begun] == 0 || seen[seal.Turned] == 0 {
		t.Errorf("phases after the kill %v: the test is idle", seen)
	}
}

// P15: two replicas on PostgreSQL, where the secret is deployed: rolling restarts, with
// replicas of two lists side by side. The command refuses while one of them is behind.
func TestP15_SecretRotateWithReplicas(t *testing.T) {
	old, next := seal.NewSecret(), seal.NewSecret()
	storeURL := "SIGNET_STORE=" + pgtest.URL(t)
	secret := func(list string) []string { return []string{storeURL, "SIGNET_SECRET=" + list} }
	a := startDaemon(t, secret(old), "--demo")
	b := startDaemon(t, append(secret(old), "SIGNET_ISSUER="+a.issuer), "--demo")
	deploy := func(d *daemon, list string) {
		t.Helper()
		d.stop()
		d.env = append(d.env, "SIGNET_SECRET="+list)
		d.start()
	}
	command := func(list string, args ...string) (string, int) {
		t.Helper()
		env := a.env
		a.env = append(a.env[:len(a.env):len(a.env)], "SIGNET_SECRET="+list)
		out, errOut, status := a.signet("", append([]string{"secret", "rotate"}, args...)...)
		a.env = env
		return out + errOut, status
	}
	want := func(list string, status int, text string, args ...string) {
		t.Helper()
		if out, got := command(list, args...); got != status || !strings.Contains(out, text) || strings.Contains(out, old) || strings.Contains(out, next) {
			t.Errorf("secret rotate %v: %d, want %d with %q\n%s", args, got, status, text, out)
		}
	}
	client, tok := a.login()
	onBoth := func(when string) {
		t.Helper()
		for _, d := range []*daemon{a, b} {
			got, status := refresh(t, d.listen(), client, tok.RefreshToken)
			if status != 200 {
				t.Fatalf("%s: %d %+v", when, status, got)
			}
			tok = got
			if status := mcpStatus(t, d.listen(), tok.AccessToken); status != 200 {
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
	want(old+","+next, 0, "go on: deploy new,old")
	want(next+","+old, 1, "still seal under the old root secret")
	deploy(b, next+","+old)
	onBoth("one has new,old")
	deploy(a, next+","+old)
	want(next+","+old, 1, "run `signet secret rotate` first", "--finish")
	want(next+","+old, 0, "2 signing keys are sealed anew")
	onBoth("the store is under the new one")
	want(next+","+old, 0, "already")
	want(next+","+old, 1, "too early", "--finish")
	want(next+","+old, 0, "Deploy new,clients:old", "--finish", "--now")
	deploy(a, next+",clients:"+old)
	onBoth("one has new,clients:old")
	deploy(b, next+",clients:"+old)
	onBoth("both have new,clients:old")
	deploy(b, next)
	if got, status := refresh(t, b.listen(), client, tok.RefreshToken); status != 401 || got.Error != "invalid_client" {
		t.Errorf("a registered client without its root: %d %+v", status, got)
	}
	b.stop()
	b.env = append(b.env, "SIGNET_SECRET="+old)
	out, err := b.command().CombinedOutput()
	if err == nil || !strings.Contains(string(out), "made under another root secret") {
		t.Errorf("a replica with the old one alone: %v %s", err, out)
	}
}

// A secret file that was changed by hand into something of no use is not taken up.
func TestL03_SecretFileChangedByHand(t *testing.T) {
	d := startDaemon(t, nil, "--demo")
	client, tok := d.login()
	path := filepath.Join(d.dir, "secret")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	config := func() string {
		resp, err := http.Get(d.issuer + "/readyz")
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
		eventually(t, func() bool { return config() == "stale" })
		next, status := refresh(t, d.issuer, client, tok.RefreshToken)
		if status != 200 {
			t.Fatalf("%s: %d %+v", name, status, next)
		}
		tok = next
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
		os.Chmod(path, 0o600)
		eventually(t, func() bool { return config() == "ok" })
	}
}

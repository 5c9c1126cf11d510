package faults

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"signet/internal/e2e"
	"signet/internal/seal"
)

// The tests in this file are rows of the catalogue about running the program: reloads,
// secrets in its output, and resources that must not pile up.

// A changed file that cannot be used, with or without a SIGHUP, causes an error in the
// log, a metric and a warning in /readyz. The content read before stays in force, and
// no new user or client is accepted.
func TestBrokenFilesLeaveThePreviousInForce_L03(t *testing.T) {
	d := e2e.New(t, []string{"SIGNET_LIMITS=off"}).WithMetrics()
	d.AddUser("ann", "correct horse battery")
	d.Start()
	var conf *e2e.Client
	d.TakesUp("clients", func() { conf = d.Confidential() })
	get := func() string { return conf.AuthorizationURL("s") }
	config := func() string {
		doc, resp := e2e.GetJSON(t, d.Issuer+"/readyz")
		if resp.StatusCode != 200 {
			t.Errorf("/readyz: %d %v", resp.StatusCode, doc)
		}
		return fmt.Sprint(doc["config"])
	}
	life := func(value string) func(string) string {
		return func(good string) string {
			return strings.Replace(good, `"client_id": "conf",`, `"client_id": "conf", "access_ttl": `+value+`,`, 1)
		}
	}
	for _, c := range []struct {
		file, says string
		broken     func(good string) string
	}{
		{"users", "users:1", func(string) string { return `{"name":"eve","disabled":false}` + "\n" }},
		{"users", "users is empty", func(string) string { return "" }}, // as while it is written
		{"clients.json", "not a list of clients", func(string) string { return `[{"client_id":"x"}]` }},
		{"clients.json", "clients[0].access_ttl: not a duration such as 10m", life(`"soon"`)},
		{"clients.json", "client conf: access_ttl is 10ms, less than a second", life(`"10ms"`)},
	} {
		path := filepath.Join(d.Dir, c.file)
		good := e2e.ReadText(t, path)
		said := d.Says("a changed file cannot be used")
		if err := os.WriteFile(path, []byte(c.broken(good)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := d.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		d.WaitForMore("a changed file cannot be used", said)
		d.WaitFor(c.says)
		if got, gauge := config(), d.Gauge("signet_config_stale"); got != "stale" || gauge != 1 {
			t.Errorf("%s broken: /readyz says %s, and the metric %g", c.file, got, gauge)
		}
		if code := e2e.SignIn(t, get(), "ann", "correct horse battery").Query().Get("code"); code == "" {
			t.Errorf("%s broken: the earlier user and client get no code", c.file)
		}
		if resp, err := http.Get(strings.Replace(get(), conf.ID, "x", 1)); err != nil || resp.StatusCode != 400 {
			t.Errorf("%s broken: an unknown client: %v %v, want 400", c.file, resp, err)
		}
		if err := os.WriteFile(path, []byte(good), 0o600); err != nil {
			t.Fatal(err)
		}
		e2e.Eventually(t, func() bool { return config() == "ok" && d.Gauge("signet_config_stale") == 0 })
	}
	d.TakesUp("users", func() {
		if err := os.WriteFile(filepath.Join(d.Dir, "users"), []byte("# nobody\n"), 0o600); err != nil { // well formed, and without a user
			t.Fatal(err)
		}
	})
	form := url.Values{"username": {"ann"}, "password": {"correct horse battery"}}
	w := newWorker(t, d, nil, 0, 0)
	w.client = conf
	if a := w.ask(w.answerTo(w.begin(), form)); a.StatusCode != 401 && !(a.StatusCode == 200 && a.AsksPassword()) {
		t.Errorf("a removed user: %s", a)
	}
	if d.Stop() != 0 {
		t.Error("the server ended before it was stopped")
	}
}

// forms are the encodings in which a secret may appear.
func forms(secret string) []string {
	list := []string{secret, url.QueryEscape(secret), hex.EncodeToString([]byte(secret)), strings.ReplaceAll(secret, " ", "%20")}
	for shift := range 3 { // part of a longer encoded text
		enc := base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("\x00", shift) + secret))
		middle := enc[4 : len(enc)-len(enc)%4-4]
		list = append(list, middle, strings.NewReplacer("-", "+", "_", "/").Replace(middle))
	}
	if len(secret) > 16 {
		list = append(list, secret[:16])
	}
	return list
}

// No secret in any form is in the output of the program: the log at level debug, the
// metrics, the profiles, its files, and files elsewhere.
func TestNoSecretIsShownAnywhere_L11(t *testing.T) {
	temp := t.TempDir()
	d := e2e.New(t, []string{"TMPDIR=" + temp, "SIGNET_LIMITS=off"}).WithMetrics()
	const password, wrong, clientSecret = "Canary pass-word 7f31", "Canary wrong 90aa31", "canary-client-secret-5d21c0ffee9911"
	d.AddUser("ann", password)
	if _, errOut, status := d.Signet(clientSecret+"\n", "client", "add", "conf", "--redirect-uri", e2e.RedirectURI, "--secret-stdin"); status != 0 {
		t.Fatal(errOut)
	}
	d.Start()
	conf := &e2e.Client{Issuer: d.Issuer, RedirectURI: e2e.RedirectURI, ID: "conf", Secret: clientSecret}
	w := newWorker(t, d, nil, 0, 0)
	w.client = conf
	// A login with a wrong password, then the right one; a code used with a wrong
	// verifier, rightly, and again; refreshes, revocation, introspection, calls.
	if a := w.ask(w.answerTo(w.begin(), url.Values{"username": {"ann"}, "password": {wrong}})); a.Left() != nil {
		t.Fatalf("the wrong password: %s", a)
	}
	consent, err := w.person.Submit(w.begin(), url.Values{"username": {"ann"}, "password": {password}})
	if err != nil {
		t.Fatal(err)
	}
	back := w.ask(w.answerTo(consent, url.Values{"decision": {"approve"}}))
	if back.Left() == nil {
		t.Fatalf("no code: %s", back)
	}
	code := back.Left().Query().Get("code")
	send := func(path string, form url.Values) (e2e.Tokens, int) {
		form.Set("client_id", conf.ID)
		form.Set("client_secret", clientSecret)
		tok, status, ok := try(d, path, form)
		if !ok {
			t.Fatalf("%s: no answer", path)
		}
		return tok, status
	}
	const wrongVerifier = "canary-wrong-verifier-0123456789-0123456789-0123456789"
	form := conf.CodeForm(code)
	form.Set("code_verifier", wrongVerifier)
	send("/token", form)
	first, status := send("/token", conf.CodeForm(code))
	if status != 200 {
		t.Fatalf("the code: %d %+v", status, first)
	}
	second, _ := send("/token", conf.RefreshForm(first.RefreshToken))
	send("/introspect", conf.TokenForm(second.AccessToken))
	e2e.Call(t, d.Issuer+"/mcp", second.AccessToken)
	e2e.Call(t, d.Issuer+"/mcp", second.AccessToken+"x")
	e2e.Call(t, d.Issuer+"/mcp?access_token="+second.AccessToken, "")
	form = conf.RefreshForm(second.RefreshToken)
	form.Set("client_secret", clientSecret+"-wrong")
	try(d, "/token", form)
	send("/token", conf.RefreshForm(first.RefreshToken+"x"))
	send("/token", conf.CodeForm(code)) // reuse: the grant ends
	resp, err := http.Get(d.Issuer + "/authorize?code=" + code + "&password=" + url.QueryEscape(password))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()

	secrets := map[string]string{
		"password": password, "wrong password": wrong, "client secret": clientSecret, "code": code, "verifier": e2e.Verifier, "wrong verifier": wrongVerifier,
		"access token": second.AccessToken, "signature": second.AccessToken[strings.LastIndexByte(second.AccessToken, '.')+1:],
		"first handle": first.RefreshToken, "second handle": second.RefreshToken, "root secret": strings.TrimSpace(e2e.ReadText(t, filepath.Join(d.Dir, "secret"))),
	}
	for name, c := range w.person.Cookies {
		secrets["cookie "+name] = c.Value
	}
	if len(secrets) < 13 {
		t.Errorf("only %d secrets: the cookies are missing", len(secrets))
	}
	var sealed string
	if err := d.Database().QueryRow("SELECT sealed_private FROM signing_keys WHERE sealed_private IS NOT NULL LIMIT 1").Scan(&sealed); err != nil {
		t.Fatal(err)
	}
	key, err := seal.Open[seal.SigningKey](d.Ring(), sealed)
	if err != nil {
		t.Fatal(err)
	}
	private := base64.RawURLEncoding.EncodeToString(key.Private)
	secrets["signing key"], secrets["signing key, raw"] = private, string(key.Private)
	places := map[string]string{}
	for _, path := range []string{"/metrics", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1"} {
		resp, err := http.Get("http://" + d.Setting("SIGNET_METRICS_LISTEN") + path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || len(b) == 0 {
			t.Fatalf("%s: %d, %d bytes (%v)", path, resp.StatusCode, len(b), err)
		}
		places[path] = string(b)
	}
	d.Stop()
	places["log"] = d.Output()
	for _, root := range []string{d.Dir, temp} {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() && e.Name() != "secret" {
				places[path] = e2e.ReadText(t, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(places["log"], `"DEBUG"`) || len(places) < 8 {
		t.Errorf("%d places, a log of %d bytes: the search would prove nothing", len(places), len(places["log"]))
	}
	for what, secret := range secrets {
		for _, form := range forms(secret) {
			for where, text := range places {
				if strings.Contains(text, form) {
					t.Errorf("the %s is in %s, as %.8s...", what, where, form)
				}
			}
		}
	}
}

// However many clients there are, the metrics do not grow, and name no client, user or
// token.
func TestMetricsNameNoClient_L13(t *testing.T) {
	clients := 10_000
	if testing.Short() {
		clients = 2_000
	}
	d := e2e.New(t, []string{"SIGNET_LIMITS=off", "SIGNET_LOG_LEVEL=info"}, "--demo").WithMetrics()
	d.Start()
	var all sync.WaitGroup
	ids := make([]string, 8)
	for i := range ids {
		all.Go(func() {
			w := newWorker(t, d, nil, i, 0)
			for range clients / len(ids) {
				c, err := w.register(e2e.RedirectURI)
				if err != nil {
					t.Error(err)
					return
				}
				ids[i] = c.ID
				w.client = c
				w.ask(w.formTo("/token", c.RefreshForm("x")))
			}
			w.http.CloseIdleConnections()
		})
	}
	all.Wait()
	client, tok := d.Login()
	e2e.Call(t, d.Issuer+"/mcp", tok.AccessToken)
	after := d.Metrics()
	if lines := strings.Count(after, "\n"); lines > 500 {
		t.Errorf("%d lines of metrics, want fewer than 500", lines)
	}
	for _, name := range append(ids, client.ID, "demo_user", tok.AccessToken, "demo_client") {
		if strings.Contains(after, name[:min(len(name), 16)]) {
			t.Errorf("the metrics name %.16s", name)
		}
	}
}

// Nothing piles up: five rounds of all kinds of requests leave as many goroutines and
// descriptors as the first round, but for the store's connections for reading: each of these
// is opened when it is first needed, and stays.
func TestNothingAccumulates_L17(t *testing.T) {
	d := e2e.New(t, []string{"SIGNET_LIMITS=off", "SIGNET_LOG_LEVEL=info"}, "--demo").WithMetrics()
	d.Start()
	descriptors := func() int {
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.PID()))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	var signIns sync.Mutex // parallel logins would look like guessing
	round := func() {
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				w := newWorker(t, d, nil, i, 0)
				var err error
				if w.client, err = w.register(e2e.RedirectURI); err != nil {
					t.Error(err)
					return
				}
				signIns.Lock()
				w.tokensOf()
				signIns.Unlock()
				for range 5 {
					tok := w.tokensOf()
					for range 10 {
						tok, _ = w.client.Refresh(t, tok.RefreshToken)
					}
					e2e.Call(t, d.Issuer+"/mcp", tok.AccessToken)
					w.ask(w.formTo("/revoke", w.client.TokenForm(tok.RefreshToken)))
				}
				w.http.CloseIdleConnections()
			})
		}
		all.Wait()
		http.DefaultClient.CloseIdleConnections()
	}
	round()
	var goroutines float64
	var files int
	e2e.Eventually(t, func() bool { // until the connections of the first round are closed
		g, f := d.Gauge("go_goroutines"), descriptors()
		settled := g == goroutines && f == files
		goroutines, files = g, f
		return settled
	})
	for range 4 {
		round()
	}
	const readers = 4 // a goroutine and two files each
	e2e.Eventually(t, func() bool {
		return d.Gauge("go_goroutines") <= goroutines+readers+3 && descriptors() <= files+2*readers+3
	})
}

package e2e

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

	"signet/internal/seal"
)

// The tests in this file are checklist rows about running the program: reloads, what
// it tells and to whom, and that nothing piles up.

// A file that was changed into something that cannot be used, with or without a
// SIGHUP, costs an error in the log, a metric and a word of /readyz. What was read
// before stays in force, and nobody gets in who did not before.
func TestL03_BrokenFilesWhileServing(t *testing.T) {
	d := newDaemon(t, []string{"SIGNET_LIMITS=off"}).withMetrics()
	if _, errOut, status := d.signet("correct horse battery\n", "user", "add", "ann", "--password-stdin"); status != 0 {
		t.Fatal(errOut)
	}
	d.start()
	conf := d.confidential()
	const redirectURI = "http://127.0.0.1:9/callback"
	get := func() string { return authorizationURL(d.issuer, conf, redirectURI, "s") }
	eventually(t, func() bool { // the file is looked at once a second at most
		return newWorker(t, d, nil, 0, 0).follow(clientGet(get())).status == 200
	})
	config := func() string {
		doc, resp := getJSON(t, d.issuer+"/readyz")
		if resp.StatusCode != 200 {
			t.Errorf("/readyz: %d %v", resp.StatusCode, doc)
		}
		return fmt.Sprint(doc["config"])
	}
	for _, c := range []struct{ file, content string }{
		{"users", `{"name":"eve","disabled":false}` + "\n"}, {"clients.json", `[{"client_id":"x"}]`},
	} {
		path := filepath.Join(d.dir, c.file)
		good := readText(t, path)
		said := strings.Count(d.output(), "a changed file cannot be used")
		if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := d.p.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool { return strings.Count(d.output(), "a changed file cannot be used") > said })
		eventually(t, func() bool { return config() == "stale" && d.gauge("signet_config_stale") == 1 })
		if code := signIn(t, get(), "ann", "correct horse battery").Query().Get("code"); code == "" {
			t.Errorf("%s broken: a user and a client of before get no code", c.file)
		}
		if resp, err := http.Get(strings.Replace(get(), conf.ClientID, "x", 1)); err != nil || resp.StatusCode != 400 {
			t.Errorf("%s broken: a client of nobody: %v %v, want 400", c.file, resp, err)
		}
		if err := os.WriteFile(path, []byte(good), 0o600); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool { return config() == "ok" && d.gauge("signet_config_stale") == 0 })
	}
	if err := os.WriteFile(filepath.Join(d.dir, "users"), nil, 0o600); err != nil { // well formed: nobody
		t.Fatal(err)
	}
	eventually(t, func() bool {
		form := url.Values{"username": {"ann"}, "password": {"correct horse battery"}}
		w := newWorker(t, d, nil, 0, 0)
		w.client = conf
		a := w.ask(w.answerTo(w.follow(w.authorize()), form))
		return a.status == 401 || a.status == 200 && strings.Contains(a.body, "username")
	})
	if d.stop() != 0 {
		t.Error("the server did not live until its stop")
	}
}

func clientGet(url string) *http.Request {
	r, _ := http.NewRequest("GET", url, nil)
	return r
}

// forms are the ways in which a secret may show.
func forms(secret string) []string {
	list := []string{secret, url.QueryEscape(secret), hex.EncodeToString([]byte(secret)), strings.ReplaceAll(secret, " ", "%20")}
	for shift := range 3 { // inside of something longer that was encoded
		enc := base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("\x00", shift) + secret))
		middle := enc[4 : len(enc)-len(enc)%4-4]
		list = append(list, middle, strings.NewReplacer("-", "+", "_", "/").Replace(middle))
	}
	if len(secret) > 16 {
		list = append(list, secret[:16])
	}
	return list
}

// No secret in any form is in what the program writes or shows to operators: the log
// at level debug, the metrics, the profiles, its files, and files it leaves elsewhere.
func TestL11_NoSecretAnywhere(t *testing.T) {
	temp := t.TempDir()
	d := newDaemon(t, []string{"TMPDIR=" + temp, "SIGNET_LIMITS=off"}).withMetrics()
	const password, wrong, clientSecret = "Canary pass-word 7f31", "Canary wrong 90aa31", "canary-client-secret-5d21c0ffee9911"
	if _, errOut, status := d.signet(password+"\n", "user", "add", "ann", "--password-stdin"); status != 0 {
		t.Fatal(errOut)
	}
	if _, errOut, status := d.signet(clientSecret+"\n", "client", "add", "conf", "--redirect-uri", faultRedirect, "--secret-stdin"); status != 0 {
		t.Fatal(errOut)
	}
	d.start()
	conf := registration{ClientID: "conf", ClientSecret: clientSecret}
	w := newWorker(t, d, nil, 0, 0)
	w.client = conf
	// A login with a wrong password, then the right one; a code used with a wrong
	// verifier, rightly, and again; refreshes, revocation, introspection, calls.
	if a := w.ask(w.answerTo(w.follow(w.authorize()), url.Values{"username": {"ann"}, "password": {wrong}})); a.location != nil {
		t.Fatalf("the wrong password: %s", a)
	}
	consent := w.follow(w.answerTo(w.follow(w.authorize()), url.Values{"username": {"ann"}, "password": {password}}))
	back := w.ask(w.answerTo(consent, url.Values{"decision": {"approve"}}))
	if back.location == nil {
		t.Fatalf("no code: %s", back)
	}
	code := back.location.Query().Get("code")
	send := func(path string, form url.Values) (tokens, int) {
		form.Set("client_id", conf.ClientID)
		form.Set("client_secret", clientSecret)
		tok, status, ok := d.try(path, form)
		if !ok {
			t.Fatalf("%s: no answer", path)
		}
		return tok, status
	}
	const wrongVerifier = "canary-wrong-verifier-0123456789-0123456789-0123456789"
	form := codeForm(conf, code)
	form.Set("code_verifier", wrongVerifier)
	send("/token", form)
	first, status := send("/token", codeForm(conf, code))
	if status != 200 {
		t.Fatalf("the code: %d %+v", status, first)
	}
	second, _ := send("/token", refreshForm(conf, first.RefreshToken))
	send("/introspect", revokeForm(conf, second.AccessToken))
	mcpStatus(t, d.issuer, second.AccessToken)
	mcpStatus(t, d.issuer, second.AccessToken+"x")
	statusAt(t, d.issuer+"/mcp?access_token="+second.AccessToken, "")
	form = refreshForm(conf, second.RefreshToken)
	form.Set("client_secret", clientSecret+"-wrong")
	d.try("/token", form)
	send("/token", refreshForm(conf, first.RefreshToken+"x"))
	send("/token", codeForm(conf, code)) // reuse: the grant ends
	resp, err := http.Get(d.issuer + "/authorize?code=" + code + "&password=" + url.QueryEscape(password))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()

	secrets := map[string]string{
		"password": password, "wrong password": wrong, "client secret": clientSecret, "code": code, "verifier": verifier, "wrong verifier": wrongVerifier,
		"access token": second.AccessToken, "signature": second.AccessToken[strings.LastIndexByte(second.AccessToken, '.')+1:],
		"first handle": first.RefreshToken, "second handle": second.RefreshToken, "root secret": strings.TrimSpace(readText(t, filepath.Join(d.dir, "secret"))),
	}
	issuer, _ := url.Parse(d.issuer)
	for _, c := range w.http.Jar.Cookies(issuer) {
		secrets["cookie "+c.Name] = c.Value
	}
	if len(secrets) < 13 {
		t.Errorf("only %d secrets: the cookies are missing", len(secrets))
	}
	var sealed string
	if err := d.database().QueryRow("SELECT sealed_private FROM signing_keys WHERE sealed_private IS NOT NULL LIMIT 1").Scan(&sealed); err != nil {
		t.Fatal(err)
	}
	key, err := seal.Open[seal.SigningKey](d.ring(), sealed)
	if err != nil {
		t.Fatal(err)
	}
	private := base64.RawURLEncoding.EncodeToString(key.Private)
	secrets["signing key"], secrets["signing key, raw"] = private, string(key.Private)
	places := map[string]string{}
	for _, path := range []string{"/metrics", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1"} {
		resp, err := http.Get("http://" + d.setting("SIGNET_METRICS_LISTEN") + path)
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
	d.stop()
	places["log"] = d.output()
	for _, root := range []string{d.dir, temp} {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() && e.Name() != "secret" {
				places[path] = readText(t, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(places["log"], `"DEBUG"`) || len(places) < 8 {
		t.Errorf("%d places, a log of %d bytes: nothing is shown by finding nothing", len(places), len(places["log"]))
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

// However many clients there are, the metrics stay as they are, and name nobody.
func TestL13_MetricsNameNobody(t *testing.T) {
	clients := 10_000
	if testing.Short() {
		clients = 2_000
	}
	d := newDaemon(t, []string{"SIGNET_LIMITS=off", "SIGNET_LOG_LEVEL=info"}, "--demo").withMetrics()
	d.start()
	var all sync.WaitGroup
	ids := make([]string, 8)
	for i := range ids {
		all.Go(func() {
			w := newWorker(t, d, nil, i, 0)
			for range clients / len(ids) {
				c, err := w.register(faultRedirect)
				if err != nil {
					t.Error(err)
					return
				}
				ids[i] = c.ClientID
				w.client = c
				w.ask(w.formTo("/token", refreshForm(c, "x")))
			}
			w.http.CloseIdleConnections()
		})
	}
	all.Wait()
	client, tok := d.login()
	mcpStatus(t, d.issuer, tok.AccessToken)
	after := d.metrics()
	if lines := strings.Count(after, "\n"); lines > 500 {
		t.Errorf("%d lines of metrics, want fewer than 500", lines)
	}
	for _, name := range append(ids, client.ClientID, "demo_user", tok.AccessToken, "demo_client") {
		if strings.Contains(after, name[:min(len(name), 16)]) {
			t.Errorf("the metrics name %.16s", name)
		}
	}
}

// metrics is the page of them.
func (d *daemon) metrics() string {
	d.t.Helper()
	resp, err := http.Get("http://" + d.setting("SIGNET_METRICS_LISTEN") + "/metrics")
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return string(b)
}

// Nothing piles up: after five rounds of all that clients do there are as many
// goroutines and descriptors as after the first.
func TestL17_NothingPilesUp(t *testing.T) {
	d := newDaemon(t, []string{"SIGNET_LIMITS=off", "SIGNET_LOG_LEVEL=info"}, "--demo").withMetrics()
	d.start()
	descriptors := func() int {
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.p.PID()))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	var signIns sync.Mutex // several at once would look like guessing
	round := func() {
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				w := newWorker(t, d, nil, i, 0)
				var err error
				if w.client, err = w.register(faultRedirect); err != nil {
					t.Error(err)
					return
				}
				signIns.Lock()
				w.tokensOf()
				signIns.Unlock()
				for range 5 {
					tok := w.tokensOf()
					for range 10 {
						tok, _ = refresh(t, d.issuer, w.client, tok.RefreshToken)
					}
					mcpStatus(t, d.issuer, tok.AccessToken)
					w.ask(w.formTo("/revoke", revokeForm(w.client, tok.RefreshToken)))
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
	eventually(t, func() bool { // until the connections of the first round are gone
		g, f := d.gauge("go_goroutines"), descriptors()
		settled := g == goroutines && f == files
		goroutines, files = g, f
		return settled
	})
	for range 4 {
		round()
	}
	eventually(t, func() bool { return d.gauge("go_goroutines") <= goroutines+3 && descriptors() <= files+3 })
}

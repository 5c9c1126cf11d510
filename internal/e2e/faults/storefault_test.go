package faults

import (
	"database/sql"
	"errors"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"signet/internal/e2e"
	"signet/internal/test/person"
)

// The test in this file makes every single statement of every endpoint fail, one after
// the other, on both stores.

// asked is a request that needs the store, and a check of its right answer.
type asked struct {
	r    *http.Request
	true func(a *person.Page) bool
}

// pageTo checks for a page with a form that is sent to the path.
func pageTo(path string) func(*person.Page) bool {
	return func(a *person.Page) bool {
		action, _ := a.Form()
		return a.StatusCode == 200 && strings.HasPrefix(action, path)
	}
}

func jsonWith(text string) func(*person.Page) bool {
	return func(a *person.Page) bool { return a.StatusCode == 200 && strings.Contains(a.Body, text) }
}

func redirectTo(prefix string) func(*person.Page) bool {
	return func(a *person.Page) bool {
		return a.StatusCode == 303 && a.To() != nil && strings.HasPrefix(a.To().String(), prefix) && !a.To().Query().Has("error")
	}
}

// ask sends a request without following redirects.
func (w *worker) ask(r *http.Request) *person.Page {
	w.t.Helper()
	r = r.Clone(r.Context()) // the request may be sent again
	r.Header.Del("Cookie")
	if r.GetBody != nil {
		r.Body, _ = r.GetBody()
	}
	page, err := w.person.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	return page
}

// open opens a page of the server.
func (w *worker) open(link string) *person.Page {
	w.t.Helper()
	page, err := w.person.Open(link)
	if err != nil {
		w.t.Fatal(err)
	}
	return page
}

// answerTo is the request that the form on the page sends.
func (w *worker) answerTo(page *person.Page, fields url.Values) *http.Request {
	w.t.Helper()
	r, err := w.person.Answer(page, fields)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *worker) formTo(path string, fields url.Values) *http.Request {
	w.t.Helper()
	r, err := w.person.Form(w.d.Issuer+path, fields)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *worker) authorize() *http.Request {
	r, _ := http.NewRequest("GET", w.client.AuthorizationURL("s"), nil)
	return r
}

// begin opens the first page of an authorization.
func (w *worker) begin() *person.Page {
	w.t.Helper()
	return w.open(w.client.AuthorizationURL("s"))
}

// beginConsent opens the consent page of an authorization.
func (w *worker) beginConsent() *person.Page {
	w.t.Helper()
	page, err := w.person.SignIn(w.begin())
	if err != nil {
		w.t.Fatal(err)
	}
	return page
}

// tokensOf returns the tokens of a new grant.
func (w *worker) tokensOf() e2e.Tokens {
	w.t.Helper()
	code, err := w.approve(w.client.AuthorizationURL("s"))
	if err != nil {
		w.t.Fatal(err)
	}
	return w.client.Exchange(w.t, code)
}

// stranger is the same client in a browser without a session.
func (w *worker) stranger() *worker {
	s := newWorker(w.t, w.d, nil, 0, 0)
	s.client, s.http.Transport = w.client, w.http.Transport
	return s
}

var grantField = regexp.MustCompile(`name="grant" value="([^"]*)"`)

// questions are the requests that need the store, each made anew for every attempt.
var questions = map[string]func(w *worker) (*worker, asked){
	"refresh": func(w *worker) (*worker, asked) {
		return w, asked{w.formTo("/token", w.client.RefreshForm(w.tokensOf().RefreshToken)), jsonWith(`"refresh_token"`)}
	},
	"code": func(w *worker) (*worker, asked) {
		code, err := w.approve(w.client.AuthorizationURL("s"))
		if err != nil {
			w.t.Fatal(err)
		}
		return w, asked{w.formTo("/token", w.client.CodeForm(code)), jsonWith(`"refresh_token"`)}
	},
	"reuse": func(w *worker) (*worker, asked) {
		code, err := w.approve(w.client.AuthorizationURL("s"))
		if err != nil {
			w.t.Fatal(err)
		}
		w.client.Exchange(w.t, code)
		return w, asked{w.formTo("/token", w.client.CodeForm(code)), func(a *person.Page) bool { return a.StatusCode == 400 && strings.Contains(a.Body, `"invalid_grant"`) }}
	},
	"revoke a handle": func(w *worker) (*worker, asked) {
		return w, asked{w.formTo("/revoke", w.client.TokenForm(w.tokensOf().RefreshToken)), func(a *person.Page) bool { return a.StatusCode == 200 }}
	},
	"revoke an access token": func(w *worker) (*worker, asked) {
		return w, asked{w.formTo("/revoke", w.client.TokenForm(w.tokensOf().AccessToken)), func(a *person.Page) bool { return a.StatusCode == 200 }}
	},
	"introspect a handle": func(w *worker) (*worker, asked) {
		return w, asked{w.formTo("/introspect", w.client.TokenForm(w.tokensOf().RefreshToken)), jsonWith(`"active":true`)}
	},
	"introspect an access token": func(w *worker) (*worker, asked) {
		return w, asked{w.formTo("/introspect", w.client.TokenForm(w.tokensOf().AccessToken)), jsonWith(`"active":true`)}
	},
	// On this machine a session does not replace the password, but it is looked up.
	"authorize": func(w *worker) (*worker, asked) { return w, asked{w.authorize(), redirectTo(w.d.Issuer + "/login")} },
	"authorize, nobody signed in": func(w *worker) (*worker, asked) {
		return w.stranger(), asked{w.authorize(), redirectTo(w.d.Issuer + "/login")}
	},
	"consent page": func(w *worker) (*worker, asked) {
		to := w.ask(w.answerTo(w.begin(), w.person.Credentials())).To()
		r, _ := http.NewRequest("GET", to.String(), nil)
		return w, asked{r, pageTo("/consent")}
	},
	"login": func(w *worker) (*worker, asked) {
		w.stranger().tokensOf() // resets the count of failed logins
		s := w.stranger()
		return s, asked{s.answerTo(s.begin(), s.person.Credentials()), redirectTo(w.d.Issuer + "/consent")}
	},
	"wrong password": func(w *worker) (*worker, asked) {
		s := w.stranger()
		return s, asked{s.answerTo(s.begin(), url.Values{"username": {"nobody" + strconv.Itoa(w.random.Int())}, "password": {"wrong"}}), func(a *person.Page) bool { return a.StatusCode == 401 || a.StatusCode == 200 }}
	},
	"approve": func(w *worker) (*worker, asked) {
		return w, asked{w.answerTo(w.beginConsent(), url.Values{"decision": {"approve"}}), redirectTo(e2e.RedirectURI + "?")}
	},
	"deny": func(w *worker) (*worker, asked) {
		return w, asked{w.answerTo(w.beginConsent(), url.Values{"decision": {"deny"}}), func(a *person.Page) bool {
			return a.StatusCode == 303 && a.To().Query().Get("error") == "access_denied"
		}}
	},
	"account page": func(w *worker) (*worker, asked) {
		w.tokensOf()
		r, _ := http.NewRequest("GET", w.d.Issuer+"/account", nil)
		return w, asked{r, func(a *person.Page) bool { return a.StatusCode == 200 && grantField.MatchString(a.Body) }}
	},
	"disconnect": func(w *worker) (*worker, asked) {
		w.tokensOf()
		r, _ := http.NewRequest("GET", w.d.Issuer+"/account", nil)
		page := w.ask(r)
		grant := grantField.FindStringSubmatch(page.Body)
		if grant == nil {
			w.t.Fatalf("no grant on the page: %s", page)
		}
		return w, asked{w.answerTo(page, url.Values{"action": {"disconnect"}, "grant": {grant[1]}}), redirectTo(w.d.Issuer + "/account")}
	},
	"logout": func(w *worker) (*worker, asked) {
		s := w.stranger()
		s.tokensOf()
		return s, asked{s.formTo("/logout", url.Values{}), func(a *person.Page) bool { return a.StatusCode == 200 }}
	},
	"probe of the store": func(w *worker) (*worker, asked) {
		r, _ := http.NewRequest("GET", w.d.Issuer+"/readyz?require=store", nil)
		return w, asked{r, func(a *person.Page) bool { return a.StatusCode == 200 }}
	},
}

// contents is everything in the store except for counters.
func contents(t *testing.T, db *sql.DB) string {
	t.Helper()
	var b strings.Builder
	for _, query := range []string{
		"SELECT id, gen, rotated_at, revoked_at, sub, scope, resource, expires_at FROM grants ORDER BY 1",
		"SELECT kind, id, expires_at FROM spent ORDER BY 1, 2",
		"SELECT period, kid FROM signing_keys ORDER BY 1",
	} {
		rows, err := db.Query(query)
		if err != nil {
			t.Fatal(err)
		}
		columns, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			values := make([]any, len(columns))
			for i := range values {
				values[i] = new(string)
			}
			if err := rows.Scan(values...); err != nil {
				t.Fatal(err)
			}
			for _, v := range values {
				b.WriteString(*v.(*string) + " ")
			}
			b.WriteString("\n")
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// Whichever statement fails, the answer is right or 503. A failed request has changed
// nothing and works when it is repeated, and no transaction stays open.
func TestEveryStatementMayFail_INV11_INV12(t *testing.T) { e2e.OnBothStores(t, everyStatementFails) }

func everyStatementFails(t *testing.T, settings []string) {
	d := e2e.Breakable(t, append(settings, "SIGNET_LIMITS=off", "SIGNET_LOG_LEVEL=info")...).WithMetrics()
	d.Start()
	db := d.Database()
	w := newWorker(t, d, nil, 0, 0)
	var err error
	if w.client, err = w.register(e2e.RedirectURI); err != nil {
		t.Fatal(err)
	}
	w.tokensOf()
	before := d.Gauge("go_goroutines")
	faults := 0
	for _, name := range slices.Sorted(maps.Keys(questions)) { // the wrong passwords last
		for n := 1; ; n++ {
			who, q := questions[name](w)
			was := contents(t, db)
			d.Arm("statement", "error", n)
			a := who.ask(q.r)
			if d.Armed() { // nothing is left to fail
				if err := os.Remove(d.Setting(e2e.FailpointVariable)); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
				if !q.true(a) {
					t.Errorf("%s without a fault: %s", name, a)
				}
				break
			}
			faults++
			if q.true(a) {
				continue
			}
			if toldToWait := a.StatusCode == 503 && a.Header.Get("Retry-After") != "" || name == "probe of the store" && a.StatusCode == 503; !toldToWait {
				t.Errorf("%s, statement %d fails: %s", name, n, a)
			}
			if now := contents(t, db); now != was {
				t.Errorf("%s, statement %d fails: the store changed from\n%s\nto\n%s", name, n, was, now)
			}
			if a := who.ask(q.r); !q.true(a) {
				t.Errorf("%s, repeated after statement %d failed: %s", name, n, a)
			}
			if n > 50 {
				t.Fatalf("%s does not end", name)
			}
		}
	}
	if faults < 40 {
		t.Errorf("only %d statements failed: the test shows nothing", faults)
	}
	t.Logf("%d statements failed", faults)
	w.http.CloseIdleConnections()
	http.DefaultClient.CloseIdleConnections()
	e2e.Eventually(t, func() bool { return d.Gauge("go_goroutines") <= before+3 })
	d.Stop()
	if left, _ := os.Stat(filepath.Join(d.Dir, "signet.db-wal")); left != nil && left.Size() > 0 {
		t.Errorf("a transaction was left open: the log of %d bytes could not be emptied", left.Size())
	}
}

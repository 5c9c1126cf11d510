package e2e

import (
	"database/sql"
	"errors"
	"fmt"
	"html"
	"io"
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
)

// The test in this file lets every single statement of every endpoint fail, one after
// the other, on both stores.

// asked is a request that needs the store, and what its true answer looks like.
type asked struct {
	r    *http.Request
	true func(a shown) bool
}

// shown is an answer as a client sees it.
type shown struct {
	status   int
	body     string
	location *url.URL // nil without one
	retry    string
}

func (a shown) String() string {
	return fmt.Sprintf("%d %.300s, Location %v, Retry-After %q", a.status, a.body, a.location, a.retry)
}

// pageTo wants a page with a form that goes to the path.
func pageTo(path string) func(shown) bool {
	return func(a shown) bool {
		m := formAction.FindStringSubmatch(a.body)
		return a.status == 200 && m != nil && strings.HasPrefix(m[1], path)
	}
}

func jsonWith(text string) func(shown) bool {
	return func(a shown) bool { return a.status == 200 && strings.Contains(a.body, text) }
}

func redirectTo(prefix string) func(shown) bool {
	return func(a shown) bool {
		return a.status == 303 && a.location != nil && strings.HasPrefix(a.location.String(), prefix) && !a.location.Query().Has("error")
	}
}

// ask sends a request without following where it leads.
func (w *worker) ask(r *http.Request) (a shown) {
	w.t.Helper()
	if r.GetBody != nil {
		r.Body, _ = r.GetBody()
	}
	c := *w.http
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := c.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	a = shown{status: resp.StatusCode, body: string(b), retry: resp.Header.Get("Retry-After")}
	a.location, _ = resp.Location()
	return a
}

// follow asks for a page and goes on until one has a form.
func (w *worker) follow(r *http.Request) shown {
	w.t.Helper()
	a := w.ask(r)
	for a.location != nil {
		r, _ = http.NewRequest("GET", a.location.String(), nil)
		a = w.ask(r)
	}
	return a
}

// answerTo is the request that the page's form makes.
func (w *worker) answerTo(a shown, fields url.Values) *http.Request {
	w.t.Helper()
	action := formAction.FindStringSubmatch(a.body)
	if action == nil {
		w.t.Fatalf("no form: %s", a)
	}
	for _, f := range hidden.FindAllStringSubmatch(a.body, -1) {
		if !fields.Has(f[1]) {
			fields.Set(html.UnescapeString(f[1]), html.UnescapeString(f[2]))
		}
	}
	return w.formTo(html.UnescapeString(action[1]), fields)
}

func (w *worker) formTo(path string, fields url.Values) *http.Request {
	r, _ := http.NewRequest("POST", w.d.issuer+path, strings.NewReader(fields.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", w.d.issuer)
	return r
}

func (w *worker) authorize() *http.Request {
	r, _ := http.NewRequest("GET", authorizationURL(w.d.issuer, w.client, faultRedirect, "s"), nil)
	return r
}

const faultRedirect = "http://127.0.0.1:9/callback"

var credentials = url.Values{"username": {"demo_user"}, "password": {"demo_password"}}

func clone(v url.Values) url.Values {
	c := url.Values{}
	for k, list := range v {
		c[k] = list
	}
	return c
}

// tokensOf is a new grant.
func (w *worker) tokensOf() tokens {
	w.t.Helper()
	code, err := w.approve(w.authorize().URL.String())
	if err != nil {
		w.t.Fatal(err)
	}
	return exchange(w.t, w.d.issuer, w.client, code)
}

// stranger is the same client in a browser without a session.
func (w *worker) stranger() *worker {
	s := newWorker(w.t, w.d, nil, 0, 0)
	s.client, s.http.Transport = w.client, w.http.Transport
	return s
}

var grantField = regexp.MustCompile(`name="grant" value="([^"]*)"`)

// questions are all that need the store, each made anew for every try.
var questions = map[string]func(w *worker) (*worker, asked){
	"refresh": func(w *worker) (*worker, asked) {
		return w, asked{w.formTo("/token", refreshForm(w.client, w.tokensOf().RefreshToken)), jsonWith(`"refresh_token"`)}
	},
	"code": func(w *worker) (*worker, asked) {
		code, err := w.approve(w.authorize().URL.String())
		if err != nil {
			w.t.Fatal(err)
		}
		return w, asked{w.formTo("/token", codeForm(w.client, code)), jsonWith(`"refresh_token"`)}
	},
	"reuse": func(w *worker) (*worker, asked) {
		code, err := w.approve(w.authorize().URL.String())
		if err != nil {
			w.t.Fatal(err)
		}
		exchange(w.t, w.d.issuer, w.client, code)
		return w, asked{w.formTo("/token", codeForm(w.client, code)), func(a shown) bool { return a.status == 400 && strings.Contains(a.body, `"invalid_grant"`) }}
	},
	"revoke a handle": func(w *worker) (*worker, asked) {
		return w, asked{w.formTo("/revoke", revokeForm(w.client, w.tokensOf().RefreshToken)), func(a shown) bool { return a.status == 200 }}
	},
	"revoke an access token": func(w *worker) (*worker, asked) {
		return w, asked{w.formTo("/revoke", revokeForm(w.client, w.tokensOf().AccessToken)), func(a shown) bool { return a.status == 200 }}
	},
	"introspect a handle": func(w *worker) (*worker, asked) {
		return w, asked{w.formTo("/introspect", revokeForm(w.client, w.tokensOf().RefreshToken)), jsonWith(`"active":true`)}
	},
	"introspect an access token": func(w *worker) (*worker, asked) {
		return w, asked{w.formTo("/introspect", revokeForm(w.client, w.tokensOf().AccessToken)), jsonWith(`"active":true`)}
	},
	"authorize": func(w *worker) (*worker, asked) { return w, asked{w.authorize(), redirectTo(w.d.issuer + "/consent")} },
	"authorize, nobody signed in": func(w *worker) (*worker, asked) {
		return w.stranger(), asked{w.authorize(), redirectTo(w.d.issuer + "/login")}
	},
	"consent page": func(w *worker) (*worker, asked) {
		to := w.ask(w.authorize()).location
		r, _ := http.NewRequest("GET", to.String(), nil)
		return w, asked{r, pageTo("/consent")}
	},
	"login": func(w *worker) (*worker, asked) {
		w.stranger().tokensOf() // begins the count of failed logins anew
		s := w.stranger()
		return s, asked{s.answerTo(s.follow(s.authorize()), clone(credentials)), redirectTo(w.d.issuer + "/consent")}
	},
	"wrong password": func(w *worker) (*worker, asked) {
		s := w.stranger()
		return s, asked{s.answerTo(s.follow(s.authorize()), url.Values{"username": {"nobody" + strconv.Itoa(w.random.Int())}, "password": {"wrong"}}), func(a shown) bool { return a.status == 401 || a.status == 200 }}
	},
	"approve": func(w *worker) (*worker, asked) {
		return w, asked{w.answerTo(w.follow(w.authorize()), url.Values{"decision": {"approve"}}), redirectTo(faultRedirect + "?")}
	},
	"deny": func(w *worker) (*worker, asked) {
		return w, asked{w.answerTo(w.follow(w.authorize()), url.Values{"decision": {"deny"}}), func(a shown) bool {
			return a.status == 303 && a.location.Query().Get("error") == "access_denied"
		}}
	},
	"account page": func(w *worker) (*worker, asked) {
		w.tokensOf()
		r, _ := http.NewRequest("GET", w.d.issuer+"/account", nil)
		return w, asked{r, func(a shown) bool { return a.status == 200 && grantField.MatchString(a.body) }}
	},
	"disconnect": func(w *worker) (*worker, asked) {
		w.tokensOf()
		r, _ := http.NewRequest("GET", w.d.issuer+"/account", nil)
		page := w.ask(r)
		grant := grantField.FindStringSubmatch(page.body)
		if grant == nil {
			w.t.Fatalf("no grant on the page: %s", page)
		}
		return w, asked{w.answerTo(page, url.Values{"action": {"disconnect"}, "grant": {grant[1]}}), redirectTo(w.d.issuer + "/account")}
	},
	"logout": func(w *worker) (*worker, asked) {
		s := w.stranger()
		s.tokensOf()
		return s, asked{s.formTo("/logout", url.Values{}), func(a shown) bool { return a.status == 200 }}
	},
	"probe of the store": func(w *worker) (*worker, asked) {
		r, _ := http.NewRequest("GET", w.d.issuer+"/readyz?require=store", nil)
		return w, asked{r, func(a shown) bool { return a.status == 200 }}
	},
}

// contents is all that the store remembers, but for what is only counted.
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

// gauge reads one number of the metrics.
func (d *daemon) gauge(name string) float64 {
	d.t.Helper()
	m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(d.metrics())
	if m == nil {
		d.t.Fatalf("no %s in the metrics", name)
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		d.t.Fatal(err)
	}
	return v
}

// withMetrics adds a listener for metrics.
func (d *daemon) withMetrics() *daemon {
	for i, kv := range d.env {
		if strings.HasPrefix(kv, "SIGNET_METRICS_LISTEN=") {
			d.env[i] = "SIGNET_METRICS_LISTEN=127.0.0.1:" + freePort(d.t)
		}
	}
	return d
}

// Whichever statement fails, the answer is the true one or says to come again; what
// failed has changed nothing and works when it is repeated; nothing is left open.
func TestINV11_INV12_EveryStatementFails(t *testing.T) { onBothStores(t, everyStatementFails) }

func everyStatementFails(t *testing.T, settings []string) {
	d := breakable(t, append(settings, "SIGNET_LIMITS=off", "SIGNET_LOG_LEVEL=info")...).withMetrics()
	d.start()
	db := d.database()
	w := newWorker(t, d, nil, 0, 0)
	var err error
	if w.client, err = w.register(faultRedirect); err != nil {
		t.Fatal(err)
	}
	w.tokensOf()
	before := d.gauge("go_goroutines")
	faults := 0
	for _, name := range slices.Sorted(maps.Keys(questions)) { // the wrong passwords last
		for n := 1; ; n++ {
			who, q := questions[name](w)
			was := contents(t, db)
			d.arm("statement", "error", n)
			a := who.ask(q.r)
			if d.isArmed() { // nothing is left to fail
				if err := os.Remove(d.setting(failpointVariable)); err != nil && !errors.Is(err, fs.ErrNotExist) {
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
			if toldToWait := a.status == 503 && a.retry != "" || name == "probe of the store" && a.status == 503; !toldToWait {
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
	eventually(t, func() bool { return d.gauge("go_goroutines") <= before+3 })
	d.stop()
	if left, _ := os.Stat(filepath.Join(d.dir, "signet.db-wal")); left != nil && left.Size() > 0 {
		t.Errorf("a transaction was left open: the log of %d bytes could not be emptied", left.Size())
	}
}

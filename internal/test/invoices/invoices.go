// Package invoices is a small invoice API for tests and the example: an API as companies have
// it, that knows nothing of OAuth. Users log in with a password and get a token that expires and
// another one to refresh it. Each user sees the invoices of some companies, of which every
// request names one.
package invoices

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/internal/test/freeport"
)

// User is an account.
type User struct {
	Email     string // whose part before the @ is the user name
	Password  string
	Companies []string // public ids, the first one of which is the user's own
}

// Options say what an API is like. The zero value of each field stands for the default that its
// comment names.
type Options struct {
	Address string                            // to listen on; default: a free port of 127.0.0.1
	Users   []User                            // default: ann@example.com and bob@example.com
	Owner   func(token string) (email string) // accepts tokens of a provider beside the API's own; default: none
}

// Switches change what an API does from now on.
type Switches struct {
	AccessLife  time.Duration   // of access tokens; default: 5 min
	Rotate      bool            // a refresh gives a new refresh token, and the use of an old one ends its family
	Status      int             // of every answer but those of logins and refreshes
	Unavailable bool            // every endpoint answers 503 with a page
	Hold        <-chan struct{} // requests are answered when it is closed
}

// Invoice is an invoice of a company.
type Invoice struct {
	ID       string  `json:"publicId"`
	Number   string  `json:"invoiceNumber"`
	Customer string  `json:"customer"`
	Amount   float64 `json:"amount"`
	Status   string  `json:"status"` // draft or sent
}

// API is a running API.
type API struct {
	*freeport.Server
	o   Options
	key []byte

	mu       sync.Mutex
	s        Switches
	log      bytes.Buffer
	counts   map[string]int
	access   map[string]*family
	refresh  map[string]*family
	invoices map[string][]Invoice // by company
	made     int
}

// family are the tokens that follow from one login.
type family struct {
	email   string
	current string // refresh token
	ended   bool
}

// New starts an API, which ends with the test.
func New(t testing.TB, o Options) *API {
	t.Helper()
	a, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Down)
	return a
}

// Start starts an API. Down ends it.
func Start(o Options) (*API, error) {
	if o.Users == nil {
		o.Users = []User{{"ann@example.com", "ann-password", []string{"ann-gmbh", "shared-ag"}}, {"bob@example.com", "bob-password", []string{"bob-gmbh", "shared-ag"}}}
	}
	a := &API{o: o, key: []byte(rand.Text()), counts: map[string]int{}, access: map[string]*family{}, refresh: map[string]*family{}, invoices: map[string][]Invoice{}}
	var err error
	if a.Server, err = freeport.NewServer(o.Address, a); err != nil {
		return nil, err
	}
	return a, a.Up()
}

// URL returns the base URL, with a slash at its end.
func (a *API) URL() string { return a.Server.URL() + "/" }

// Switch changes the switches.
func (a *API) Switch(change func(s *Switches)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(&a.s)
}

// Count returns how often something has happened: "login" (accepted), "refused" (logins),
// "refresh", "refresh ann@example.com", "reuse" (of a rotated refresh token), "request" (for
// companies and invoices).
func (a *API) Count(what string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.counts[what]
}

// Log returns everything that the API has received: request lines, Authorization headers and
// bodies.
func (a *API) Log() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.log.String()
}

// Invalidate ends the access tokens of a user before their time.
func (a *API) Invalidate(email string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for token, f := range a.access {
		if f.email == email {
			delete(a.access, token)
		}
	}
}

// EndLogins ends everything that followed from a user's logins.
func (a *API) EndLogins(email string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, families := range []map[string]*family{a.access, a.refresh} {
		for _, f := range families {
			if f.email == email {
				f.ended = true
			}
		}
	}
}

// Configuration returns the API's entry for a file of upstreams. More are further members, a line
// each.
func (a *API) Configuration(id string, more ...string) string {
	text := fmt.Sprintf(`  - id: %s
    name: Invoices
    type: password
    base_url: %s
    username_field: email
    sample_path: api/v1/companies/
    login:
      path: api/v1/auth/token/
      body: {username: "{local_part}", email: "{username}", password: "{password}"}
      access_token: access
      refresh_token: refresh
    refresh: {path: api/v1/auth/token/refresh/, body: {refresh: "{refresh_token}"}, access_token: access, refresh_token: refresh}
`, id, a.URL())
	for _, line := range more {
		text += "    " + line + "\n"
	}
	return text
}

// ServeHTTP serves the API's endpoints.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return
	}
	a.mu.Lock()
	fmt.Fprintf(&a.log, "%s %s\nAuthorization: %s\n%s\n\n", r.Method, r.URL, r.Header.Get("Authorization"), body)
	s := a.s
	a.mu.Unlock()
	if s.Hold != nil {
		select {
		case <-s.Hold:
		case <-r.Context().Done():
			return
		}
	}
	if s.Unavailable {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(w, "<h1>Service Unavailable</h1>")
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/api/v1/")
	switch {
	case !ok:
		http.NotFound(w, r)
	case path == "auth/token/" && r.Method == http.MethodPost:
		a.login(w, body)
	case path == "auth/token/refresh/" && r.Method == http.MethodPost:
		a.renew(w, body)
	default:
		a.serve(w, r, path, body)
	}
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

func refuse(w http.ResponseWriter, status int, detail string) {
	answer(w, status, map[string]string{"detail": detail})
}

// read reads a body that has the members of v and no other.
func read(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one value")
	}
	return nil
}

func (a *API) login(w http.ResponseWriter, body []byte) {
	var typed struct{ Username, Email, Password string }
	if read(body, &typed) != nil {
		refuse(w, http.StatusBadRequest, "username, email and password are needed")
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.IndexFunc(a.o.Users, func(u User) bool { return u.Email == typed.Email })
	name, _, _ := strings.Cut(typed.Email, "@")
	if i < 0 || typed.Username != name || typed.Password != a.o.Users[i].Password {
		a.counts["refused"]++
		refuse(w, http.StatusUnauthorized, "No active account found with the given credentials")
		return
	}
	a.counts["login"]++
	f := &family{email: typed.Email, current: "refresh-" + name + "-" + rand.Text()}
	a.refresh[f.current] = f
	answer(w, http.StatusOK, map[string]string{"access": a.issue(f), "refresh": f.current})
}

func (a *API) renew(w http.ResponseWriter, body []byte) {
	var sent struct{ Refresh string }
	if read(body, &sent) != nil {
		refuse(w, http.StatusBadRequest, "refresh is needed")
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.refresh[sent.Refresh]
	if f != nil && f.current != sent.Refresh {
		f.ended = true
		a.counts["reuse"]++
	}
	if f == nil || f.ended {
		refuse(w, http.StatusUnauthorized, "Token is invalid or expired")
		return
	}
	a.counts["refresh"]++
	a.counts["refresh "+f.email]++
	tokens := map[string]string{"access": a.issue(f)}
	if a.s.Rotate {
		f.current = "refresh-" + rand.Text()
		a.refresh[f.current] = f
		tokens["refresh"] = f.current
	}
	answer(w, http.StatusOK, tokens)
}

// claims are those of an access token, which is a JWT.
type claims struct {
	Subject string `json:"sub"`
	Expires int64  `json:"exp"`
	ID      string `json:"jti"`
}

// issue makes an access token.
func (a *API) issue(f *family) string {
	life := a.s.AccessLife
	if life == 0 {
		life = 5 * time.Minute
	}
	payload, err := json.Marshal(claims{f.email, time.Now().Add(life).Unix(), rand.Text()})
	if err != nil {
		return ""
	}
	token := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(payload)
	h := hmac.New(sha256.New, a.key)
	io.WriteString(h, token)
	token += "." + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
	a.access[token] = f
	return token
}

// Owner returns the e-mail address of the user whose live access token this is, or "".
func (a *API) Owner(token string) string {
	a.mu.Lock()
	f := a.access[token]
	a.mu.Unlock()
	if f == nil {
		if a.o.Owner == nil || token == "" {
			return ""
		}
		return a.o.Owner(token)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	var c claims
	if err != nil || json.Unmarshal(payload, &c) != nil || f.ended || time.Now().Unix() >= c.Expires {
		return ""
	}
	return f.email
}

package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"signet/internal/e2e"
	"signet/internal/test/journal"
	"signet/internal/test/person"
	"signet/internal/test/process"
)

// A kill at any moment loses nothing acknowledged and revives nothing: a client that
// repeats a refresh without an answer is never logged out.
func TestKillWhileRefreshingLogsNoClientOut_INV6_INV7(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	const workers, cycles = 4, 15
	type family struct {
		client *e2e.Client
		handle string
		old    []string
	}
	families := make([]*family, workers)
	for i := range families {
		client, tok := d.Login()
		families[i] = &family{client: client, handle: tok.RefreshToken}
	}
	idle := func() bool { return slices.ContainsFunc(families, func(f *family) bool { return len(f.old) < cycles }) }
	enough := time.Now().Add(time.Minute)
	for cycle := 0; cycle < cycles || idle() && !t.Failed() && time.Now().Before(enough); cycle++ { // more cycles if each gets little done
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for _, f := range families {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					resp, err := http.PostForm(d.Issuer+"/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {f.handle}, "client_id": {f.client.ID}})
					if err != nil {
						return // the process is gone; whether it spent the handle is unknown
					}
					var tok e2e.Tokens
					err = json.NewDecoder(resp.Body).Decode(&tok)
					resp.Body.Close()
					if err != nil {
						return
					}
					if resp.StatusCode != 200 {
						t.Errorf("cycle %d: a compliant client got %d %+v", cycle, resp.StatusCode, tok)
						return
					}
					f.old, f.handle = append(f.old, f.handle), tok.RefreshToken
				}
			})
		}
		time.Sleep(time.Duration(20+cycle*5) * time.Millisecond)
		d.Kill()
		close(stop)
		wg.Wait()
		d.Start()
	}
	for i, f := range families {
		if len(f.old) < cycles {
			t.Errorf("family %d rotated %d times in %d cycles: the test is idle", i, len(f.old), cycles)
		}
		tok, status := f.client.Refresh(t, f.handle)
		if status != 200 {
			t.Errorf("family %d: the last handle got %d %+v", i, status, tok)
		}
		// A handle older than the direct predecessor ends the family.
		if got, status := f.client.Refresh(t, f.old[len(f.old)-2]); status != 400 || got.Error != "invalid_grant" {
			t.Errorf("family %d: an old handle got %d %+v", i, status, got)
		}
		if got, status := f.client.Refresh(t, tok.RefreshToken); status != 400 || got.Error != "invalid_grant" {
			t.Errorf("family %d: alive after reuse: %d %+v", i, status, got)
		}
	}
}

// The tests in this file kill the server again and again while clients use it, at
// random times and at random points around commit and signature. The clients keep a
// journal, which is checked after every restart.

// kills is how often the server is killed: SIGNET_TEST_KILLS, or n.
func kills(t testing.TB, n int) int {
	t.Helper()
	text := os.Getenv("SIGNET_TEST_KILLS")
	if text == "" {
		return n
	}
	given, err := strconv.Atoi(text)
	if err != nil || given < 1 {
		t.Fatalf("SIGNET_TEST_KILLS is %q, not a number of kills", text)
	}
	return given * n / manyKills
}

const manyKills = 200

func TestPromisesHoldWhenKilledUnderLoad_INV1_INV14(t *testing.T) {
	t.Run("SQLite", func(t *testing.T) { killUnderLoad(t, kills(t, manyKills), nil) })
	t.Run("PostgreSQL", func(t *testing.T) { killUnderLoad(t, kills(t, manyKills/5), e2e.SharedStore(t)) })
}

// The test condemns a server that takes a repeated refresh for a stolen handle.
func TestKillsCondemnAStrictServer_INV6(t *testing.T) {
	r := runKills(t, 60, []string{"SIGNET_REPLAY_WINDOW=0"})
	if broken := strings.Join(r.checker.Broken(), "\n"); !strings.Contains(broken, "INV6") {
		t.Errorf("seed %d, after %d kills: found %q, want INV6", r.seed, r.kills, broken)
	}
}

func killUnderLoad(t *testing.T, cycles int, settings []string) {
	r := runKills(t, cycles, settings)
	if broken := r.checker.Broken(); len(broken) > 0 || t.Failed() {
		t.Fatalf("seed %d, after %d kills:\n%s\n%s", r.seed, r.kills, strings.Join(broken, "\n"), r.d.Output())
	}
	settle(t, r.d, r.workers)
	if err := r.checker.Follow(r.path); err != nil {
		t.Fatal(err)
	}
	if broken := r.checker.Broken(); len(broken) > 0 {
		t.Errorf("seed %d, at the end:\n%s", r.seed, strings.Join(broken, "\n"))
	}
	n := r.checker.Counts()
	t.Logf("seed %d: %d kills, %d requests, %d acknowledged, %d without an answer, %d answered 503; %d grants, %d refreshes, %d revocations: nothing broken",
		r.seed, r.kills, n.Requests, n.Acknowledged, n.Lost, n.Unavailable, n.Families, n.Refreshes, n.Revocations)
	if n.Refreshes < cycles/4 || n.Revocations < cycles/50 || n.Lost < cycles/2 {
		t.Error("there was hardly any load, so the test shows nothing")
	}
}

func seed(t testing.TB) uint64 {
	t.Helper()
	text := os.Getenv("SIGNET_TEST_SEED")
	if text == "" {
		return uint64(time.Now().UnixNano())
	}
	given, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("SIGNET_TEST_SEED: %v", err)
	}
	return given
}

// killRun is a run of kills: the server, the number of kills, and the journal.
type killRun struct {
	d       *e2e.Program
	workers []*worker
	checker *journal.Checker
	path    string // path of the journal
	seed    uint64
	kills   int
}

// runKills kills a server with a fresh store until an invariant is broken, or cycles
// times.
func runKills(t *testing.T, cycles int, settings []string) *killRun {
	t.Helper()
	r := &killRun{path: filepath.Join(t.TempDir(), "journal"), seed: seed(t), checker: journal.NewChecker(journal.Rules{Window: time.Minute}), workers: make([]*worker, 6)}
	random := rand.New(rand.NewPCG(r.seed, 0))
	// Codes must not expire: an expired code is refused while its grant lives on, and
	// the checker would take that for a grant that was revived.
	r.d = e2e.Breakable(t, append(settings, "SIGNET_LIMITS=off", "SIGNET_LOG_LEVEL=info", "SIGNET_CODE_TTL=10m")...)
	j, err := journal.Create(r.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	for i := range r.workers {
		r.workers[i] = newWorker(t, r.d, j, i, r.seed)
	}
	for r.kills < cycles && len(r.checker.Broken()) == 0 && !t.Failed() {
		r.d.Start()
		work(r.workers, func(steps *atomic.Int64) { nemesis(r.d, random, steps) })
		r.kills++
		if err := r.checker.Follow(r.path); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// nemesis kills the server after a random number of the clients' steps, or at a
// failpoint.
func nemesis(d *e2e.Program, random *rand.Rand, steps *atomic.Int64) {
	at := []string{"", "", "begin", "commit", "committed", "signed", "half"}[random.IntN(7)]
	after := int64(1 + random.IntN(100))
	if at != "" {
		d.Arm(at, "exit", 1+random.IntN(25))
		after = 400 // if no request passes the point
	}
	for end := time.After(20 * time.Second); steps.Load() < after; {
		select {
		case <-d.Ended():
			after = 0
		case <-end: // clients that have given up take no steps
			after = 0
		case <-time.After(time.Duration(random.IntN(2000)) * time.Microsecond): // in the middle of a step
		}
	}
	d.Kill()
	_ = os.Remove(d.Setting(e2e.FailpointVariable))
}

// work runs the workers until end returns. end gets the number of steps taken.
func work(workers []*worker, end func(steps *atomic.Int64)) {
	var all sync.WaitGroup
	var steps atomic.Int64
	var ended atomic.Bool
	for _, w := range workers {
		all.Go(func() {
			for err := error(nil); err == nil && !ended.Load(); {
				err = w.step()
				steps.Add(1)
			}
		})
	}
	end(&steps)
	ended.Store(true)
	all.Wait()
	for _, w := range workers {
		w.http.CloseIdleConnections()
	}
}

// settle completes the unfinished step of every client. Then, without a replay window,
// it presents all handles of many grants, newest first: exactly one is accepted, and
// after the refusal of the others that one is refused too.
func settle(t *testing.T, d *e2e.Program, workers []*worker) {
	t.Helper()
	d.Start()
	for _, w := range workers {
		for _, g := range w.grants {
			if g.dead {
				continue
			}
			if err := w.refresh(g, g.handle()); err != nil {
				t.Errorf("a grant without faults: %v", err)
			}
		}
	}
	d.Stop()
	env := slices.Clone(d.Env)
	d.Env = append(d.Env, "SIGNET_REPLAY_WINDOW=0")
	d.Start()
	grants := 0
	for _, w := range workers {
		for _, g := range w.grants[max(0, len(w.grants)-15):] {
			grants++
			accepted := 0
			for i := range g.handles {
				tok, status := w.client.Refresh(t, g.handles[len(g.handles)-1-i])
				if status == 200 {
					g.handles = append(g.handles, tok.RefreshToken)
					accepted++
				}
			}
			if last := g.handles[len(g.handles)-1]; accepted > 1 || !g.dead && accepted != 1 {
				t.Errorf("INV3: %d of %d handles of a grant were accepted (dead: %t)", accepted, len(g.handles), g.dead)
			} else if tok, status := w.client.Refresh(t, last); len(g.handles) > 2 && status == 200 {
				t.Errorf("INV3: alive after reuse: %+v", tok)
			}
		}
	}
	if grants == 0 {
		t.Error("no grant was left to present handles of")
	}
	d.Stop()
	d.Env = env
}

// held is a grant as its client has it.
type held struct {
	name    string
	code    string
	handles []string
	access  string
	dead    bool // revoked, refused, or of unknown state: no longer used
	ending  bool // a revocation was sent
}

func (g *held) handle() string { return g.handles[len(g.handles)-1] }

// worker is a client that follows the protocol, and now and then a thief.
type worker struct {
	t      *testing.T
	d      *e2e.Program
	j      *journal.Journal
	id     int
	random *rand.Rand
	http   *http.Client
	person *person.Person
	client *e2e.Client
	grants []*held
	made   int

	refreshed, turnedAway atomic.Int64 // answers of those kinds
}

func newWorker(t *testing.T, d *e2e.Program, j *journal.Journal, id int, seed uint64) *worker {
	w := &worker{t: t, d: d, j: j, id: id, random: rand.New(rand.NewPCG(seed, uint64(id)+1))}
	w.http = &http.Client{Transport: &http.Transport{}, Timeout: process.Patience}
	w.person = person.Over(w, "demo_user", "demo_password")
	return w
}

// RoundTrip sends one request of the user's browser.
func (w *worker) RoundTrip(r *http.Request) (*http.Response, error) {
	c := *w.http
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c.Do(r)
}

var (
	errLost        = errors.New("no answer") // the server was killed
	errUnavailable = errors.New("no login at the moment")
)

// step does one random action. An error ends the worker's turn until the next start of
// the server.
func (w *worker) step() error {
	if len(w.grants) == 0 || w.random.IntN(20) == 0 {
		return w.signIn()
	}
	g := w.grants[max(0, len(w.grants)-1-w.random.IntN(8))]
	if g.dead || g.ending {
		return w.probe(g)
	}
	switch n := w.random.IntN(100); {
	case n < 4:
		return w.revoke(g)
	case n < 7 && len(g.handles) > 2: // a thief
		defer func() { g.dead = true }()
		return w.refresh(g, g.handles[len(g.handles)-3])
	case n < 9: // another one, with the code
		defer func() { g.dead = true }()
		return w.redeem(g)
	case n < 15: // a request that is wrong
		_, err := w.send(journal.Request{Op: journal.Refresh, Family: g.name, Artefact: g.handle(), Flawed: true}, "/token",
			url.Values{"grant_type": {"refresh_token"}, "refresh_token": {g.handle()}, "client_id": {w.client.ID}, "scope": {"read admin"}})
		return err
	case n < 20:
		return w.call(g)
	case n < 25 && len(g.handles) > 1: // repeats a refresh: a lost answer, or a second tab
		return w.refresh(g, g.handles[len(g.handles)-2])
	}
	return w.refresh(g, g.handle())
}

// probe checks that an ended grant stays ended.
func (w *worker) probe(g *held) error {
	if g.ending && !g.dead {
		return w.revoke(g)
	}
	switch w.random.IntN(4) {
	case 0:
		return w.call(g)
	case 1:
		_, err := w.send(journal.Request{Op: journal.Introspect, Family: g.name, Artefact: g.handle()}, "/introspect", w.client.TokenForm(g.handle()))
		return err
	case 2:
		return w.redeem(g)
	}
	return w.refresh(g, g.handles[w.random.IntN(len(g.handles))])
}

func (w *worker) signIn() error {
	if w.client == nil {
		out, err := w.register(e2e.RedirectURI)
		if err != nil {
			return err
		}
		w.client = out
	}
	code, err := w.approve(w.client.AuthorizationURL("s"))
	if errors.Is(err, errUnavailable) {
		return nil // next time
	}
	if err != nil {
		return err
	}
	w.made++
	g := &held{name: fmt.Sprintf("%d.%d", w.id, w.made), code: code}
	err = w.redeem(g)
	if len(g.handles) > 0 {
		w.grants = append(w.grants, g)
	}
	return err
}

func (w *worker) register(redirectURI string) (*e2e.Client, error) {
	c := &e2e.Client{Issuer: w.d.Issuer, RedirectURI: redirectURI}
	body := `{"client_name":"Worker","redirect_uris":["` + redirectURI + `"],"token_endpoint_auth_method":"none","grant_types":["authorization_code","refresh_token"]}`
	resp, err := w.http.Post(w.d.Issuer+"/register", "application/json", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	return c, decodeAll(resp, c)
}

// approve goes through the pages that the session still needs.
func (w *worker) approve(authorize string) (code string, err error) {
	page, err := w.person.Authorize(authorize)
	switch {
	case err != nil:
		return "", err
	case page.StatusCode == http.StatusServiceUnavailable:
		return "", errUnavailable
	case page.Left() == nil:
		return "", fmt.Errorf("the login ends at %s", page)
	}
	return page.Left().Query().Get("code"), nil
}

func (w *worker) redeem(g *held) error {
	r := journal.Request{Op: journal.Code, Family: g.name, Artefact: g.code, Consent: &journal.Consent{
		Issuer: w.d.Issuer, Audience: w.d.Issuer + "/mcp", Subject: "demo_user", ClientID: w.client.ID, Scope: []string{"read", "write"},
	}}
	a, err := w.send(r, "/token", w.client.CodeForm(g.code))
	return g.took(a, err)
}

func (w *worker) refresh(g *held, handle string) error {
	a, err := w.send(journal.Request{Op: journal.Refresh, Family: g.name, Artefact: handle}, "/token", w.client.RefreshForm(handle))
	return g.took(a, err)
}

// took records the tokens of an answer.
func (g *held) took(a journal.Answer, err error) error {
	if a.Status == 200 {
		g.handles, g.access = append(g.handles, a.Handle), a.Access
	}
	if a.Status == 400 {
		g.dead = true
	}
	return err
}

func (w *worker) revoke(g *held) error {
	g.ending = true
	a, err := w.send(journal.Request{Op: journal.Revoke, Family: g.name, Artefact: g.handle()}, "/revoke", w.client.TokenForm(g.handle()))
	if a.Status == 200 {
		g.dead = true
	}
	return err
}

func (w *worker) call(g *held) error {
	r := e2e.CallRequest(w.d.Issuer+"/mcp", g.access)
	_, err := w.exchange(journal.Request{Op: journal.Call, Family: g.name, Artefact: g.access}, r)
	return err
}

func (w *worker) send(note journal.Request, path string, form url.Values) (journal.Answer, error) {
	r, _ := http.NewRequest("POST", w.d.Issuer+path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return w.exchange(note, r)
}

// exchange sends a request between its two lines in the journal.
func (w *worker) exchange(note journal.Request, r *http.Request) (a journal.Answer, err error) {
	n, err := w.j.Intend(note)
	if err != nil {
		w.t.Error(err)
		return a, err
	}
	resp, lost := w.http.Do(r)
	if lost == nil {
		var got struct {
			e2e.Tokens
			Active bool `json:"active"`
		}
		if lost = decodeAll(resp, &got); lost == nil {
			a = journal.Answer{Status: resp.StatusCode, Error: got.Error, Handle: got.RefreshToken, Access: got.AccessToken, Active: got.Active}
		}
	}
	if err := w.j.Answered(n, a); err != nil {
		w.t.Error(err)
		return a, err
	}
	switch {
	case lost != nil:
		return a, errLost
	case a.Status == http.StatusServiceUnavailable:
		w.turnedAway.Add(1)
	case note.Op == journal.Refresh && a.Status == http.StatusOK:
		w.refreshed.Add(1)
	}
	return a, nil
}

// total adds up what the workers counted.
func total(workers []*worker, of func(*worker) *atomic.Int64) (n int64) {
	for _, w := range workers {
		n += of(w).Load()
	}
	return n
}

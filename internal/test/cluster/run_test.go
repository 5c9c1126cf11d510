package cluster_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/internal/seal"
	"signet/internal/test/cluster"
	"signet/internal/test/journal"
)

// run is a cluster under load. The journal gets each request before it is sent, and
// each answer after it was read.
type run struct {
	t       *testing.T
	c       *cluster.Cluster
	http    *http.Client
	ring    *seal.Keyring
	window  time.Duration
	journal *journal.Journal
	path    string
	checker *journal.Checker
	others  []*verifier // resource servers on other machines

	mu      sync.Mutex
	broken  []string // violations besides those that the journal shows
	checked map[string]int
	answers map[string]map[string]int // by kind of request
	secrets map[string]string         // secrets that no log may contain, with their kinds
	rough   []window                  // times at which the nemesis disturbed the cluster
	outside int                       // failed requests through nginx at other times
	done    []*family                 // families that workers have given up
	kids    map[string]string         // public keys by kid
}

type window struct{ from, to time.Time }

// family is a grant as its client knows it.
type family struct {
	name    string // id of the grant, once known
	client  registered
	user    string
	scope   []string
	handle  string   // newest handle
	handles []string // all handles, oldest first
	access  string
	expires time.Time // expiry of access
	gen     int64     // generation of handle
	tried   int64     // newest generation presented
	ended   string    // why it has ended, as far as its client knows
	unsure  bool      // the client does not know whether it has ended
	at      time.Time // time of the end
}

// feedTime is the promised time within which MCP replicas learn of a revocation.
const feedTime = 15 * time.Second

func newRun(t *testing.T, c *cluster.Cluster, w time.Duration) *run {
	t.Helper()
	r := &run{
		t: t, c: c, http: newHTTP(), window: w, path: filepath.Join(t.TempDir(), "journal"),
		checker: journal.NewChecker(journal.Rules{Window: w, Feed: feedTime}),
		checked: map[string]int{}, answers: map[string]map[string]int{}, secrets: map[string]string{}, kids: map[string]string{},
	}
	var err error
	if r.ring, err = seal.Parse(c.Secret); err != nil {
		t.Fatal(err)
	}
	if r.journal, err = journal.Create(r.path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.journal.Close() })
	for _, base := range append([]string{c.URL}, urls(c.Auth)...) {
		r.others = append(r.others, newVerifier(r, base))
	}
	return r
}

func urls(list []*cluster.Replica) (all []string) {
	for _, r := range list {
		all = append(all, r.URL)
	}
	return all
}

// breach records that an invariant does not hold.
func (r *run) breach(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = append(r.broken, fmt.Sprintf(format, args...))
}

// look counts checks of invariants.
func (r *run) look(invariants ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range invariants {
		r.checked[name]++
	}
}

// secret records a secret that no log may contain.
func (r *run) secret(what, value string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if value != "" {
		r.secrets[value] = what
	}
}

// disturb records that requests may fail from now until the returned function is
// called, and for a while after that.
func (r *run) disturb() (over func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rough = append(r.rough, window{from: time.Now()})
	i := len(r.rough) - 1
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.rough[i].to = time.Now()
	}
}

// recovery is how long after a disturbance requests may still fail: nginx avoids
// replicas, and replicas connect to the database again.
const recovery = 6 * time.Second

// count counts the answer to a kind of request that was sent to base at a time.
func (r *run) count(kind, base string, a reply, began time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.answers[kind] == nil {
		r.answers[kind] = map[string]int{}
	}
	r.answers[kind][a.label()]++
	if a.ours() && a.status != 503 || base != r.c.URL { // a replica itself may be restarting
		return
	}
	now := time.Now()
	if !slices.ContainsFunc(r.rough, func(w window) bool {
		return w.from.Before(now) && (w.to.IsZero() || began.Before(w.to.Add(recovery)))
	}) {
		r.outside++
	}
}

// answered translates an answer for the journal. An error of nginx for a replica that
// did not answer counts as no answer.
func answered(a reply) journal.Answer {
	if !a.ours() {
		return journal.Answer{}
	}
	return journal.Answer{Status: a.status, Error: a.error()}
}

// ask sends a request to the authorization server, with its lines in the journal.
func (r *run) ask(f *family, q journal.Request, base string, form url.Values) (reply, tokens) {
	path := map[journal.Op]string{journal.Code: "/token", journal.Refresh: "/token", journal.Revoke: "/revoke", journal.Introspect: "/introspect"}[q.Op]
	q.Family = f.name
	n, err := r.journal.Intend(q)
	if err != nil {
		r.breach("journal: %v", err)
		return reply{}, tokens{}
	}
	began := time.Now()
	a := postForm(r.http, base+path, form)
	r.unavailable(string(q.Op), a)
	line, tok := answered(a), a.tokens()
	if q.Op == journal.Code || q.Op == journal.Refresh {
		if a.status == http.StatusOK && (tok.Access == "" || tok.Refresh == "") {
			r.breach("INV21: a 200 of the token endpoint without tokens: %q", a.body)
		}
		line.Handle, line.Access = tok.Refresh, tok.Access
		r.secret("refresh handle", tok.Refresh)
		r.secret("access token", tok.Access)
	}
	if q.Op == journal.Introspect {
		var v struct{ Active bool }
		if a.status == http.StatusOK && json.Unmarshal([]byte(a.body), &v) != nil {
			r.breach("INV21: introspection answers %q", a.body)
		}
		line.Active = v.Active
	}
	if err := r.journal.Answered(n, line); err != nil {
		r.breach("journal: %v", err)
	}
	kind := string(q.Op)
	if q.Flawed {
		kind = "flawed " + kind
	}
	r.count(kind, base, a, began)
	return a, tok
}

// unavailable checks the form of a 503.
func (r *run) unavailable(kind string, a reply) {
	if a.status == 503 && (a.error() != "temporarily_unavailable" || a.header.Get("Retry-After") == "") {
		r.breach("INV11: a 503 to %s without Retry-After or with error %q: %q", kind, a.error(), a.body)
	}
}

// take takes the tokens of a response: every other resource server must accept the
// access token at once, and the handle must be of the next generation.
func (r *run) take(f *family, spent int64, tok tokens) error {
	v, err := seal.Open[seal.Refresh](r.ring, tok.Refresh)
	if err != nil {
		return fmt.Errorf("INV10: a refresh handle: %w", err)
	}
	r.look("INV3")
	if v.Gen != spent+1 || f.gen > 0 && v.Grant.ID != f.name {
		return fmt.Errorf("INV3: generation %d of %s was answered to generation %d of %s", v.Gen, v.Grant.ID, spent, f.name)
	}
	for _, o := range r.others {
		o.verify(tok.Access)
	}
	if v.Gen > f.gen {
		f.gen, f.handle, f.handles = v.Gen, tok.Refresh, append(f.handles, tok.Refresh)
		f.access, f.expires = tok.Access, time.Now().Add(time.Duration(tok.Expires)*time.Second)
	}
	return nil
}

// call calls the MCP endpoint and checks that the answer is about the family's user.
func (r *run) call(f *family, base string) reply {
	n, err := r.journal.Intend(journal.Request{Op: journal.Call, Family: f.name, Artefact: f.access})
	if err != nil {
		r.breach("journal: %v", err)
		return reply{}
	}
	began := time.Now()
	a := call(r.http, base, f.access, "whoami", struct{}{})
	if err := r.journal.Answered(n, answered(a)); err != nil {
		r.breach("journal: %v", err)
	}
	r.count("call", base, a, began)
	if a.status == http.StatusOK {
		r.look("INV19")
		if !strings.Contains(a.body, `"sub":"`+f.user+`"`) {
			r.breach("INV19: whoami of %s was answered: %s", f.user, a.body)
		}
	}
	return a
}

// end records that a family has ended, or that its client has given it up.
func (r *run) end(f *family, why string) {
	f.ended, f.at = why, time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = append(r.done, f)
}

// families returns the families that workers have given up.
func (r *run) families() []*family {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.done)
}

// probe presents the artefacts of an ended family at a replica: all must be refused.
func (r *run) probe(f *family, auth *cluster.Replica) {
	r.ask(f, journal.Request{Op: journal.Refresh, Artefact: f.handle}, auth.URL, refreshForm(f.client, f.handle))
	for _, artefact := range []string{f.handle, f.access} {
		r.ask(f, journal.Request{Op: journal.Introspect, Artefact: artefact}, auth.URL, url.Values{"token": {artefact}, "client_id": {f.client.id}})
	}
}

// verdict returns all violations.
func (r *run) verdict() []string {
	r.t.Helper()
	if err := r.checker.Follow(r.path); err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return append(r.checker.Broken(), r.broken...)
}

// looked returns how often each invariant was checked.
func (r *run) looked() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.checker.Checked()
	for name, n := range r.checked {
		all[name] += n
	}
	return all
}

// table returns the counts of answers, a line for each kind of request.
func (r *run) table() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(r.answers)) {
		var parts []string
		for _, label := range slices.Sorted(maps.Keys(r.answers[kind])) {
			parts = append(parts, fmt.Sprintf("%s: %d", label, r.answers[kind][label]))
		}
		fmt.Fprintf(&b, "  %-18s %s\n", kind, strings.Join(parts, ", "))
	}
	return b.String()
}

var errGone = errors.New("the run is over")

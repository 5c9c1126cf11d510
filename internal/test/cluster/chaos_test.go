package cluster_test

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"signet/internal/test/cluster"
	"signet/internal/test/journal"
)

// duration is how long the mixed load lasts: SIGNET_TEST_CHAOS, or d.
func duration(t *testing.T, d time.Duration) time.Duration {
	t.Helper()
	text := os.Getenv("SIGNET_TEST_CHAOS")
	if text == "" {
		return d
	}
	given, err := time.ParseDuration(text)
	if err != nil || given < time.Second {
		t.Fatalf("SIGNET_TEST_CHAOS is %q, not a duration such as 10m", text)
	}
	return given
}

func seedOf(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv("SIGNET_TEST_SEED")
	if text == "" {
		return uint64(time.Now().UnixNano())
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("SIGNET_TEST_SEED: %v", err)
	}
	return seed
}

// accessTTL is so short that tokens expire within a run.
const accessTTL = 25 * time.Second

// chaos is a run of the mixed load.
type chaos struct {
	name     string
	window   time.Duration
	duration time.Duration
	outage   func(cycle int) time.Duration
	workers  int
}

// Clients register, sign users in, refresh, call tools and revoke, through nginx and
// directly, while replicas are killed, paused and restarted, the database stops, and
// keys rotate. Then all invariants are checked. `make chaos` does the same for ten
// minutes.
func TestMixedLoadBreaksNoPromise(t *testing.T) {
	t.Parallel()
	d := duration(t, time.Minute)
	outage := func(cycle int) time.Duration {
		switch {
		case d < 2*time.Minute:
			return 6 * time.Second
		case cycle == 1:
			return 20 * time.Second
		}
		return 5 * time.Second
	}
	chaos{name: "window of a minute", window: time.Minute, duration: d, outage: outage, workers: 16}.play(t)
}

// With a window of twelve seconds, a handle that is presented again after the window
// must end the grant.
func TestMixedLoadWithAShortWindow(t *testing.T) {
	t.Parallel()
	short := func(int) time.Duration { return time.Second }
	chaos{name: "window of 12 s", window: 12 * time.Second, duration: duration(t, 60*time.Second) / 2, outage: short, workers: 12}.play(t)
}

func (c chaos) play(t *testing.T) {
	r, n := c.prepare(t)
	c.load(r, n)
	settle(t, r)
	c.report(t, r, n)
}

// prepare starts the cluster, with a user for every fourth worker.
func (c chaos) prepare(t *testing.T) (*run, *nemesis) {
	t.Helper()
	seed := seedOf(t)
	people := map[string]string{}
	for i := 3; i < c.workers; i += 4 {
		people[fmt.Sprint("user", i)] = passwordOf(i)
	}
	o, proxies := proxied(t, cluster.Options{Users: people, Env: []string{
		"SIGNET_ACCESS_TTL=" + accessTTL.String(), "SIGNET_REPLAY_WINDOW=" + c.window.String(), "SIGNET_LIMITS=off",
	}})
	r := newRun(t, start(t, o), c.window)
	for _, password := range people {
		r.secret("password", password)
	}
	r.secret("root secret", r.c.Secret)
	t.Logf("%s: seed %d", c.name, seed)
	return r, &nemesis{run: r, seed: seed, random: rand.New(rand.NewPCG(seed, 0)), proxies: proxies, outage: c.outage}
}

// load runs the workers and the nemesis, and stops early when an invariant is broken.
func (c chaos) load(r *run, n *nemesis) {
	ctx, cancel := context.WithTimeout(context.Background(), c.duration)
	defer cancel()
	var all sync.WaitGroup
	seed := n.random.Uint64()
	for _, w := range newWorkers(r, c.workers, seed) {
		all.Go(func() { w.work(ctx) })
	}
	all.Go(func() { n.rage(ctx) })
	all.Go(func() { haunt(ctx, r, rand.New(rand.NewPCG(seed, 1<<32))) })
	for ctx.Err() == nil {
		sleep(ctx, time.Second)
		if len(r.verdict()) > 0 {
			cancel()
		}
	}
	all.Wait()
}

// haunt presents the artefacts of ended grants, again and again, at random auth
// replicas.
func haunt(ctx context.Context, r *run, random *rand.Rand) {
	for ; ctx.Err() == nil; sleep(ctx, 150*time.Millisecond) {
		list := r.families()
		if len(list) == 0 {
			continue
		}
		if f := list[random.IntN(len(list))]; f.ended != "" {
			r.probe(f, r.c.Auth[random.IntN(len(r.c.Auth))])
		}
	}
}

// settle checks everything once more when all replicas run again.
func settle(t *testing.T, r *run) {
	t.Helper()
	for _, replica := range r.c.Replicas() {
		if err := replica.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	list := r.families()
	random := rand.New(rand.NewPCG(1, 2))
	for _, f := range list {
		auth := r.c.Auth[random.IntN(len(r.c.Auth))]
		switch {
		case f.ended != "":
			r.probe(f, auth)
		case !f.unsure:
			r.oneLine(f, auth)
		}
	}
	r.rows(list)
	r.epoch()
	r.logs()
	r.connections()
	// The database may have stopped just after a revocation, so the time for the feed
	// begins now.
	time.Sleep(feedTime)
	for _, f := range list {
		if f.ended != "" && time.Now().Before(f.expires.Add(50*time.Second)) {
			for _, replica := range r.c.MCP {
				r.call(f, replica.URL)
			}
		}
	}
}

// epoch looks whether a server took anything that happened for a rollback of the store.
func (r *run) epoch() {
	db, err := sql.Open("pgx", r.c.Postgres.URL)
	if err != nil {
		r.breach("the store: %v", err)
		return
	}
	defer db.Close()
	var at int64
	if err := db.QueryRow("SELECT rolled_back_at FROM signet.meta").Scan(&at); err != nil || at != 0 {
		r.breach("INV15: a server found a rollback that never was, at %d (%v)", at, err)
	}
}

// oneLine checks that a live grant has one line of handles: its newest handle works,
// one older than its predecessor does not, and after that no handle does.
func (r *run) oneLine(f *family, auth *cluster.Replica) {
	handle, spent := f.handle, f.gen
	f.tried = max(f.tried, spent)
	a, tok := r.ask(f, journal.Request{Op: journal.Refresh, Artefact: handle}, auth.URL, refreshForm(f.client, handle))
	if a.status != 200 {
		r.breach("INV7: the last handle of a live grant, at the end: %s", a.label())
		return
	}
	if err := r.take(f, spent, tok); err != nil {
		r.breach("%v", err)
	}
	if len(f.handles) < 3 {
		return
	}
	old := f.handles[len(f.handles)-3]
	if a, _ = r.ask(f, journal.Request{Op: journal.Refresh, Artefact: old}, auth.URL, refreshForm(f.client, old)); a.error() == "invalid_grant" {
		r.look("INV3")
		f.ended, f.at = "an old handle was presented at the end", time.Now()
		for _, replica := range r.c.Auth {
			r.probe(f, replica)
		}
	}
}

// rows compares the grants in the store with the knowledge of their clients.
func (r *run) rows(list []*family) {
	db, err := sql.Open("pgx", r.c.Postgres.URL)
	if err != nil {
		r.t.Fatal(err)
	}
	defer db.Close()
	type row struct{ gen, revoked int64 }
	grants := map[string]row{}
	rows, err := db.Query("SELECT id, gen, revoked_at FROM signet.grants")
	if err != nil {
		r.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		var g row
		if err := rows.Scan(&id, &g.gen, &g.revoked); err != nil {
			r.t.Fatal(err)
		}
		grants[id] = g
	}
	if err := rows.Err(); err != nil {
		r.t.Fatal(err)
	}
	for _, f := range list {
		g, found := grants[f.name]
		r.look("INV23")
		switch {
		case !found:
			r.breach("INV23: no row of grant %s", f.name)
		case g.gen < f.gen || g.gen > max(f.gen, f.tried+1):
			r.breach("INV23: grant %s has generation %d, its client got %d and presented %d", f.name, g.gen, f.gen, f.tried)
		case f.ended != "" && g.revoked == 0:
			r.breach("INV4: grant %s is not revoked in the store, although %s", f.name, f.ended)
		}
	}
}

var words = regexp.MustCompile(`[A-Za-z0-9_.-]{20,}`)

// logs looks for secrets in the output of the replicas.
func (r *run) logs() {
	for _, replica := range r.c.Replicas() {
		file, err := os.Open(replica.Log)
		if err != nil {
			r.t.Fatal(err)
		}
		defer file.Close()
		lines := bufio.NewScanner(file)
		for lines.Buffer(nil, 1<<20); lines.Scan(); r.look("INV16") {
			for _, word := range words.FindAllString(lines.Text(), -1) {
				if what := r.secrets[word]; what != "" {
					r.breach("INV16: %s has a %s in its log", replica.Name, what)
				}
			}
			if strings.Contains(lines.Text(), "panic") || strings.Contains(lines.Text(), "DATA RACE") {
				r.breach("INV21: %s: %s", replica.Name, lines.Text())
			}
		}
	}
}

// connections checks that file descriptors and database connections were closed.
func (r *run) connections() {
	db, err := sql.Open("pgx", r.c.Postgres.URL)
	if err != nil {
		r.t.Fatal(err)
	}
	defer db.Close()
	var open int
	if err := db.QueryRow("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'signet'").Scan(&open); err != nil {
		r.t.Fatal(err)
	}
	if r.look("INV22"); open > 10*len(r.c.Auth) {
		r.breach("INV22: %d connections to the database, at most 10 a replica", open)
	}
	for _, replica := range r.c.Replicas() {
		files, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(replica.PID()), "fd"))
		if err != nil {
			continue // a system without them
		}
		if r.look("INV22"); len(files) > 200 {
			r.breach("INV22: %s has %d files open", replica.Name, len(files))
		}
	}
}

// report prints the result, and fails the test if an invariant is broken.
func (c chaos) report(t *testing.T, r *run, n *nemesis) {
	t.Helper()
	broken := r.verdict()
	sums := r.checker.Counts()
	var b strings.Builder
	fmt.Fprintf(&b, "mixed load on a cluster, %s\n", c.name)
	fmt.Fprintf(&b, "  commit %s, seed %d, %s, %d workers on %d auth and %d mcp replicas\n", commit(), n.seed, c.duration, c.workers, len(r.c.Auth), len(r.c.MCP))
	fmt.Fprintf(&b, "  %d kills, %d restarts, %d outages of PostgreSQL, %d replicas cut off from it, %d pauses, %d keys brought forward, %d keys seen\n",
		n.kills.Load(), n.restarts.Load(), n.outages.Load(), n.cuts.Load(), n.pauses.Load(), n.rotated.Load(), len(r.kids))
	fmt.Fprintf(&b, "  %d requests in the journal: %d acknowledged, %d answered 503, %d without an answer; %d grants, %d refreshes, %d revocations\n",
		sums.Requests, sums.Acknowledged, sums.Unavailable, sums.Lost, sums.Families, sums.Refreshes, sums.Revocations)
	b.WriteString("answers\n" + r.table())
	fmt.Fprintf(&b, "  failed through nginx while nothing was disturbed: %d\n", r.outside)
	b.WriteString("looked at\n")
	looked := r.looked()
	for _, name := range slices.SortedFunc(maps.Keys(looked), func(a, b string) int { return number(a) - number(b) }) {
		fmt.Fprintf(&b, "  %-6s %d\n", name, looked[name])
	}
	fmt.Fprintf(&b, "violations %d", len(broken))
	t.Log(b.String())
	if len(broken) > 0 {
		t.Errorf("broken:\n%s\n%s", strings.Join(broken[:min(len(broken), 20)], "\n"), strings.Join(n.log, "\n"))
	}
	if r.outside > c.workers+sums.Requests/200 { // every worker may lose a request at one moment
		t.Errorf("%d requests failed while nothing was disturbed", r.outside)
	}
	if sums.Refreshes < 100 || sums.Revocations < 3 {
		t.Error("there was hardly any load, so the run shows nothing")
	}
}

func number(invariant string) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(invariant, "INV"))
	return n
}

func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

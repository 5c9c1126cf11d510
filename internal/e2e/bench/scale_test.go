package bench

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"signet/internal/denylist"
	"signet/internal/e2e"
	"signet/internal/seal"
	"signet/internal/state"
	"signet/internal/store"
	"signet/internal/test/pgtest"

	"github.com/jackc/pgx/v5"
)

const (
	scaleFile  = "docs/scale.md"
	scaleBegin = "<!-- begin of the measurements, written by make scale -->\n"
	scaleEnd   = "<!-- end of the measurements -->"

	// scaleGrants is the variable that sets how many grants the simulation has.
	scaleGrants = "SIGNET_TEST_GRANTS"
)

// BenchmarkScale measures the cost of a request for each part of a deployment, lets a
// population refresh against one store and against several, and computes from that what
// more users need. It prints its tables, and with -update writes them to docs/scale.md. Each
// part is a benchmark of its own, so -bench can select some.
func BenchmarkScale(b *testing.B) {
	if b.N > 1 {
		return
	}
	grants := 100_000
	if v := os.Getenv(scaleGrants); v != "" {
		var err error
		if grants, err = strconv.Atoi(v); err != nil || grants < 1000 {
			b.Fatalf("%s=%s: want a number of 1000 or more", scaleGrants, v)
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, "Measured on %d cores of %s with %s and %d grants; PostgreSQL on the same machine.\n\n", runtime.NumCPU(), cpuModel(), runtime.Version(), grants)
	var costs map[string]cost
	var sizes sizes
	parts, wanted, drawn := 0, 0, curves{}
	part := func(name string, measure func(b *testing.B)) {
		wanted++
		b.Run(name, func(b *testing.B) {
			measure(b)
			parts++
		})
	}
	part("costs", func(b *testing.B) { costs = measureCosts(b, &out) })
	part("connections", func(b *testing.B) { drawn["scale-connections"] = measureConnections(b, &out) })
	part("keys", func(b *testing.B) { drawn["scale-keys"] = measureKeys(b, &out) })
	part("users", func(b *testing.B) { drawn["scale-users"] = measureUsers(b, &out) })
	part("replicas", func(b *testing.B) { drawn["scale-replicas"] = measureReplicas(b, &out) })
	part("shards", func(b *testing.B) { sizes = measureShards(b, &out, min(grants, 200_000)) })
	part("growth", func(b *testing.B) { drawn["scale-grants"] = measureGrowth(b, &out, grants) })
	complete := parts == wanted
	if complete {
		arithmetic(&out, costs, sizes)
	}
	fmt.Println(out.String())
	if *e2e.Update && complete {
		writeScale(b, out.String())
		drawn.write(b)
	}
}

func writeScale(b *testing.B, tables string) {
	text, err := os.ReadFile(scaleFile)
	if err != nil {
		b.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), scaleBegin)
	_, after, ok2 := strings.Cut(rest, scaleEnd)
	if !ok || !ok2 {
		b.Fatalf("%s has no place for the measurements", scaleFile)
	}
	if err := os.WriteFile(scaleFile, []byte(before+scaleBegin+tables+scaleEnd+after), 0o644); err != nil {
		b.Fatal(err)
	}
}

// cost is the cost of one kind of request.
type cost struct {
	loaded
	signet, database time.Duration // CPU time of one request; 0 if not known
}

// perCore is how many requests a second keep one core busy.
func perCore(cpu time.Duration) float64 { return float64(time.Second) / float64(cpu) }

// measureCosts loads single replicas over HTTP: the server on one core, the load and
// PostgreSQL on another. The rate depends on all of them; the CPU time does not.
func measureCosts(b *testing.B, out *strings.Builder) map[string]cost {
	pin(b, "1")
	defer pin(b, fmt.Sprintf("0-%d", runtime.NumCPU()-1))
	core := []string{e2e.Need(b, "taskset"), "--cpu-list", "0"}
	all := map[string]cost{}
	out.WriteString("| one replica, 64 connections | rate | CPU of Signet | rate of one core | CPU of PostgreSQL |\n|---|---|---|---|---|\n")
	row := func(name string, c cost) {
		all[name] = c
		fmt.Fprintf(out, "| %s | %s | %s | %.0f/s | %s |\n", name, c.loaded, micros(c.signet), perCore(c.signet), micros(c.database))
	}
	refreshes := func(d *e2e.Program, postmaster int) cost {
		families := make([]*family, 64)
		for i := range families {
			client, tok := d.Login()
			families[i] = &family{client, tok.RefreshToken, tok.AccessToken}
		}
		return measure(b, d, postmaster, d.Issuer, func(i int, w *e2e.Wire) error { return refreshOver(w, families[i]) })
	}
	quiet := []string{"SIGNET_LOG_LEVEL=info", e2e.WideLimits}
	onCore := func(settings []string, args ...string) *e2e.Program {
		d := e2e.Start(b, slices.Concat(quiet, settings), args...)
		d.Stop()
		d.Prefix, d.Log = core, filepath.Join(b.TempDir(), "log")
		d.Start()
		return d
	}
	at := pgtest.URL(b)
	shared := onCore([]string{"SIGNET_STORE=" + at, "SIGNET_SECRET=" + seal.NewSecret()}, "--demo", "--role", "auth")
	row("refresh, PostgreSQL", refreshes(shared, postmasterOf(b, at)))
	shared.Stop()
	d := onCore(nil, "--demo")
	row("refresh, SQLite", refreshes(d, 0))

	_, tok := d.Login()
	replica := onCore([]string{"SIGNET_ISSUER=" + d.Issuer}, "--role", "mcp")
	row("MCP call, role mcp", measure(b, replica, 0, replica.URL(), func(_ int, c *e2e.Wire) error {
		_, err := c.Do("POST", "/mcp", mcpHeaders(tok.AccessToken), echoCall)
		return err
	}))
	for _, path := range []string{"/.well-known/jwks.json", "/.well-known/revoked"} {
		row("GET "+path, measure(b, d, 0, d.Issuer, func(_ int, c *e2e.Wire) error {
			_, err := c.Do("GET", path, "", "")
			return err
		}))
	}
	out.WriteString("\n")
	return all
}

const echoCall = `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"message":"x"}}}`

func mcpHeaders(token string) string {
	return "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2025-11-25\r\nAuthorization: Bearer " + token + "\r\n"
}

// pin binds this process and later children to cores.
func pin(b *testing.B, cores string) {
	if out, err := exec.Command(e2e.Need(b, "taskset"), "--all-tasks", "--cpu-list", "--pid", cores, strconv.Itoa(os.Getpid())).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
}

func measure(b *testing.B, d *e2e.Program, postmaster int, base string, do func(int, *e2e.Wire) error) cost {
	load(b, base, 64, time.Second, do) // warm
	ours, theirs := cpuTime(b, d.PID()), databaseTime(b, postmaster)
	l := load(b, base, 64, 5*time.Second, do)
	n := time.Duration(len(l.took))
	return cost{l, (cpuTime(b, d.PID()) - ours) / n, (databaseTime(b, postmaster) - theirs) / n}
}

// cpuTime is the CPU time of a process and its ended children.
func cpuTime(b *testing.B, pid int) time.Duration {
	used, err := cpuTimeOf(pid)
	if err != nil {
		b.Fatal(err)
	}
	return used
}

func cpuTimeOf(pid int) (time.Duration, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	var ticks int64
	for _, f := range strings.Fields(rest)[11:15] { // utime, stime, cutime, cstime
		n, _ := strconv.ParseInt(f, 10, 64)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// databaseTime is the CPU time of all processes of PostgreSQL.
func databaseTime(b *testing.B, postmaster int) time.Duration {
	if postmaster == 0 {
		return 0
	}
	sum := cpuTime(b, postmaster)
	for _, pid := range childrenOf(postmaster) {
		used, _ := cpuTimeOf(pid) // a process that has ended a moment ago counts with its parent the next time
		sum += used
	}
	return sum
}

func childrenOf(parent int) (list []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, _ := os.ReadFile(path) // the process may have ended
		if _, rest, ok := strings.Cut(string(text), ") "); ok && strings.Fields(rest)[1] == strconv.Itoa(parent) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			list = append(list, pid)
		}
	}
	return list
}

// postmasterOf finds the process that listens for a URL, or returns 0 if it is on
// another machine.
func postmasterOf(b *testing.B, at string) int {
	u, err := url.Parse(at)
	if err != nil {
		b.Fatal(err)
	}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		text, _ := os.ReadFile(path)
		if strings.Contains(string(text), "postgres\x00") && strings.Contains(string(text), "\x00port="+u.Port()+"\x00") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return pid
		}
	}
	return 0
}

// population is a number of grants, each of a user of its own, split among stores by a
// hash of the grant's id.
type population struct {
	shards []*denylist.List
	stores []*store.Store
	ids    []string
	gens   []int64 // generation of each grant; used by one worker alone
}

// shardOf returns the store of a grant: any replica computes it from the handle.
func shardOf(id string, shards int) int {
	h := sha256.Sum256([]byte(id))
	return (int(h[0])<<16 | int(h[1])<<8 | int(h[2])) % shards
}

// newPopulation returns n grants that began at random times of the past month.
func newPopulation(n int) *population {
	p := &population{ids: make([]string, n), gens: make([]int64, n)}
	const month = 30 * 24 * time.Hour
	now := time.Now()
	for i := range n {
		p.ids[i], p.gens[i] = seal.NewID(now.Add(month*time.Duration(i+1)/time.Duration(n)+2*time.Minute)), 1
	}
	return p
}

// populate makes n grants and splits them among stores.
func populate(b *testing.B, n int, stores ...store.Options) *population {
	p := newPopulation(n)
	rows := make([][]string, len(stores))
	for _, id := range p.ids {
		k := shardOf(id, len(stores))
		rows[k] = append(rows[k], id)
	}
	var all sync.WaitGroup
	for k, o := range stores {
		if err := store.Create(b.Context(), o, "root"); err != nil {
			b.Fatal(err)
		}
		s, err := store.Open(b.Context(), o)
		if err != nil {
			b.Fatal(err)
		}
		l, err := denylist.New(b.Context(), denylist.Options{Store: s, Window: time.Minute, Skew: time.Minute, Keep: 6 * time.Minute})
		if err != nil {
			b.Fatal(err)
		}
		p.stores, p.shards = append(p.stores, s), append(p.shards, l)
		all.Go(func() { insertGrants(b, s, rows[k], len(rows[k])) })
	}
	all.Wait()
	if b.Failed() {
		b.FailNow()
	}
	return p
}

// insertGrants inserts rows of realistic length, at generation 1, of a number of users.
func insertGrants(b *testing.B, s *store.Store, ids []string, people int) {
	now := time.Now()
	n := 0
	for batch := range slices.Chunk(ids, 2000) {
		err := s.Write(context.Background(), func(tx store.Tx) error {
			for _, id := range batch {
				n++
				user := member(n % people)
				_, err := tx.Exec(`INSERT INTO grants (id, gen, rotated_at, revoked_at, sub, client_hash, client_name, consent_hash, scope, resource, created_at, expires_at, user_version, epoch)
					VALUES ($1, 1, $2, 0, $3, $4, 'Claude Code', $5, 'read write', 'https://mcp.example.com/mcp', $6, $7, '12345678', '1234')`,
					id, now.UnixMilli(), user, seal.ClientHash("client"+user[:4]), seal.ClientHash(id)[:12], now.Unix(), now.Add(30*24*time.Hour).Unix())
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Error(err)
			return
		}
	}
}

// refresh rotates grant i once.
func (p *population) refresh(i int) error {
	k, now := shardOf(p.ids[i], len(p.shards)), time.Now()
	next, err := p.shards[k].Use(context.Background(), p.stores[k].Epoch(), denylist.Grant{ID: p.ids[i], Expires: now.Add(time.Hour).Unix()}, p.gens[i], now)
	if err == nil {
		p.gens[i] = next
	}
	return err
}

// busy refreshes random grants of the first n, 64 at a time, without pause.
func (p *population) busy(b *testing.B, n int, lasts time.Duration) loaded {
	const workers = 64
	var mu sync.Mutex
	var sum loaded
	var all sync.WaitGroup
	began := time.Now()
	for w := range workers {
		all.Go(func() {
			var took []time.Duration
			for time.Since(began) < lasts {
				sent := time.Now()
				if err := p.refresh(rand.N(n/workers)*workers + w); err != nil { // a worker has grants of its own
					b.Error(err)
					return
				}
				took = append(took, time.Since(sent))
			}
			mu.Lock()
			defer mu.Unlock()
			sum.took = append(sum.took, took...)
		})
	}
	all.Wait()
	sum.over = time.Since(began)
	return sum
}

// poisson refreshes at random times, rate a second on average, whether earlier requests
// were answered or not.
func (p *population) poisson(b *testing.B, rate float64, lasts time.Duration) loaded {
	var mu sync.Mutex
	var sum loaded
	var all sync.WaitGroup
	turn := rand.Perm(len(p.ids))
	began, next := time.Now(), time.Duration(0)
	for i := 0; next < lasts && i < len(turn); i++ { // each grant once at most
		next += time.Duration(rand.ExpFloat64() / rate * float64(time.Second))
		if wait := next - time.Since(began); wait > 0 {
			time.Sleep(wait)
		}
		due := began.Add(next)
		all.Go(func() {
			if err := p.refresh(turn[i]); err != nil {
				b.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			sum.took = append(sum.took, time.Since(due))
		})
	}
	all.Wait()
	sum.over = time.Since(began)
	return sum
}

func (p *population) close(b *testing.B) {
	for _, s := range p.stores {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	}
}

// rowsPerShard returns the smallest and the largest number of rows of a store.
func (p *population) rowsPerShard() (least, most int) {
	n := make([]int, len(p.shards))
	for _, id := range p.ids {
		n[shardOf(id, len(n))]++
	}
	return slices.Min(n), slices.Max(n)
}

// sizes are the bytes of a grant in each store, and the bytes that a rotation adds to
// PostgreSQL's log.
type sizes struct{ sqlite, postgres, log float64 }

// measureShards lets the population refresh against 1, 2 and 4 stores of both kinds, in
// this process, without HTTP and signatures. It shows the cost and the benefit of the
// split.
func measureShards(b *testing.B, out *strings.Builder, grants int) (s sizes) {
	out.WriteString("| stores | rows in each | a row, with indexes | rotations, 64 at a time | CPU of Signet | CPU of PostgreSQL | PostgreSQL's log (WAL) | Poisson arrivals at half that rate |\n|---|---|---|---|---|---|---|---|\n")
	for _, kind := range []string{"SQLite", "PostgreSQL"} {
		for _, k := range []int{1, 2, 4} {
			var stores []store.Options
			for range k {
				stores = append(stores, emptyStore(b, kind))
			}
			p, postmaster := populate(b, grants, stores...), 0
			if kind == "PostgreSQL" {
				postmaster = postmasterOf(b, stores[0].Path)
			}
			ours, theirs, log := ownTime(b), databaseTime(b, postmaster), logPosition(b, stores[0])
			l := p.busy(b, grants, 3*time.Second)
			n := time.Duration(len(l.took))
			ours, theirs, log = (ownTime(b)-ours)/n, (databaseTime(b, postmaster)-theirs)/n, (logPosition(b, stores[0])-log)/int64(n)
			open := p.poisson(b, l.rate()/2, 3*time.Second)
			least, most := p.rowsPerShard()
			p.close(b)
			size := fileSize(stores)
			if kind == "PostgreSQL" {
				size = tableSize(b, stores)
			}
			size /= float64(grants)
			fmt.Fprintf(out, "| %d %s | %d to %d | %.0f B | %s | %s | %s | %s | %s |\n", k, kind, least, most, size, l, micros(ours), micros(theirs), bytesEach(log), open)
			switch {
			case k > 1:
			case kind == "SQLite":
				s.sqlite = size
			default:
				s.postgres, s.log = size, float64(log)
			}
		}
	}
	out.WriteString("\n")
	return s
}

// micros formats a CPU time for a table; it is empty if the time is unknown.
func micros(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.Round(time.Microsecond / 10).String()
}

func emptyStore(b *testing.B, kind string) store.Options {
	if kind == "PostgreSQL" {
		return store.Options{Path: pgtest.URL(b)}
	}
	path := filepath.Join(b.TempDir(), "signet.db")
	return store.Options{Path: path, Mirror: path + ".mirror", Serve: true}
}

// fileSize is the total size of closed stores.
func fileSize(stores []store.Options) (sum float64) {
	for _, o := range stores {
		if info, err := os.Stat(o.Path); err == nil {
			sum += float64(info.Size())
		}
	}
	return sum
}

func tableSize(b *testing.B, stores []store.Options) (sum float64) {
	for _, o := range stores {
		c, err := pgx.Connect(b.Context(), o.Path)
		if err != nil {
			b.Fatal(err)
		}
		var n int64
		err = c.QueryRow(b.Context(), "SELECT pg_total_relation_size('signet.grants')").Scan(&n)
		c.Close(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		sum += float64(n)
	}
	return sum
}

// logPosition is how much PostgreSQL has written to its log for all databases; 0 for
// SQLite.
func logPosition(b *testing.B, o store.Options) (n int64) {
	if !store.Locate(o.Path).Shared() {
		return 0
	}
	c, err := pgx.Connect(b.Context(), o.Path)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close(b.Context())
	if err := c.QueryRow(b.Context(), "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint").Scan(&n); err != nil {
		b.Fatal(err)
	}
	return n
}

func bytesEach(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d B", n)
}

func ownTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measureGrowth compares whole refreshes on stores with more and more grants, in turns. The
// servers share a core.
func measureGrowth(b *testing.B, out *strings.Builder, grants int) chart {
	pin(b, "1")
	var servers []*grown
	for n := 1000; n < grants; n *= 10 {
		servers = append(servers, grownServer(b, n, fewPeople))
	}
	servers = append(servers, grownServer(b, grants, fewPeople))
	sums, used := make([]loaded, len(servers)), make([]time.Duration, len(servers))
	for range 3 {
		for i, g := range servers {
			g.cache(b)
			before := cpuTime(b, g.d.PID())
			sums[i] = sums[i].plus(g.refreshes(b, 64))
			used[i] += cpuTime(b, g.d.PID()) - before
		}
	}
	out.WriteString("| grants in SQLite, in turns | refreshes of random grants | of the first row | CPU of each |\n|---|---|---|---|\n")
	var rates []point
	for i, g := range servers {
		l := sums[i]
		fmt.Fprintf(out, "| %d | %s | %.0f %% | %s |\n", len(g.ids), l, 100*l.rate()/sums[0].rate(), micros(used[i]/time.Duration(len(l.took))))
		rates = append(rates, point{float64(len(g.ids)), l.rate()})
	}
	out.WriteString("\nTarget: at 5 million grants at least 80 % of the rate.\n\n")
	return chart{title: "Refreshes a second by stored grants, server on one core", x: "grants", lines: []line{{"refresh, SQLite", rates}}}
}

// grown is a server whose store was filled directly. The test has its secret, so it can
// make the handle of any grant.
type grown struct {
	*population
	d      *e2e.Program
	ring   *seal.Keyring
	handle seal.Refresh
	client *e2e.Client

	started time.Duration // time that its start took
}

func grownServer(b *testing.B, grants, people int, settings ...string) *grown {
	d := e2e.Start(b, append([]string{"SIGNET_LOG_LEVEL=info", e2e.WideLimits}, settings...), "--demo")
	client, tok := d.Login()
	d.Stop()
	data := state.Data{Dir: d.Dir}
	ring, err := data.Ring()
	if err != nil {
		b.Fatal(err)
	}
	handle, err := seal.Open[seal.Refresh](ring, tok.RefreshToken)
	if err != nil {
		b.Fatal(err)
	}
	s, err := state.OpenStore(b.Context(), data)
	if err != nil {
		b.Fatal(err)
	}
	p := newPopulation(grants)
	insertGrants(b, s, p.ids, min(people, fewPeople)) // grants of users that do not exist would be ended
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	syscall.Sync() // the disk would be busy with the new file
	addPeople(b, d, people)
	d.Prefix = []string{e2e.Need(b, "taskset"), "--cpu-list", "0"}
	begin := time.Now()
	d.Start()
	g := &grown{population: p, d: d, ring: ring, handle: handle, client: client, started: time.Since(begin)}
	eventuallyReady(b, d)
	g.refreshes(b, 64) // warm
	return g
}

// eventuallyReady waits until the server has checked a large file.
func eventuallyReady(b *testing.B, d *e2e.Program) {
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		resp, err := http.Get(d.Issuer + "/readyz?require=store")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			b.Fatalf("not ready:\n%s", d.Output())
		}
	}
}

// cache reads the store's file, which the system may have dropped from its cache of files while
// other stores were filled. All stores are measured in memory, whatever their size.
func (g *grown) cache(b *testing.B) {
	f, err := os.Open(filepath.Join(g.d.Dir, "signet.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(io.Discard, f); err != nil {
		b.Fatal(err)
	}
}

// refreshes rotates grants at random over HTTP.
func (g *grown) refreshes(b *testing.B, connections int) loaded {
	return load(b, g.d.Issuer, connections, 2*time.Second, func(worker int, c *e2e.Wire) error {
		i := rand.N(len(g.ids)/connections)*connections + worker
		h := g.handle
		h.Grant.ID, h.Gen = g.ids[i], g.gens[i]
		raw, err := seal.Seal(g.ring, h)
		if err != nil {
			return err
		}
		if err := refreshOver(c, &family{client: g.client, handle: raw}); err != nil {
			return err
		}
		g.gens[i]++
		return nil
	})
}

// assumed are the assumptions of the arithmetic; docs/scale.md lists them.
var assumed = struct {
	active, sessions float64 // share of users that refresh now; grants of each user
	used             float64 // share of a capacity that is used
	entry            float64 // bytes of one grant in the revocation feed
	keptFor          float64 // seconds that the entry stays: access token and leeway
	poll, jwks       float64 // seconds between a verifier's requests
	fresh            float64 // seconds that a cache keeps the feed
}{active: 0.3, sessions: 1.5, used: 0.6, entry: 53, keptFor: 360, poll: 10, jwks: 900, fresh: 2}

// arithmetic computes the needs of populations from the measurements.
func arithmetic(out *strings.Builder, costs map[string]cost, s sizes) {
	fmt.Fprintf(out, "| users | refresh every | refreshes = store writes | cores of role auth | cores of PostgreSQL | PostgreSQL's log (WAL) | grants | bytes |\n|---|---|---|---|---|---|---|---|\n")
	shared := costs["refresh, PostgreSQL"]
	for _, users := range []float64{1e6, 10e6, 100e6} {
		for _, every := range []float64{600, 300} {
			rate := users * assumed.active * assumed.sessions / every
			grants := users * assumed.sessions
			fmt.Fprintf(out, "| %.0f M | %.0f min | %.0f/s | %.0f | %.0f | %.0f MB/s | %.1f M | %.1f GB |\n", users/1e6, every/60, rate,
				ceil(rate/(perCore(shared.signet)*assumed.used)), ceil(rate/(perCore(shared.database)*assumed.used)), rate*s.log/1e6, grants/1e6, grants*s.postgres/1e9)
		}
	}
	out.WriteString("\n| verifiers | JWKS requests | feed requests | traffic of the feed at 0.1 revocations/s | at 2/s | at 100/s |\n|---|---|---|---|---|---|\n")
	feed := func(revocations float64) float64 { return revocations * assumed.keptFor * assumed.entry }
	for _, n := range []float64{100, 10_000, 1_000_000} {
		fmt.Fprintf(out, "| %.0f | %.1f/s | %.0f/s |", n, n/assumed.jwks, n/assumed.poll)
		for _, rate := range []float64{0.1, 2, 100} {
			fmt.Fprintf(out, " %.2f MB/s |", n/assumed.poll*feed(rate)/1e6)
		}
		out.WriteString("\n")
	}
	fmt.Fprintf(out, "| behind a cache | | %.1f/s for each cache |", 1/assumed.fresh)
	for _, rate := range []float64{0.1, 2, 100} {
		fmt.Fprintf(out, " %.2f MB/s; the feed has %.1f KB |", feed(rate)/assumed.fresh/1e6, feed(rate)/1e3)
	}
	out.WriteString("\n\n")
}

func ceil(x float64) float64 {
	if n := float64(int(x)); n < x {
		return n + 1
	}
	return x
}

// Every shard gets an equal part, whatever time the ids begin with.
func TestShardsAreEven(t *testing.T) {
	const grants, shards = 40_000, 4
	n, now := [shards]int{}, time.Now()
	for range grants {
		n[shardOf(seal.NewID(now), shards)]++
	}
	for k, rows := range n {
		if rows < grants/shards*95/100 || rows > grants/shards*105/100 {
			t.Errorf("shard %d has %d of %d rows", k, rows, grants)
		}
	}
}

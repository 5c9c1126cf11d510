package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/internal/e2e"
	"signet/internal/seal"
	"signet/internal/test/pgtest"
)

// mostReplicas is the largest number of replicas that share a database here.
const mostReplicas = 4

// measureReplicas compares refreshes by replicas on one PostgreSQL with what pgbench reaches
// there with the same update of a row and its commit, in turns. Everything shares the cores
// of this machine, so the replicas have less of them than pgbench.
func measureReplicas(b *testing.B, out *strings.Builder) chart {
	pin(b, fmt.Sprintf("0-%d", runtime.NumCPU()-1))
	var rates []point
	at := pgtest.URL(b)
	first := e2e.New(b, []string{"SIGNET_LOG_LEVEL=info", e2e.WideLimits, "SIGNET_STORE=" + at, "SIGNET_SECRET=" + seal.NewSecret()}, "--demo", "--role", "auth")
	first.Log = filepath.Join(b.TempDir(), "log")
	first.Start()
	replicas := []*e2e.Program{first}
	for len(replicas) < mostReplicas {
		other := first.Beside()
		other.Log = filepath.Join(b.TempDir(), "log")
		other.Start()
		replicas = append(replicas, other)
	}
	families := make([]*family, 64)
	for i := range families {
		client, tok := first.Login()
		families[i] = &family{client, tok.RefreshToken, tok.AccessToken}
	}
	p := newPgbench(b, at)
	postmaster := postmasterOf(b, at)
	const rounds = 3
	var sums [mostReplicas]loaded
	var ours, database [mostReplicas]time.Duration
	var bare float64
	var bareDatabase time.Duration
	for range rounds {
		before := databaseTime(b, postmaster)
		rate, count := p.run(b)
		bare += rate / rounds
		bareDatabase += (databaseTime(b, postmaster) - before) / time.Duration(count) / rounds
		for n := 1; n <= mostReplicas; n++ {
			ownBefore, before := cpuOf(b, replicas), databaseTime(b, postmaster)
			sums[n-1] = sums[n-1].plus(refreshesOf(b, replicas[:n], families))
			ours[n-1] += cpuOf(b, replicas) - ownBefore
			database[n-1] += databaseTime(b, postmaster) - before
		}
	}
	fmt.Fprintf(out, "| on one PostgreSQL, 64 connections, in turns | rate | of pgbench | CPU of Signet | CPU of PostgreSQL |\n|---|---|---|---|---|\n| pgbench, the same update and commit | %.0f/s | | | %s |\n", bare, micros(bareDatabase))
	for i, l := range sums {
		n := time.Duration(len(l.took))
		fmt.Fprintf(out, "| refresh, %d replicas | %s | %.0f %% | %s | %s |\n", i+1, l, 100*l.rate()/bare, micros(ours[i]/n), micros(database[i]/n))
		rates = append(rates, point{float64(i + 1), l.rate()})
	}
	out.WriteString("\n")
	level := []point{{1, bare}, {mostReplicas, bare}}
	return chart{title: "Requests a second by replicas, all on one machine", x: "replicas on one PostgreSQL", lines: []line{{"refresh", rates}, {"pgbench, the same update", level}}}
}

func cpuOf(b *testing.B, programs []*e2e.Program) (sum time.Duration) {
	for _, d := range programs {
		sum += cpuTime(b, d.PID())
	}
	return sum
}

// refreshesOf divides the families among replicas and refreshes them without a pause.
func refreshesOf(b *testing.B, replicas []*e2e.Program, families []*family) (sum loaded) {
	var all sync.WaitGroup
	var mu sync.Mutex
	for k, d := range replicas {
		mine := families[k*len(families)/len(replicas) : (k+1)*len(families)/len(replicas)]
		all.Go(func() {
			l := load(b, d.URL(), len(mine), 3*time.Second, func(i int, w *e2e.Wire) error { return refreshOver(w, mine[i]) })
			mu.Lock()
			defer mu.Unlock()
			sum.took, sum.over = append(sum.took, l.took...), max(sum.over, l.over)
		})
	}
	all.Wait()
	return sum
}

// pgbench is PostgreSQL's own benchmark, with the statement of a rotation and a table of
// rows like those of refreshed grants.
type pgbench struct{ at, script string }

// benchRows is the number of rows among which pgbench chooses.
const benchRows = 10_000

func newPgbench(b *testing.B, at string) pgbench {
	e2e.Need(b, "pgbench")
	pgtest.Exec(b, at, fmt.Sprintf(`INSERT INTO signet.grants (id, gen, rotated_at, revoked_at, sub, client_hash, client_name, consent_hash, scope, resource, created_at, expires_at)
		SELECT 'zzzzzzzzzzzzzzzzzzzzzzzzzz' || i, 1, 0, 0, 'user' || i, repeat('c', 22), 'Claude Code', repeat('h', 43), 'read write', 'https://mcp.example.com/mcp', 0, 4102444800 FROM generate_series(1, %d) AS i`, benchRows))
	script := filepath.Join(b.TempDir(), "rotate.sql")
	text := fmt.Sprintf("\\set i random(1, %d)\nUPDATE signet.grants SET gen = gen + 1, rotated_at = :i WHERE id = 'zzzzzzzzzzzzzzzzzzzzzzzzzz' || :i;\n", benchRows)
	if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	return pgbench{at, script}
}

var (
	pgbenchRate  = regexp.MustCompile(`tps = ([0-9.]+) \(without`)
	pgbenchCount = regexp.MustCompile(`actually processed: ([0-9]+)`)
)

// run updates rows over 64 connections without a pause, for as long as refreshesOf.
func (p pgbench) run(b *testing.B) (rate float64, count int) {
	out, err := exec.Command("pgbench", "--no-vacuum", "--client=64", "--jobs=2", "--protocol=prepared", "--time=3", "--file="+p.script, p.at).CombinedOutput()
	if err != nil {
		b.Fatalf("pgbench: %v\n%s", err, out)
	}
	r, n := pgbenchRate.FindSubmatch(out), pgbenchCount.FindSubmatch(out)
	if r == nil || n == nil {
		b.Fatalf("pgbench says\n%s", out)
	}
	rate, _ = strconv.ParseFloat(string(r[1]), 64)
	count, _ = strconv.Atoi(string(n[1]))
	return rate, count
}

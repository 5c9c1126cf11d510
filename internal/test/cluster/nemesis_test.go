package cluster_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"signet/internal/test/cluster"
	"signet/internal/test/pgtest"
)

// killEvery is the interval between kills.
const killEvery = 15 * time.Second

// nemesis breaks a cluster while clients use it.
type nemesis struct {
	*run
	seed    uint64
	random  *rand.Rand
	proxies map[string]*pgtest.Proxy // proxies between replicas and the database
	outage  func(n int) time.Duration

	choosing sync.Mutex // guards random
	mu       sync.Mutex // held while a replica is down on purpose
	said     sync.Mutex // guards log
	log      []string
	began    time.Time
	kills    atomic.Int64
	restarts atomic.Int64
	outages  atomic.Int64
	pauses   atomic.Int64
	cuts     atomic.Int64
	rotated  atomic.Int64
}

// proxied returns options with a proxy between each auth replica and the database.
func proxied(t *testing.T, o cluster.Options) (cluster.Options, map[string]*pgtest.Proxy) {
	proxies := map[string]*pgtest.Proxy{}
	o.Store = func(replica, url string) string {
		proxies[replica] = pgtest.NewProxy(t, url)
		return proxies[replica].URL
	}
	return o, proxies
}

func (n *nemesis) say(format string, args ...any) {
	n.said.Lock()
	defer n.said.Unlock()
	n.log = append(n.log, fmt.Sprintf("%6.1fs  %s", time.Since(n.began).Seconds(), fmt.Sprintf(format, args...)))
}

// rage disturbs the cluster until ctx ends: one fault after the other in random order,
// and beside them a kill of a replica now and then. When it returns, all processes run
// again.
func (n *nemesis) rage(ctx context.Context) {
	n.began = time.Now()
	order := rand.New(rand.NewPCG(n.seed, 1))
	var all sync.WaitGroup
	all.Go(func() {
		for sleep(ctx, killEvery/2); ctx.Err() == nil; sleep(ctx, killEvery) {
			n.kill()
		}
	})
	all.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			acts := []func(context.Context, int){n.roll, n.database, n.pause, n.rotate, n.reset, n.database, n.partition}
			for _, j := range order.Perm(len(acts)) {
				sleep(ctx, 3*time.Second)
				if ctx.Err() == nil {
					acts[j](ctx, i)
				}
			}
		}
	})
	all.Wait()
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (n *nemesis) pick(list []*cluster.Replica) *cluster.Replica {
	n.choosing.Lock()
	defer n.choosing.Unlock()
	return list[n.random.IntN(len(list))]
}

// failed records an error of an action that must succeed.
func (n *nemesis) failed(what string, err error) {
	if err != nil {
		n.breach("nemesis: %s: %v", what, err)
	}
}

// kill kills a replica and starts it again.
func (n *nemesis) kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	defer n.disturb()()
	r := n.pick(n.c.Replicas())
	n.say("kill %s", r.Name)
	n.failed("kill", r.Kill())
	n.kills.Add(1)
	time.Sleep(time.Second)
	n.failed("start", r.Start(context.Background()))
}

// roll restarts all replicas, one of each role at a time, as a deployment does.
func (n *nemesis) roll(ctx context.Context, _ int) {
	n.say("rolling restart")
	var roles sync.WaitGroup
	for _, role := range [][]*cluster.Replica{n.c.Auth, n.c.MCP} {
		roles.Go(func() {
			for _, r := range role {
				if ctx.Err() == nil {
					n.restart(r)
				}
			}
		})
	}
	roles.Wait()
}

func (n *nemesis) restart(r *cluster.Replica) {
	n.mu.Lock() // no kill in the meantime
	defer n.mu.Unlock()
	n.failed("restart", r.Restart(context.Background()))
	n.restarts.Add(1)
}

// database stops PostgreSQL for a while.
func (n *nemesis) database(_ context.Context, i int) {
	defer n.disturb()()
	d := n.outage(i)
	n.say("PostgreSQL stops for %s", d)
	n.failed("stopping PostgreSQL", n.c.Postgres.Stop())
	time.Sleep(d)
	n.failed("starting PostgreSQL", n.c.Postgres.Start())
	n.outages.Add(1)
}

// pause pauses an auth replica and lets it go on.
func (n *nemesis) pause(context.Context, int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	defer n.disturb()()
	r := n.pick(n.c.Auth)
	n.say("pause %s", r.Name)
	n.failed("pause", r.Pause())
	time.Sleep(n.stall())
	n.failed("resume", r.Resume())
	n.pauses.Add(1)
}

// rotate brings the next signing key forward.
func (n *nemesis) rotate(context.Context, int) {
	out, err := n.c.Command(context.Background(), "key", "rotate").CombinedOutput()
	if err != nil {
		n.failed("signet key rotate", fmt.Errorf("%w: %s", err, out))
		return
	}
	n.say("signet key rotate: %s", strings.TrimSpace(string(out)))
	n.rotated.Add(1)
}

// reset breaks off the connections of an auth replica to the database.
func (n *nemesis) reset(context.Context, int) { n.cut(pgtest.Reset, 200*time.Millisecond) }

// partition cuts an auth replica off from the database, without closing connections.
func (n *nemesis) partition(context.Context, int) { n.cut(pgtest.Stall, n.stall()) }

// stall is how long a connection or process may hang. A request that hangs for longer
// than the window is late: if it was sent twice, it is rightly taken for reuse.
func (n *nemesis) stall() time.Duration { return min(4*time.Second, n.window/4) }

func (n *nemesis) cut(how pgtest.Mode, d time.Duration) {
	defer n.disturb()()
	r := n.pick(n.c.Auth)
	n.say("cut %s off from the database for %s (%s)", r.Name, d, map[pgtest.Mode]string{pgtest.Reset: "reset", pgtest.Stall: "stalled"}[how])
	n.proxies[r.Name].Set(how)
	time.Sleep(d)
	n.proxies[r.Name].Set(pgtest.Pass)
	n.cuts.Add(1)
}

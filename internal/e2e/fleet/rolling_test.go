package fleet

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"signet/internal/e2e"
	"signet/internal/seal"
	"signet/internal/test/pgtest"
)

// prober is a load balancer that asks each backend for its readiness, and distributes
// requests among the ready ones.
type prober struct {
	*httptest.Server
	backends []*backend
	next     atomic.Uint64
}

type backend struct {
	url   string
	proxy *httputil.ReverseProxy
	ready atomic.Bool
}

const probeEvery = 50 * time.Millisecond // forty times in a drain

func startProber(t *testing.T, l net.Listener, urls ...string) *prober {
	p := &prober{}
	transport := &http.Transport{MaxIdleConnsPerHost: 200}
	for _, u := range urls {
		to, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		b := &backend{url: u, proxy: &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host }}}
		b.proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, err error) {
			t.Logf("%s: %v", u, err)
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
		p.backends = append(p.backends, b)
	}
	p.Server = &httptest.Server{Listener: l, Config: &http.Server{Handler: p}}
	p.Start()
	stop := make(chan struct{})
	var probes sync.WaitGroup
	for _, b := range p.backends {
		probes.Go(func() {
			for {
				resp, err := http.Get(b.url + "/readyz")
				b.ready.Store(err == nil && resp.StatusCode == http.StatusOK)
				if err == nil {
					resp.Body.Close()
				}
				select {
				case <-stop:
					return
				case <-time.After(probeEvery):
				}
			}
		})
	}
	t.Cleanup(func() { close(stop); probes.Wait(); p.Close(); transport.CloseIdleConnections() })
	return p
}

func (p *prober) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	first := p.next.Add(1)
	for i := range uint64(len(p.backends)) {
		if b := p.backends[(first+i)%uint64(len(p.backends))]; b.ready.Load() {
			b.proxy.ServeHTTP(w, r)
			return
		}
	}
	http.Error(w, "no backend is ready", http.StatusBadGateway)
}

// Replicas are restarted one after the other, again and again, while clients refresh:
// no request fails, and no refresh is taken for reuse.
func TestRollingRestartFailsNoRequest_INV6_INV21(t *testing.T) {
	restarts := 20
	if testing.Short() {
		restarts = 4
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	issuer := "http://" + l.Addr().String()
	settings := []string{"SIGNET_ISSUER=" + issuer, "SIGNET_STORE=" + pgtest.URL(t), "SIGNET_SECRET=" + seal.NewSecret(), "SIGNET_LOG_LEVEL=info", "SIGNET_DRAIN_DELAY=2s", e2e.WideLimits}
	one := e2e.Start(t, settings, "--demo")
	two := one.Beside()
	two.Start()
	proxy := startProber(t, l, one.URL(), two.URL())
	one.Issuer = issuer
	ready := func(b *backend, want bool) { e2e.Eventually(t, func() bool { return b.ready.Load() == want }) }
	for _, b := range proxy.backends {
		ready(b, true)
	}
	families := make([]*e2e.Refreshing, 25)
	for i := range families {
		client, tok := one.Login()
		families[i] = &e2e.Refreshing{Client: client.ID, Handle: tok.RefreshToken}
	}
	var stop atomic.Bool
	loaded := make(chan e2e.Seen)
	go func() {
		var all e2e.Seen
		for !stop.Load() {
			s := e2e.Schedule{Rate: 500, Connections: len(families), Lasts: time.Second, Send: func(i int, c *e2e.Wire) (int, error) { return families[i].Send(c) }}
			all.Add(s.Run(t, issuer))
		}
		loaded <- all
	}()
	for n := range restarts {
		d := []*e2e.Program{one, two}[n%2]
		if status := d.Stop(); status != 0 {
			t.Errorf("restart %d: exit status %d", n+1, status)
		}
		d.Start()
		ready(proxy.backends[n%2], true)
	}
	stop.Store(true)
	all := <-loaded
	t.Logf("%d restarts: %d answered, %d refused, p99 %v, %d not sent", restarts, len(all.Good), len(all.Refused), e2e.Percentile(all.Good, 99), all.Skipped)
	if all.Failures > 0 || len(all.Refused) > 0 || len(all.Good) < 100*restarts {
		t.Errorf("%d failed, the first with %v; %d were refused, %d answered", all.Failures, all.Failed, len(all.Refused), len(all.Good))
	}
}

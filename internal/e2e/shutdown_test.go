package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"signet/internal/seal"
	"signet/internal/test/pgtest"
)

// prober is a load balancer that asks each backend for its readiness, and gives
// requests in turn to those that are ready.
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

// INV6, INV21: replicas are restarted one after the other, again and again, while
// clients refresh: no request fails, and no client is taken for a thief.
func TestINV6_INV21_RollingRestart(t *testing.T) {
	restarts := 20
	if testing.Short() {
		restarts = 4
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	issuer := "http://" + l.Addr().String()
	settings := []string{"SIGNET_ISSUER=" + issuer, "SIGNET_STORE=" + pgtest.URL(t), "SIGNET_SECRET=" + seal.NewSecret(), "SIGNET_LOG_LEVEL=info", "SIGNET_DRAIN_DELAY=2s", wideLimits}
	one := startDaemon(t, settings, "--demo")
	two := one.beside()
	two.start()
	proxy := startProber(t, l, one.listen(), two.listen())
	one.issuer = issuer
	ready := func(b *backend, want bool) { eventually(t, func() bool { return b.ready.Load() == want }) }
	for _, b := range proxy.backends {
		ready(b, true)
	}
	families := make([]*refreshing, 25)
	for i := range families {
		client, tok := one.login()
		families[i] = &refreshing{client: client.ClientID, handle: tok.RefreshToken}
	}
	var stop atomic.Bool
	loaded := make(chan seen)
	go func() {
		var all seen
		for !stop.Load() {
			s := schedule{rate: 500, connections: len(families), lasts: time.Second, send: func(i int, c *wire) (int, error) { return families[i].send(c) }}
			all.add(s.run(t, issuer))
		}
		loaded <- all
	}()
	for n := range restarts {
		d := []*daemon{one, two}[n%2]
		if status := d.stop(); status != 0 {
			t.Errorf("restart %d: exit status %d", n+1, status)
		}
		d.start()
		ready(proxy.backends[n%2], true)
	}
	stop.Store(true)
	all := <-loaded
	t.Logf("%d restarts: %d answered, %d refused, p99 %v, %d not sent", restarts, len(all.good), len(all.refused), percentile(all.good, 99), all.skipped)
	if all.failures > 0 || len(all.refused) > 0 || len(all.good) < 100*restarts {
		t.Errorf("%d failed, the first with %v; %d were refused, %d answered", all.failures, all.failed, len(all.refused), len(all.good))
	}
}

// A stream that would last for hours ends with the server: cleanly, and without
// making the stop wait.
func TestStopEndsStreams(t *testing.T) {
	d := startDaemon(t, nil, "--demo")
	_, tok := d.login()
	r, err := http.NewRequest("POST", d.issuer+"/mcp", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},`+
		`"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"Authorization": "Bearer " + tok.AccessToken, "Content-Type": "application/json", "Accept": "application/json, text/event-stream",
		"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "subscriptions/listen",
	} {
		r.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("listening: %v, %v", resp, err)
	}
	defer resp.Body.Close()
	stream := bufio.NewReader(resp.Body)
	if _, err := stream.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if status := d.stop(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the stop took %v", took)
	}
	if _, err := io.ReadAll(stream); err != nil {
		t.Errorf("the stream broke off: %v", err)
	}
}

// Who does not want to wait for the requests in hand sends the signal again.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	d := startDaemon(t, nil, "--demo")
	c, err := net.Dial("tcp", strings.TrimPrefix(d.listen(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "POST /token HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 9\r\n\r\n") // and no more: 15 s
	d.p.Signal(syscall.SIGTERM)
	eventually(t, func() bool { return strings.Contains(d.output(), `"msg":"stopping"`) })
	begin := time.Now()
	d.p.Signal(syscall.SIGTERM)
	if status, took := d.p.Status(), time.Since(begin); status != exitFailed || took > 5*time.Second {
		t.Errorf("exit status %d after %v, want %d at once", status, took, exitFailed)
	}
}

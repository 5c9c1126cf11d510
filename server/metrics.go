package server

import (
	"log/slog"
	"maps"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"signet/internal/admission"
	"signet/internal/oauth"
)

// metrics counts requests. Labels are routes and status codes, never a user, a client or a
// path from the request, so their number is bounded.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec

	issued, refreshes, logins, upstream *prometheus.CounterVec

	messages       *prometheus.CounterVec   // of the gateway's servers
	messageSeconds *prometheus.HistogramVec // of the gateway's servers
	connections    *prometheus.CounterVec   // refreshes for the gateway

	// series are found here without their labels, which take longer. A new one replaces the map.
	series  atomic.Pointer[map[answer]*series]
	growing sync.Mutex
}

// answer is a route and the status code of an answer.
type answer struct {
	route  string
	status int
}

// series counts the answers of one kind.
type series struct {
	requests prometheus.Counter
	seconds  prometheus.Observer
}

// observe counts one answer.
func (m *metrics) observe(a answer, took time.Duration) {
	s := (*m.series.Load())[a]
	if s == nil {
		s = m.add(a)
	}
	s.requests.Inc()
	s.seconds.Observe(took.Seconds())
}

// add returns the series of a kind of answers that was not counted before.
func (m *metrics) add(a answer) *series {
	m.growing.Lock()
	defer m.growing.Unlock()
	all := maps.Clone(*m.series.Load())
	s := &series{m.requests.WithLabelValues(a.route, strconv.Itoa(a.status)), m.seconds.WithLabelValues(a.route)}
	all[a] = s
	m.series.Store(&all)
	return s
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signet_http_requests_total", Help: "Requests answered, by route and status code.",
		}, []string{"route", "code"}),
		issued: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signet_access_tokens_total", Help: "Access tokens issued, by grant type.",
		}, []string{"grant"}),
		refreshes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signet_refreshes_total", Help: "Refreshes by outcome: ok, refused, throttled, failed, reused, rolled_back.",
		}, []string{"outcome"}),
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signet_logins_total", Help: "Logins by outcome: ok, refused (wrong name or password), throttled, failed.",
		}, []string{"outcome"}),
		upstream: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signet_upstream_refreshes_total", Help: "Refreshes at the providers by which users sign in, by outcome: ok, refused, failed.",
		}, []string{"outcome"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "signet_http_request_seconds", Help: "Time to answer, by route.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
		}, []string{"route"}),
	}
	m.series.Store(&map[answer]*series{})
	m.messages = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "signet_gateway_messages_total", Help: "Messages to the servers behind the gateway, by server and outcome: ok, unauthorized, open, busy, down, malformed, disabled.",
	}, []string{"server", "outcome"})
	m.messageSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "signet_gateway_message_seconds", Help: "Time until a server behind the gateway has answered, by server.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
	}, []string{"server"})
	m.connections = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "signet_gateway_refreshes_total", Help: "Requests to providers for tokens of the gateway's connections, by connection and outcome: ok, refused, failed.",
	}, []string{"connection", "outcome"})
	m.registry.MustRegister(m.connections, m.messages, m.messageSeconds, m.requests, m.seconds, m.issued, m.refreshes, m.logins, m.upstream, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// gauge publishes a number.
func (m *metrics) gauge(name, help string, value func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
}

// observeServer counts a message to a server behind the gateway. Both labels come from the
// configuration and from this program.
func (m *metrics) observeServer(server, outcome string, took time.Duration) {
	m.messages.WithLabelValues(server, outcome).Inc()
	m.messageSeconds.WithLabelValues(server).Observe(took.Seconds())
}

// countConnection counts a request for a token of a connection, see [handlers.Options].
func (m *metrics) countConnection(connection, outcome string) {
	m.connections.WithLabelValues(connection, outcome).Inc()
}

// count counts an event of the audit log, see [handlers.Options].
func (m *metrics) count(event, outcome string) {
	switch event {
	case "login":
		m.logins.WithLabelValues(outcome).Inc()
	case "token":
		if outcome == "ok" {
			m.issued.WithLabelValues(oauth.GrantAuthorizationCode).Inc()
		}
	case "refresh":
		m.refreshes.WithLabelValues(outcome).Inc()
		if outcome == "ok" {
			m.issued.WithLabelValues(oauth.GrantRefreshToken).Inc()
		}
	case "upstream_refresh":
		m.upstream.WithLabelValues(outcome).Inc()
	case "refresh_reuse":
		m.refreshes.WithLabelValues("reused").Inc()
	case "refresh_rollback":
		m.refreshes.WithLabelValues("rolled_back").Inc()
	}
}

// publishClasses publishes the numbers of each class of requests.
func (m *metrics) publishClasses(classes *admission.Classes) {
	for _, c := range classes.All() {
		labels := prometheus.Labels{"class": c.Stats().Class}
		counter := func(name, help string, value func(admission.Stats) float64) {
			m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 { return value(c.Stats()) }))
		}
		gauge := func(name, help string, value func(admission.Stats) float64) {
			m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 { return value(c.Stats()) }))
		}
		counter("signet_requests_admitted_total", "Requests that got a slot, by class.", func(s admission.Stats) float64 { return float64(s.Admitted) })
		counter("signet_requests_shed_total", "Requests refused with 503 because of overload, by class.", func(s admission.Stats) float64 { return float64(s.Refused) })
		gauge("signet_requests_running", "Requests that hold a slot, by class.", func(s admission.Stats) float64 { return float64(s.Running) })
		gauge("signet_requests_waiting", "Requests waiting for a slot, by class.", func(s admission.Stats) float64 { return float64(s.Waiting) })
	}
}

// handler serves metrics, pprof and the management API of the gateway, which must not be on the
// public listener.
func (m *metrics) handler(listen string, admin http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/gateway/", admin)
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !operatorsHost(oauth.Hostname(r.Host), listen) {
			http.Error(w, "this host is not served here; SIGNET_METRICS_LISTEN may name it", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// operatorsHost reports whether host is a name of a listener for operators. A page in the
// operator's browser must not read it under a name of the page's own that was rebound to
// this machine, so a name must be one that the internet cannot give: an address, a name
// without a dot or below a private domain, or the name in the setting. On loopback there is
// only localhost.
func operatorsHost(host, listen string) bool {
	if _, err := netip.ParseAddr(host); err == nil || oauth.IsLoopbackHost(host) {
		return true
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	configured := strings.ToLower(oauth.Hostname(listen))
	if host != "" && host == configured {
		return true
	}
	if address, err := netip.ParseAddr(configured); err == nil && address.IsLoopback() || oauth.IsLoopbackHost(configured) {
		return false
	}
	private := func(domain string) bool { return strings.HasSuffix(host, domain) }
	return host != "" && !strings.Contains(host, ".") || slices.ContainsFunc([]string{".local", ".internal", ".svc", ".lan", ".home.arpa", ".test", ".localhost"}, private)
}

// measure counts the request and writes a line of access log at level debug, without the
// query, which may contain a code.
func (s *Server) measure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		ww := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		next.ServeHTTP(ww, r)
		took, route, status := time.Since(begin), routeOf(r), max(ww.Status(), http.StatusOK)
		s.metrics.observe(answer{route, status}, took)
		if s.o.Log.Enabled(r.Context(), slog.LevelDebug) {
			s.o.Log.LogAttrs(r.Context(), slog.LevelDebug, "request", slog.String("method", r.Method), slog.String("route", route), slog.Int("status", status),
				slog.Int64("ms", took.Milliseconds()))
		}
	})
}

func routeOf(r *http.Request) string {
	if route := chi.RouteContext(r.Context()).RoutePattern(); route != "" {
		return route
	}
	return "none"
}

package server

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"

	"signet/internal/backend"
	"signet/mcp/gateway"
)

// operated is a [gateway.Gateway], as operators use it.
type operated interface {
	State() []backend.State
	Enable(id string, on bool) error
	Restart(ctx context.Context, id string) error
	Check(ctx context.Context, id string) error
}

// adminFailure is the answer of the management API to a request that it refuses, or that failed.
type adminFailure struct {
	Error string `json:"error"`
}

// gatewayAdmin serves the management API of the gateway below /gateway/, to callers on this machine
// only: it stands on a listener on which nothing asks for a credential. Its answers contain no
// secret.
//
//	GET  /gateway/servers                                      {"servers": [state, ...]}
//	POST /gateway/servers/{id}/enable|disable|restart|check    the state after that
//
// A restart or a check that fails is answered with 502 and {"error": why}.
func gatewayAdmin(g operated) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /gateway/servers", func(w http.ResponseWriter, _ *http.Request) {
		states := g.State()
		if states == nil {
			states = []backend.State{}
		}
		writeJSON(w, http.StatusOK, map[string][]backend.State{"servers": states})
	})
	for name, act := range map[string]func(ctx context.Context, id string) error{
		"enable":  func(_ context.Context, id string) error { return g.Enable(id, true) },
		"disable": func(_ context.Context, id string) error { return g.Enable(id, false) },
		"restart": g.Restart,
		"check":   g.Check,
	} {
		mux.HandleFunc("POST /gateway/servers/{id}/"+name, func(w http.ResponseWriter, r *http.Request) {
			id := r.PathValue("id")
			err := act(r.Context(), id)
			switch {
			case errors.Is(err, gateway.ErrUnknown):
				writeJSON(w, http.StatusNotFound, adminFailure{fmt.Sprintf("there is no server %q", id)})
			case err != nil:
				writeJSON(w, http.StatusBadGateway, adminFailure{err.Error()})
			default:
				writeState(w, g, id)
			}
		})
	}
	return forOperators(mux)
}

func writeState(w http.ResponseWriter, g operated, id string) {
	for _, s := range g.State() {
		if s.ID == id {
			writeJSON(w, http.StatusOK, s)
			return
		}
	}
	writeJSON(w, http.StatusNotFound, adminFailure{fmt.Sprintf("there is no server %q any more", id)}) // the configuration has changed meanwhile
}

// forOperators refuses callers on other machines, and what a page of another site could send by a
// browser of this machine.
func forOperators(next http.Handler) http.Handler {
	browsers := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil || !caller.Addr().Unmap().IsLoopback() {
			writeJSON(w, http.StatusForbidden, adminFailure{"the management API is only for programs on this machine"})
			return
		}
		if err := browsers.Check(r); err != nil {
			writeJSON(w, http.StatusForbidden, adminFailure{err.Error()})
			return
		}
		// A page of another site can send a form, but not JSON unless it is let.
		if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); r.Method == http.MethodPost && kind != "application/json" {
			writeJSON(w, http.StatusUnsupportedMediaType, adminFailure{"a POST needs Content-Type: application/json"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// noGateway answers in place of the management API if there is no gateway in this process.
func noGateway(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusNotFound, adminFailure{"there is no gateway in this process"})
}

// serverCollector publishes the states of the servers behind the gateway. Its labels are ids and
// addresses of the configuration.
type serverCollector struct{ gateway operated }

var (
	serverUp = prometheus.NewDesc("signet_gateway_server_up", "1 if an instance of the server answers, 0 if none does, or if the server is disabled.", []string{"server"}, nil)
	breaker  = prometheus.NewDesc("signet_gateway_breaker_state", "State of the circuit breaker of an instance: 0 closed, 1 half-open, 2 open.", []string{"server", "address"}, nil)
)

func (serverCollector) Describe(c chan<- *prometheus.Desc) {
	c <- serverUp
	c <- breaker
}

func (s serverCollector) Collect(c chan<- prometheus.Metric) {
	states := map[string]float64{"half-open": 1, "open": 2}
	for _, server := range s.gateway.State() {
		up := 0.0
		if server.Status == "running" {
			up = 1
		}
		c <- prometheus.MustNewConstMetric(serverUp, prometheus.GaugeValue, up, server.ID)
		worst := map[string]float64{} // two instances may be the same program
		for _, i := range server.Instance {
			worst[i.Address] = max(worst[i.Address], states[i.Breaker])
		}
		for address, state := range worst {
			c <- prometheus.MustNewConstMetric(breaker, prometheus.GaugeValue, state, server.ID, address)
		}
	}
}

// Gateway serves three MCP servers at one endpoint: a program from npm, a server of one's own, and
// one with a login of its own at a provider. It starts them all, and stands in for the provider.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"signet/internal/test/upstreamtest"
	"signet/server"
	"signet/users"
)

// check is a placeholder for your own check. Both users have an account of the same name at the
// provider, with the same password.
func check(_ context.Context, name, password string) (users.User, error) {
	switch {
	case name == "alice" && password == "cows":
		return users.User{Subject: "1", Name: name, Scopes: []string{"read", "write"}}, nil
	case name == "bob" && password == "bulls":
		return users.User{Subject: "2", Name: name, Scopes: []string{"read"}}, nil
	}
	return users.User{}, users.ErrInvalid
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	issuer := cmp.Or(os.Getenv("SIGNET_ISSUER"), "http://localhost:8080")
	variables, err := startServers(ctx, issuer)
	if err != nil {
		return err
	}
	srv, err := server.New(server.Options{
		App: "Gateway", Check: check, Issuer: issuer, Listen: os.Getenv("SIGNET_LISTEN"),
		Gateway: server.Gateway{
			Config:  cmp.Or(os.Getenv("SIGNET_GATEWAY_CONFIG"), "examples/gateway/gateway.yaml"),
			Environ: func(name string) (string, bool) { value, ok := variables[name]; return value, ok },
		},
		Log: slog.Default(),
	})
	if err != nil {
		return err
	}
	fmt.Printf("%s/mcp serves the tools; the users are alice (password cows) and bob (bulls), also at the provider\n", issuer)
	return srv.ListenAndServe(ctx)
}

// startServers starts the servers and the provider, and returns the variables of gateway.yaml.
func startServers(ctx context.Context, issuer string) (map[string]string, error) {
	provider, err := upstreamtest.Start(upstreamtest.Options{
		Manner: upstreamtest.Strict, ClientID: "signet-at-tickets", RedirectURIs: []string{strings.TrimSuffix(issuer, "/") + "/oauth/callback"},
		Users: map[string]upstreamtest.User{"alice": {Password: "cows", ID: "71"}, "bob": {Password: "bulls", ID: "72"}},
	})
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, provider.Down)
	calendar, calendarErr := startCalendar(ctx, issuer)
	tickets, ticketsErr := startTickets(ctx, provider)
	return map[string]string{
		"CALENDAR_URL": calendar,
		"TICKETS_URL":  tickets, "TICKETS_ISSUER": provider.Issuer(), "TICKETS_CLIENT_ID": provider.ClientID(), "TICKETS_CLIENT_SECRET": provider.ClientSecret(),
	}, errors.Join(calendarErr, ticketsErr)
}

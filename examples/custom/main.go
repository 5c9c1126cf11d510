// Custom is a program with its own HTTP server. Signet is a handler in its mux, with
// custom settings and scopes, and one tool for administrators.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/mcp"
	"signet/server"
	"signet/users"
)

func check(_ context.Context, name, password string) (users.User, error) {
	switch {
	case name == "alice" && password == "cows":
		return users.User{Subject: "1", Name: name, Scopes: []string{"read"}}, nil
	case name == "root" && password == "wheels":
		return users.User{Subject: "0", Name: name, Scopes: []string{"read", "admin"}}, nil
	}
	return users.User{}, users.ErrInvalid
}

func adminAction(ctx context.Context, _ *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, any, error) {
	caller, _ := mcp.Caller(ctx)
	return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "Done for user " + caller.Subject}}}, nil, nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	level := slog.LevelInfo
	if os.Getenv("DEBUG") != "" {
		level = slog.LevelDebug
	}
	srv, err := server.New(server.Options{
		App: "Custom", Check: check,
		Issuer:         cmp.Or(os.Getenv("SIGNET_ISSUER"), "http://localhost:8000"),
		DataDir:        "custom-data",
		Store:          "custom-data/custom.db",
		Scopes:         []string{"read", "admin"}, // all scopes that exist
		DefaultScopes:  []string{"read"},          // if a client requests none
		RequiredScopes: []string{"read"},          // for every MCP request
		Lives:          server.Lives{Access: 10 * time.Minute, Refresh: 30 * 24 * time.Hour},
		Log:            slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
	})
	if err != nil {
		return err
	}
	defer srv.Close()

	srv.Require("admin_action", "admin")
	sdk.AddTool(srv.MCP, &sdk.Tool{Name: "admin_action", Description: "Something that only administrators may do"}, adminAction)

	mux := http.NewServeMux()
	mux.HandleFunc("GET /about", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "This page is the program's own.") })
	mux.Handle("/", srv.Handler())

	web := &http.Server{Addr: cmp.Or(os.Getenv("SIGNET_LISTEN"), "127.0.0.1:8000"), Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { web.Close() })
	if err := web.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

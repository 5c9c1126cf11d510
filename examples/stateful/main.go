// Stateful is an MCP server that puts the go-sdk's sessions behind Signet's guard:
// streamable HTTP at /mcp, and the older SSE transport at /sse. It holds no secret.
// Its tokens come from the Signet at SIGNET_ISSUER, whose SIGNET_RESOURCES must name
// both URLs.
//
// Sessions tie a client to one process. Signet's own endpoint has no sessions, so any
// replica can serve any request. Use sessions only for servers that push messages.
package main

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/jwt"
	"signet/mcp"
)

func whoami(ctx context.Context, _ *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, any, error) {
	caller, _ := mcp.Caller(ctx)
	return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "You are " + caller.Subject}}}, nil, nil
}

func wipe(context.Context, *sdk.CallToolRequest, struct{}) (*sdk.CallToolResult, any, error) {
	return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "Wiped"}}}, nil, nil
}

func newServer(log *slog.Logger) *sdk.Server {
	var access mcp.Access
	s := mcp.NewServer("stateful", "1")
	access.Require("wipe", "admin")
	sdk.AddTool(s, &sdk.Tool{Name: "whoami", Description: "Tell which user is calling"}, whoami)
	sdk.AddTool(s, &sdk.Tool{Name: "wipe", Description: "Needs the scope admin"}, wipe)
	s.AddReceivingMiddleware(access.Middleware)
	s.AddReceivingMiddleware(mcp.Contain(log)) // last, so that it covers the middleware before it
	return s
}

// perUser gives every user a separate handler, and so separate sessions. The SDK's SSE
// handler lets any user who knows the id of a session write into it as its owner.
func perUser(s *sdk.Server) http.Handler {
	var handlers sync.Map // by subject; grows with the number of users
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, _ := mcp.Caller(r.Context())
		h, _ := handlers.LoadOrStore(caller.Subject, sdk.NewSSEHandler(func(*http.Request) *sdk.Server { return s }, &sdk.SSEOptions{DisableLocalhostProtection: true}))
		h.(http.Handler).ServeHTTP(w, r)
	})
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	issuer, base := os.Getenv("SIGNET_ISSUER"), os.Getenv("BASE_URL") // such as https://mcp.example.com
	keys := jwt.NewRemoteKeys(issuer+"/.well-known/jwks.json", nil)
	s := newServer(logger)
	mux := http.NewServeMux()
	for path, next := range map[string]http.Handler{
		"/mcp": sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return s }, &sdk.StreamableHTTPOptions{DisableLocalhostProtection: true}),
		"/sse": perUser(s),
	} {
		resource := base + path
		verifier, err := jwt.NewVerifier(jwt.VerifierOptions{Issuer: issuer, Audiences: []string{resource}, Keys: keys})
		if err != nil {
			log.Fatal(err)
		}
		o := mcp.Options{Resource: resource, Issuer: issuer, Name: "Stateful", Verifier: verifier, Challenge: []string{"read"}, Scopes: []string{"read"}, Log: logger}
		mux.Handle(path, mcp.Guard(o, next))
		mux.Handle("/.well-known/oauth-protected-resource"+path, mcp.Metadata(o))
	}
	web := &http.Server{Addr: os.Getenv("LISTEN"), Handler: mux, ReadHeaderTimeout: 5 * time.Second} // no WriteTimeout: it would cut streams
	context.AfterFunc(ctx, func() { web.Close() })
	if err := web.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}

package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/internal/test/upstreamtest"
	"signet/jwt"
	"signet/mcp"
)

// serve serves a handler at a free port until ctx ends. New is given the URL.
func serve(ctx context.Context, newHandler func(url string) (http.Handler, error)) (url string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	url = "http://" + l.Addr().String() + "/mcp"
	h, err := newHandler(url)
	if err != nil {
		l.Close()
		return "", err
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { s.Close() })
	go s.Serve(l)
	return url, nil
}

func text(format string, args ...any) *sdk.CallToolResult {
	return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: fmt.Sprintf(format, args...)}}}
}

// startCalendar starts a server that verifies Signet's tokens, as any resource server does. Only
// tokens for its own URL count.
func startCalendar(ctx context.Context, issuer string) (url string, err error) {
	return serve(ctx, func(url string) (http.Handler, error) {
		verifier, err := jwt.NewVerifier(jwt.VerifierOptions{Issuer: issuer, Audiences: []string{url}, Keys: jwt.NewRemoteKeys(issuer+"/.well-known/jwks.json", nil)})
		if err != nil {
			return nil, err
		}
		s := mcp.NewServer("calendar", "1")
		sdk.AddTool(s, &sdk.Tool{Name: "whose", Description: "Says whose calendar it is"}, func(ctx context.Context, _ *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, any, error) {
			caller, _ := mcp.Caller(ctx)
			return text("the calendar of user %s, asked by %s", caller.Subject, caller.ClientID), nil, nil
		})
		return mcp.Handler(mcp.Options{Resource: url, Issuer: issuer, Verifier: verifier, Server: s})
	})
}

// startTickets starts a server that takes the access tokens of a provider, at which its users have
// accounts.
func startTickets(ctx context.Context, provider *upstreamtest.Provider) (url string, err error) {
	s := sdk.NewServer(&sdk.Implementation{Name: "tickets", Version: "1"}, nil)
	sdk.AddTool(s, &sdk.Tool{Name: "mine", Description: "Says whose tickets they are"}, func(_ context.Context, r *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, any, error) {
		return text("the tickets of %s", provider.Owner(bearer(r.Extra.Header))), nil, nil
	})
	return serve(ctx, func(string) (http.Handler, error) {
		return only(s, func(h http.Header) bool { return provider.Owner(bearer(h)) != "" }), nil
	})
}

func bearer(h http.Header) string {
	token, _ := strings.CutPrefix(h.Get("Authorization"), "Bearer ")
	return token
}

// only serves s to requests whose headers are accepted.
func only(s *sdk.Server, accept func(http.Header) bool) http.Handler {
	next := sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return s }, &sdk.StreamableHTTPOptions{Stateless: true})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !accept(r.Header) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "unauthorized", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

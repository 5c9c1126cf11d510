// Simple is a protected MCP server with two tools and its own password check.
package main

import (
	"context"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/server"
	"signet/users"
)

// check is a placeholder for your own check, which asks a database, a directory or
// another service.
func check(_ context.Context, name, password string) (users.User, error) {
	if name != "alice" || password != "cows" {
		return users.User{}, users.ErrInvalid
	}
	return users.User{Subject: "1", Name: name, Scopes: []string{"read"}}, nil
}

type echoInput struct {
	Message string `json:"message" jsonschema:"what to say back"`
}

func echo(_ context.Context, _ *sdk.CallToolRequest, in echoInput) (*sdk.CallToolResult, any, error) {
	return text("Echo: " + in.Message), nil, nil
}

func getTime(context.Context, *sdk.CallToolRequest, struct{}) (*sdk.CallToolResult, any, error) {
	return text(time.Now().UTC().Format(time.RFC3339)), nil, nil
}

func text(s string) *sdk.CallToolResult {
	return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: s}}}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	srv, err := server.New(server.Options{
		App: "my-app", Check: check,
		Issuer: os.Getenv("SIGNET_ISSUER"), Listen: os.Getenv("SIGNET_LISTEN"), // empty: http://localhost:8080
	})
	if err != nil {
		log.Fatal(err)
	}
	sdk.AddTool(srv.MCP, &sdk.Tool{Name: "echo", Description: "Echo back the message"}, echo)
	sdk.AddTool(srv.MCP, &sdk.Tool{Name: "get_time", Description: "Tell the time"}, getTime)
	if err := srv.ListenAndServe(ctx); err != nil {
		log.Fatal(err)
	}
}

// Simple is a protected MCP server with one tool and a user check of its own.
package main

import (
	"context"
	"log"
	"os"
	"os/signal"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/server"
	"signet/users"
)

// check stands for your own: ask a database, a directory, another service.
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
	return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "Echo: " + in.Message}}}, nil, nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	srv, err := server.New(server.Options{App: "my-app", Check: check})
	if err != nil {
		log.Fatal(err)
	}
	sdk.AddTool(srv.MCP, &sdk.Tool{Name: "echo", Description: "Echo back the message"}, echo)
	if err := srv.ListenAndServe(ctx); err != nil {
		log.Fatal(err)
	}
}

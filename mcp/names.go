package mcp

import (
	"context"
	"slices"

	"github.com/modelcontextprotocol/go-sdk/auth"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// ToolNames returns the names of the tools that server has, also of hidden ones.
func (a *Access) ToolNames(ctx context.Context, server *sdk.Server) (names []string, err error) {
	ctx = context.WithValue(ctx, infoKey{}, &auth.TokenInfo{Scopes: a.allScopes()})
	here, there := sdk.NewInMemoryTransports()
	if _, err := server.Connect(ctx, there, nil); err != nil {
		return nil, err
	}
	session, err := sdk.NewClient(&sdk.Implementation{Name: "signet", Version: "1"}, nil).Connect(ctx, here, nil)
	if err != nil {
		return nil, err
	}
	defer session.Close()
	for tool, err := range session.Tools(ctx, nil) {
		if err != nil {
			return nil, err
		}
		names = append(names, tool.Name)
	}
	return names, nil
}

// Needs returns the scopes that a tool needs besides those that every request needs.
func (a *Access) Needs(tool string) []string { return slices.Clone(a.needed(tool)) }

// allScopes are the scopes that some tool needs.
func (a *Access) allScopes() (scopes []string) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	for _, needed := range a.scopes {
		scopes = union(scopes, needed)
	}
	return scopes
}

package mcp

import (
	"context"
	"slices"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/internal/oauth"
)

// Access says what the tools of a server ask of their callers, beyond what
// every request needs. The zero value asks nothing more. It may be changed while
// the server runs and counts from the next message on, so declare what a tool
// needs before you add the tool. Tools go by the name that the client calls.
//
//	access.Require("admin_action", "admin")
//	sdk.AddTool(server, &sdk.Tool{Name: "admin_action"}, adminAction)
//
// A caller who lacks a scope of a tool does not see it listed, and a call of it
// is answered with the challenge that lets the client ask for the scope.
type Access struct {
	mu     sync.RWMutex
	scopes map[string][]string
	open   map[string]bool
}

// Require makes tool need all of scopes, and those of earlier calls.
func (a *Access) Require(tool string, scopes ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.scopes == nil {
		a.scopes = map[string][]string{}
	}
	a.scopes[tool] = union(a.scopes[tool], scopes)
}

// WithoutLogin lets everybody list and call tools without an access token, but
// for those that need a scope. All others stay as they are, and so does a
// request that comes with a token.
func (a *Access) WithoutLogin(tools ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open == nil {
		a.open = map[string]bool{}
	}
	for _, tool := range tools {
		a.open[tool] = true
	}
}

// Middleware enforces a where the tools are called, whatever serves them, and
// takes from tools/list what the caller may not call. [Handler] adds it to its
// server. One that is served otherwise should be given it before Contain.
func (a *Access) Middleware(next sdk.MethodHandler) sdk.MethodHandler {
	return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
		var info *auth.TokenInfo
		if extra := req.GetExtra(); extra != nil {
			info = extra.TokenInfo
		} else { // the transport of /sse says nothing of requests: who opened the session counts
			info, _ = ctx.Value(infoKey{}).(*auth.TokenInfo)
		}
		var tool string
		if params, ok := req.GetParams().(*sdk.CallToolParamsRaw); ok && params != nil {
			tool = params.Name
		}
		if !a.allows(info, method, tool) {
			return nil, &jsonrpc.Error{Code: codeForbidden, Message: "the access token lacks a scope that this operation needs"}
		}
		res, err := next(ctx, method, req)
		if list, ok := res.(*sdk.ListToolsResult); ok && list != nil && err == nil {
			return a.visible(list, info), nil
		}
		return res, err
	}
}

// allows reports whether a caller with info, nil if without login, may send
// method, for a call of tool.
func (a *Access) allows(info *auth.TokenInfo, method, tool string) bool {
	if info == nil {
		return a.public(method, tool)
	}
	return method != callTool || oauth.ScopeIsSubset(a.needed(tool), info.Scopes)
}

// visible returns list with the tools that the caller may call. It is private
// even if a middleware says otherwise: it depends on the token.
func (a *Access) visible(list *sdk.ListToolsResult, info *auth.TokenInfo) *sdk.ListToolsResult {
	mine := *list // a middleware may keep the one it has for others
	mine.Tools = make([]*sdk.Tool, 0, len(list.Tools))
	for _, tool := range list.Tools {
		if tool != nil && a.allows(info, callTool, tool.Name) {
			mine.Tools = append(mine.Tools, tool)
		}
	}
	mine.CacheScope = "private"
	return &mine
}

// needed are the scopes that tool asks for.
func (a *Access) needed(tool string) []string {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.scopes[tool] // Require replaces it and changes no element
}

// admitsStrangers reports whether there is a tool that needs no login.
func (a *Access) admitsStrangers() bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return len(a.open) > 0
}

// public reports whether method needs no access token: the call of a tool
// without login, and what clients send to get there.
func (a *Access) public(method, tool string) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	switch method {
	case callTool:
		return a.open[tool] && len(a.scopes[tool]) == 0
	case "initialize", "notifications/initialized", "ping", "server/discover", "tools/list":
		return len(a.open) > 0
	}
	return false
}

const callTool = "tools/call"

// union returns a with those of b that it lacks, in an array of its own.
func union(a, b []string) []string {
	all := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

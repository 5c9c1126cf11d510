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

// Access says which scopes single tools need, besides those that every request needs.
// With the zero value they need no further scope. A change applies from the next
// message on, so declare what a tool needs before you add the tool. The name of a tool
// is the one that clients call.
//
//	access.Require("admin_action", "admin")
//	sdk.AddTool(server, &sdk.Tool{Name: "admin_action"}, adminAction)
//
// Lists contain the tools whose scopes the caller lacks, except for hidden ones, because a
// client calls only listed tools. The call is answered with a challenge, so that the client
// can ask for the scope.
type Access struct {
	mu     sync.RWMutex
	scopes map[string][]string
	open   map[string]bool
	hidden map[string]bool
}

// Require makes tool need all of scopes, besides those of earlier calls.
func (a *Access) Require(tool string, scopes ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.scopes == nil {
		a.scopes = map[string][]string{}
	}
	a.scopes[tool] = union(a.scopes[tool], scopes)
}

// WithoutLogin makes tools public, except those that need a scope: requests without an
// access token may list and call them, and so may requests whose token lacks the scopes that
// every request needs. It changes nothing for other tools.
func (a *Access) WithoutLogin(tools ...string) { a.mark(&a.open, tools) }

// Hide keeps tools out of the lists of callers who lack their scopes. A call of a hidden
// tool is answered as that of any other.
func (a *Access) Hide(tools ...string) { a.mark(&a.hidden, tools) }

func (a *Access) mark(set *map[string]bool, tools []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if *set == nil {
		*set = map[string]bool{}
	}
	for _, tool := range tools {
		(*set)[tool] = true
	}
}

// Middleware enforces a where the tools are called, whatever serves them, and removes from
// tools/list the tools that the caller may not see. [Handler] adds it to its server. Add
// it to a server that is served in another way, before Contain.
func (a *Access) Middleware(next sdk.MethodHandler) sdk.MethodHandler {
	return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
		var info *auth.TokenInfo
		if extra := req.GetExtra(); extra != nil {
			info = extra.TokenInfo
		} else { // the transport of /sse has no request: the token that opened the session counts
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

// allows reports whether a caller may send method, and for a call, call tool. Without a
// token info is nil.
func (a *Access) allows(info *auth.TokenInfo, method, tool string) bool {
	if info == nil {
		return a.public(method, tool)
	}
	return method != callTool || oauth.ScopeIsSubset(a.needed(tool), info.Scopes)
}

// visible returns the part of list that the caller may see: the tools that it may call, and
// with a token those that are not hidden. The result is private even if a middleware says
// otherwise, because it depends on the token.
func (a *Access) visible(list *sdk.ListToolsResult, info *auth.TokenInfo) *sdk.ListToolsResult {
	mine := *list // a middleware may use list for other callers
	mine.Tools = make([]*sdk.Tool, 0, len(list.Tools))
	for _, tool := range list.Tools {
		if tool != nil && (a.allows(info, callTool, tool.Name) || info != nil && !a.hides(tool.Name)) {
			mine.Tools = append(mine.Tools, tool)
		}
	}
	mine.CacheScope = "private"
	return &mine
}

// needed returns the scopes that tool needs.
func (a *Access) needed(tool string) []string {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.scopes[tool] // Require replaces the slice and changes no element
}

func (a *Access) hides(tool string) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.hidden[tool]
}

// hasPublicTools reports whether there is a tool that needs no login.
func (a *Access) hasPublicTools() bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return len(a.open) > 0
}

// public reports whether method needs no access token: the call of a public tool, and the
// messages that clients send before and after. Each message without a token has a session of its
// own, so it cancels nothing of others.
func (a *Access) public(method, tool string) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	switch method {
	case callTool:
		return a.open[tool] && len(a.scopes[tool]) == 0
	case initialize, "notifications/initialized", cancelled, "ping", "server/discover", "tools/list":
		return len(a.open) > 0
	}
	return false
}

const callTool = "tools/call"

// union returns the elements of a and those of b that a lacks. The arrays of both stay as they are.
func union(a, b []string) []string {
	all := slices.Clip(a)
	for _, s := range b {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

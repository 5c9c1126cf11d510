// Package mcp is the resource server's side of MCP authorization. It runs a tool only
// for a request with a valid access token for this server, tells clients where to get
// such tokens, and runs the go-sdk in the one mode in which any request may reach any
// replica.
//
// [Handler] returns the whole endpoint, [Access] says which scopes its tools need, and
// [Guard] is the bearer check alone, for a program that has a handler of its own. They
// need public keys only (package jwt): a process that imports this package cannot mint a
// token, and keeps nothing between two requests.
package mcp

import (
	"context"
	"log/slog"
	"net/http"
	"slices"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/internal/admission"
	"signet/jwt"
)

// Options describe one protected MCP server.
type Options struct {
	// Resource is the exact public URL of the endpoint. It is also the only
	// audience whose tokens are accepted, even if Verifier knows more.
	Resource string
	Issuer   string        // the authorization server
	Name     string        // resource_name of the metadata, shown to people
	Verifier *jwt.Verifier // knows Issuer's keys

	Required  []string // scopes that every request needs, except those for public tools
	Challenge []string // scopes that a 401 asks for: the required and the default ones
	Scopes    []string // scopes_supported of the metadata

	Hierarchy Hierarchy // scopes that imply other scopes at this server
	Access    *Access   // scopes of single tools, shared by the Handlers of one Server; nil: tools need no more than Required

	// Origins of browser applications that may call, such as "https://app.example". If
	// Resource is on a loopback host, loopback origins may call as well.
	Origins []string

	// Server has the tools; usually [NewServer] made it. Handler adds [Contain] and the
	// middleware of Access to it.
	Server *sdk.Server
	Log    *slog.Logger // nil: nothing is logged

	// Admission bounds how many messages run at once; the rest is answered with 503.
	// Streams that wait for events do not count. Nil: no bound.
	Admission *admission.Class

	// Budget bounds the bytes of messages and answers that are kept for each grant. Nil: no
	// bound.
	Budget *admission.Budget

	// Caller returns the address that pays for a request without a token, or "" if it is
	// not known. Nil: it is never known.
	Caller func(*http.Request) string

	// Others, optional, checks an access token that is not one of Issuer's: another issuer may be
	// trusted too. What it returns counts as claims of this resource. Its errors wrap [jwt.ErrInvalid]
	// or are no verdict.
	Others func(ctx context.Context, rawToken string) (*jwt.Claims, error)

	// Router serves tools, resources and prompts in place of Server. Nil: Server does.
	Router Router

	// Upstream gives the tokens of callers who signed in by an upstream. Nil: tools cannot
	// have them.
	Upstream UpstreamSource
}

const (
	// modern is the first protocol version without sessions. Versions are compared as
	// strings, as in the SDK.
	modern = "2026-07-28"

	// offline is a scope that this package never asks for: refresh tokens do not concern
	// a resource server (MCP authorization, Refresh Tokens).
	offline = "offline_access"
)

// versions are the supported protocol versions, the newest first. Batches, which 2025-03-26
// has, are not supported.
var versions = []string{modern, "2025-11-25", "2025-06-18", "2025-03-26"}

func (o *Options) logger() *slog.Logger {
	if o.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Log
}

func (o *Options) caller() func(*http.Request) string {
	if o.Caller == nil {
		return func(*http.Request) string { return "" }
	}
	return o.Caller
}

// withoutOffline returns scopes without offline_access.
func withoutOffline(scopes []string) []string {
	return slices.DeleteFunc(slices.Clone(scopes), func(s string) bool { return s == offline })
}

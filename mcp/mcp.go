// Package mcp is the resource server's side of MCP authorization: it lets
// nobody reach a tool without a valid access token for this server, tells
// clients where such tokens come from, and runs the go-sdk in the one mode in
// which any request may land on any replica.
//
// [Handler] is the whole endpoint, [Access] what its tools ask of callers. [Guard] is its bearer check alone, for a
// program that has a handler of its own. Both need public keys only (package
// jwt): a process that imports this package cannot mint a token, and keeps
// nothing between two requests.
package mcp

import (
	"log/slog"
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
	Name     string        // shown to people, as resource_name
	Verifier *jwt.Verifier // knows Issuer's keys

	Required  []string // scopes that every request needs
	Challenge []string // scopes that a 401 asks for: the required and the default ones
	Scopes    []string // scopes_supported of the metadata

	Hierarchy Hierarchy // scopes that imply others wherever this server decides
	Access    *Access   // what single tools need, shared by Handlers of one Server; nil: nothing more

	// Origins of browser applications that may call, as "https://app.example".
	// If Resource is on a loopback host, loopback origins may call as well.
	Origins []string

	// Server has the tools, usually one of [NewServer]. Handler adds [Contain]
	// and the middleware of Access to it.
	Server *sdk.Server
	Log    *slog.Logger // nil: nothing is logged

	// Admission bounds how many messages run at once; what comes beyond is 503. Streams
	// that wait for events do not count. Nil: no bound.
	Admission *admission.Class
}

const (
	// modern is the first protocol version without sessions. Like the SDK we
	// compare versions as strings.
	modern = "2026-07-28"

	// offline is never asked for: refresh tokens do not concern a resource
	// server (MCP authorization, Refresh Tokens).
	offline = "offline_access"
)

// versions are the protocol versions we speak. Older ones may send batches and
// leave out the version header, and with it the SDK's checks of a batch.
var versions = []string{modern, "2025-11-25", "2025-06-18"}

func (o *Options) logger() *slog.Logger {
	if o.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Log
}

// withoutOffline returns scopes without offline_access.
func withoutOffline(scopes []string) []string {
	return slices.DeleteFunc(slices.Clone(scopes), func(s string) bool { return s == offline })
}

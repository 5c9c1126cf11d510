// Package oauth has the vocabulary of the protocol: errors and their three
// renderings, scopes, the redirect URI rule, PKCE, resource identifiers, the reading
// of requests, metadata documents.
//
// Its functions are pure: they keep no state, ask no clock, and are safe for
// concurrent use. The package imports no other package of Signet, so every rule that
// an endpoint enforces can be read and tested here alone. Every error that a client
// may see is an [*Error].
//
// Packages handlers and clients use it for the authorization server, package mcp for
// the resource server. Programs outside of Signet need nothing of it.
package oauth

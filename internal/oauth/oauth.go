// Package oauth has the protocol's words: errors and their three renderings,
// scopes, the redirect URI rule, PKCE, resource identifiers, the reading of
// requests, metadata documents.
//
// It holds pure functions. There is no state and no clock in it, and it imports
// nothing of ours, so every rule that an endpoint enforces can be read and tested
// here alone. What a client may see is always an [*Error].
package oauth

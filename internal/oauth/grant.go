package oauth

// Grant types by their names on the wire. The token endpoint has a table of what it
// does for each.
const (
	GrantAuthorizationCode = "authorization_code" // OAuth 2.1 §4.1
	GrantRefreshToken      = "refresh_token"      // OAuth 2.1 §4.3
	GrantClientCredentials = "client_credentials" // OAuth 2.1 §4.2

	GrantTokenExchange = "urn:ietf:params:oauth:grant-type:token-exchange" // RFC 8693
)

// Token types of a token exchange.
const (
	TokenTypeAccess   = "urn:ietf:params:oauth:token-type:access_token" // RFC 8693 §3
	TokenTypeJWT      = "urn:ietf:params:oauth:token-type:jwt"          // RFC 8693 §3
	TokenTypeUpstream = "urn:signet:token-type:upstream"                // the user's token at a provider
)

// UpstreamAudience, followed by the id of a provider, is the audience of an exchange for the
// user's token there.
const UpstreamAudience = "upstream:"

// ConnectionAudience, followed by the id of a connection, is the audience of an exchange for what
// the user has connected, or for a credential of the gateway's own.
const ConnectionAudience = "connection:"

// GatewayAudience stands, in the list of audiences of a client, for all that a gateway exchanges
// tokens for: its connections, the upstreams, and the audiences of its servers.
const GatewayAudience = "gateway"

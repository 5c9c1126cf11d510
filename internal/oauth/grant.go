package oauth

// Grant types by their names on the wire. The token endpoint has a table of what it
// does for each.
const (
	GrantAuthorizationCode = "authorization_code" // OAuth 2.1 §4.1
	GrantRefreshToken      = "refresh_token"      // OAuth 2.1 §4.3
	GrantClientCredentials = "client_credentials" // OAuth 2.1 §4.2
)

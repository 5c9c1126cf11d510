package upstreamtest

// Manner is how a provider differs from a strict OpenID provider.
type Manner struct {
	Path           string            // of the issuer
	GitHub         bool              // form answers, commas between scopes, no expiry, no refresh token, no OpenID
	RefreshParams  map[string]string // of the authorization request, without which there is no refresh token
	RefreshScope   string            // without which there is no refresh token
	Refused        []string          // parameters of an authorization request that are an error
	Scopes         []string          // that exist; others are an error; nil: any
	SendsIssuer    bool              // iss in the callback (RFC 9207)
	RefusalStatus  int               // of invalid_grant; 0: 400
	PostOnly       bool              // the client's secret counts in the form only
	HeaderOnly     bool              // the client's secret counts in the header only
	OpaqueAudience bool              // without the parameter audience the API takes no access token
	NoRevocation   bool              // there is no revocation endpoint
	NoLogout       bool              // there is no back-channel logout
}

// Manners of providers, as their documents describe them.
var (
	Strict = Manner{SendsIssuer: true}

	// Google gives a refresh token for access_type=offline, and after the first time only with
	// prompt=consent. It knows no scope offline_access.
	Google = Manner{RefreshParams: map[string]string{"access_type": "offline", "prompt": "consent"}, Scopes: []string{"openid", "profile", "email"}, NoLogout: true}

	// GitHub is no OpenID provider.
	GitHub = Manner{GitHub: true, NoRevocation: true, NoLogout: true}

	// Entra is version 2.0 of Entra's endpoints, whose issuer contains the tenant.
	Entra = Manner{Path: "/11111111-2222-3333-4444-555555555555/v2.0", Refused: []string{"resource"}, RefreshScope: "offline_access", NoRevocation: true, NoLogout: true}

	// Keycloak has an issuer for each realm.
	Keycloak = Manner{Path: "/realms/staff", SendsIssuer: true}

	// Okta has authorization servers below /oauth2.
	Okta = Manner{Path: "/oauth2/default", RefreshScope: "offline_access", NoLogout: true}

	// Auth0 has an issuer that ends in a slash, and tokens for an API only with audience.
	Auth0 = Manner{Path: "/", RefreshScope: "offline_access", RefusalStatus: 403, OpaqueAudience: true}

	// GitLab refuses scopes that it does not know, such as offline_access.
	GitLab = Manner{Scopes: []string{"openid", "profile", "email", "read_user", "read_api", "api"}, NoLogout: true}
)

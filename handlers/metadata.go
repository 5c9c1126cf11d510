package handlers

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"time"

	"signet/internal/oauth"
	"signet/jwt"
)

const metadataMaxAge = time.Hour

// metadataPaths are the paths at which clients look for an issuer's metadata. RFC 8414
// §3.1 puts the well-known part before the issuer's path, OpenID Connect Discovery
// after it, and MCP clients try all three.
func (e *endpoints) metadataPaths() []string {
	const rfc8414, discovery = "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"
	if e.path == "" {
		return []string{rfc8414, discovery}
	}
	return []string{rfc8414 + e.path, discovery + e.path, e.path + discovery}
}

// newMetadata builds the one document that is served at every well-known path (RFC 8414
// §2). It is built from the issuer alone and not from headers of a request, and lists
// only what works. OpenID Connect Discovery §3 requires subject_types_supported and
// id_token_signing_alg_values_supported; clients that find the document under its
// OpenID name refuse one without them.
//
// exchange says whether a client may exchange tokens.
func (e *endpoints) newMetadata(exchange bool) (*document, error) {
	i := e.o.Issuer
	methods := []string{"none", "client_secret_post", "client_secret_basic", "private_key_jwt"} // some clients take the first
	body, err := json.Marshal(oauth.ServerMetadata{
		Issuer:                                             i,
		AuthorizationEndpoint:                              i + "/authorize",
		TokenEndpoint:                                      i + "/token",
		RegistrationEndpoint:                               e.registrationEndpoint(),
		RevocationEndpoint:                                 i + "/revoke",
		IntrospectionEndpoint:                              i + "/introspect",
		UserinfoEndpoint:                                   i + "/userinfo",
		EndSessionEndpoint:                                 i + "/logout",
		JWKSURI:                                            i + "/.well-known/jwks.json",
		RevokedGrantsURI:                                   i + "/.well-known/revoked",
		ScopesSupported:                                    e.supportedScopes(),
		ResponseTypesSupported:                             []string{"code"},
		ResponseModesSupported:                             []string{"query"},
		GrantTypesSupported:                                e.grantTypes(exchange),
		TokenEndpointAuthMethodsSupported:                  methods,
		RevocationEndpointAuthMethodsSupported:             methods,
		IntrospectionEndpointAuthMethodsSupported:          methods,
		TokenEndpointAuthSigningAlgValuesSupported:         jwt.AssertionAlgorithms,
		RevocationEndpointAuthSigningAlgValuesSupported:    jwt.AssertionAlgorithms,
		IntrospectionEndpointAuthSigningAlgValuesSupported: jwt.AssertionAlgorithms,
		ClientIDMetadataDocumentSupported:                  e.o.Clients.FetchesDocuments(),
		CodeChallengeMethodsSupported:                      []string{"S256"},
		AuthorizationResponseIssParameterSupported:         true,
		SubjectTypesSupported:                              []string{"public"},
		IDTokenSigningAlgValuesSupported:                   []string{"ES256"},
		ClaimsSupported:                                    []string{"iss", "sub", "aud", "iat", "exp", "auth_time", "nonce", "at_hash", "name", "preferred_username", "picture", "updated_at", "email"},
		ServiceDocumentation:                               e.documentation(),
		PromptValuesSupported:                              []string{"none", "login", "consent"},
	})
	if err != nil {
		return nil, err
	}
	return (&document{body: body, etag: entityTag(body), maxAge: metadataMaxAge}).prepare(), nil
}

// supportedScopes are the scopes that clients should know. offline_access is accepted
// without effect, since every grant can be refreshed; if it were listed, clients would
// ask for consent each time.
func (e *endpoints) supportedScopes() []string {
	scopes := slices.Clone(e.o.Scopes)
	for _, name := range []string{"openid", "profile", "email"} {
		if !slices.Contains(scopes, name) {
			scopes = append(scopes, name)
		}
	}
	return scopes
}

func (e *endpoints) documentation() string {
	if !e.hasHome() {
		return ""
	}
	return e.o.Issuer + "/"
}

func (e *endpoints) metadata(*http.Request) (any, error) {
	if e.o.Clients.Exchanges() {
		return e.servedExchange, nil
	}
	return e.served, nil
}

// jwks serves the public keys (RFC 7517 §5). How long they may be cached follows
// from the key schedule, and is mostly the same for hours.
func (e *endpoints) jwks(*http.Request) (any, error) {
	body, etag, maxAge := e.o.Keys.JWKS(time.Now())
	if body == nil {
		return nil, unavailable(errors.New("no keys yet: the store has not answered since the start"))
	}
	kept := e.o.Keys.Rotation()
	d := e.keySet.Load()
	if d == nil || d.etag != etag || d.maxAge != maxAge || d.kept != kept {
		d = (&document{body: body, etag: etag, maxAge: maxAge, kept: kept}).prepare()
		e.keySet.Store(d)
	}
	return d, nil
}

func (e *endpoints) grantTypes(exchange bool) (names []string) {
	for _, g := range e.grants {
		if g.offered == nil || exchange {
			names = append(names, g.name)
		}
	}
	return names
}

// registrationEndpoint is not in the metadata if registration is off.
func (e *endpoints) registrationEndpoint() string {
	if e.o.Registration.Off {
		return ""
	}
	return e.o.Issuer + "/register"
}

package upstream

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// Caller is who another issuer's access token says its bearer is.
type Caller struct {
	Subject, ClientID string
	Scopes            []string
	Token             string // short hash of the token, which names it in memory
	Issued, Expires   time.Time
}

// CallerVerifier checks access tokens of another issuer. It is safe for concurrent use.
type CallerVerifier struct {
	issuer, audience string
	keys             *oidc.RemoteKeySet
}

// ErrCaller says that an access token is not a valid one of the other issuer.
var ErrCaller = errors.New("the access token is not one of the other issuer for this server")

// NewCallerVerifier returns a verifier of JWT access tokens whose keys are at jwksURI. Tokens must
// name audience in aud. An empty issuer is not compared.
func NewCallerVerifier(issuer, jwksURI, audience string) *CallerVerifier {
	const timeout = 10 * time.Second
	keys := oidc.NewRemoteKeySet(oidc.ClientContext(context.Background(), client(&keysAnswers{way: bounded{http.DefaultTransport}, age: keysAge}, timeout)), jwksURI)
	return &CallerVerifier{issuer, audience, keys}
}

// Verify returns who the bearer of a token is. The error wraps ErrCaller unless the keys cannot be
// had.
func (v *CallerVerifier) Verify(ctx context.Context, raw string) (Caller, error) {
	s := &signature{keys: v.keys}
	token, err := oidc.NewVerifier(v.issuer, s, &oidc.Config{ClientID: v.audience, SkipIssuerCheck: v.issuer == "", SupportedSigningAlgs: signingAlgorithms}).Verify(ctx, raw)
	if err != nil {
		if s.unavailable != nil {
			return Caller{}, s.unavailable
		}
		return Caller{}, fmt.Errorf("%w: %w", ErrCaller, err)
	}
	var claims struct {
		ClientID string `json:"client_id"`
		AZP      string `json:"azp"`
		Scope    string `json:"scope"`
		Nonce    any    `json:"nonce"`
		Confirm  any    `json:"cnf"`
	}
	if err := token.Claims(&claims); err != nil {
		return Caller{}, fmt.Errorf("%w: %w", ErrCaller, err)
	}
	switch {
	case token.Subject == "":
		return Caller{}, fmt.Errorf("%w: it has no sub", ErrCaller)
	case claims.Nonce != nil:
		return Caller{}, fmt.Errorf("%w: it is an id token", ErrCaller)
	case claims.Confirm != nil:
		return Caller{}, fmt.Errorf("%w: it is bound to a key and needs a proof", ErrCaller)
	}
	sum := sha256.Sum256([]byte(raw))
	return Caller{
		Subject: token.Subject, ClientID: cmp.Or(claims.ClientID, claims.AZP), Scopes: strings.Fields(claims.Scope), Token: hex.EncodeToString(sum[:12]),
		Issued: token.IssuedAt, Expires: token.Expiry,
	}, nil
}

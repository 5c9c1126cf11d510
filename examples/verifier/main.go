// Verifier is an API that accepts Signet's access tokens. It imports only signet/jwt
// from Signet: it holds no secret, keeps no state and cannot issue tokens.
// verifier.mjs is the same program in JavaScript.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"signet/jwt"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	issuer, audience := os.Getenv("SIGNET_ISSUER"), os.Getenv("RESOURCE")
	keys := jwt.NewRemoteKeys(issuer+"/.well-known/jwks.json", nil)
	feed, err := jwt.NewRevocationFeed(jwt.RevocationOptions{URL: issuer + "/.well-known/revoked", Issuer: issuer, Keys: keys})
	if err != nil {
		log.Fatal(err)
	}
	go feed.Run(ctx)
	verifier, err := jwt.NewVerifier(jwt.VerifierOptions{
		Issuer:    issuer,
		Audiences: []string{audience}, // one of the issuer's SIGNET_RESOURCES
		Keys:      keys,
		Feed:      feed, // without it, tokens of a revoked grant are accepted until they expire
	})
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("GET /hello", func(w http.ResponseWriter, r *http.Request) {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") { // any case will do (RFC 9110 §11.1)
			token = ""
		}
		claims, err := verifier.Verify(r.Context(), token)
		switch {
		case err == nil:
			fmt.Fprintf(w, "Hello, %s, with the scopes %s.\n", claims.Subject, claims.Scope)
		case errors.Is(err, jwt.ErrInvalid):
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			http.Error(w, "the access token is not valid here", http.StatusUnauthorized)
		default: // keys or revocations are unavailable: the token may be valid
			http.Error(w, "try again in a moment", http.StatusServiceUnavailable)
		}
	})
	web := &http.Server{Addr: os.Getenv("LISTEN"), ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { web.Close() })
	if err := web.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}

// Verifier is an API that takes Signet's access tokens. It imports signet/jwt and
// nothing else of Signet: it holds no secret, keeps no state and cannot mint.
// verifier.mjs is the same in JavaScript.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"

	"signet/jwt"
)

func main() {
	issuer, audience := os.Getenv("SIGNET_ISSUER"), os.Getenv("RESOURCE")
	keys := jwt.NewRemoteKeys(issuer+"/.well-known/jwks.json", nil)
	feed, err := jwt.NewRevocationFeed(jwt.RevocationOptions{URL: issuer + "/.well-known/revoked", Issuer: issuer, Keys: keys})
	if err != nil {
		log.Fatal(err)
	}
	go feed.Run(context.Background())
	verifier, err := jwt.NewVerifier(jwt.VerifierOptions{
		Issuer:    issuer,
		Audiences: []string{audience}, // one of the issuer's SIGNET_RESOURCES
		Keys:      keys,
		Feed:      feed, // leave it out, and a revoked grant's tokens live until they expire
	})
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("GET /hello", func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		claims, err := verifier.Verify(r.Context(), token)
		switch {
		case err == nil:
			fmt.Fprintf(w, "Hello, %s, with the scopes %s.\n", claims.Subject, claims.Scope)
		case errors.Is(err, jwt.ErrInvalid):
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			http.Error(w, "the access token is not valid here", http.StatusUnauthorized)
		default: // keys, or revocations, cannot be had: the token may be good
			http.Error(w, "try again in a moment", http.StatusServiceUnavailable)
		}
	})
	log.Fatal(http.ListenAndServe(os.Getenv("LISTEN"), nil))
}

package server

import (
	"context"
	"crypto/subtle"

	"signet/internal/clients"
	"signet/internal/oauth"
	"signet/users"
)

// The demo's names and passwords are public: `signet serve --demo` prints them.
const (
	DemoUser         = "demo_user"
	DemoPassword     = "demo_password"
	DemoClient       = "demo_client"
	DemoClientSecret = "demo_secret"
)

// demoUsers is the users file and the demo user, who is in no file: without --demo, the
// next refresh of a grant of that user fails.
type demoUsers struct {
	*users.File
	demo users.User
}

// demoUser may grant all scopes that exist.
func demoUser(scopes []string) users.User {
	return users.User{Subject: DemoUser, Name: DemoUser, Email: "demo_user@example.com", Scopes: scopes}
}

func (d demoUsers) Check(ctx context.Context, name, password string) (users.User, error) {
	if name == DemoUser && subtle.ConstantTimeCompare([]byte(password), []byte(DemoPassword)) == 1 {
		return d.demo, nil
	}
	return d.File.Check(ctx, name, password)
}

func (d demoUsers) Lookup(ctx context.Context, subject string) (users.User, error) {
	if subject == DemoUser {
		return d.demo, nil
	}
	return d.File.Lookup(ctx, subject)
}

// demoClients may request all scopes that exist. A request that names none is for read and write,
// or for all where neither exists.
func demoClients(scopes []string) ([]clients.Client, map[string]string) {
	defaults := oauth.IntersectScope([]string{"read", "write"}, scopes)
	if len(defaults) == 0 {
		defaults = scopes
	}
	return []clients.Client{{
		ID: DemoClient, Name: "Demo client", RedirectURIs: []string{"http://localhost:3000/callback", "http://127.0.0.1:3000/callback"},
		Method: "client_secret_post", DefaultScopes: defaults,
	}}, map[string]string{DemoClient: DemoClientSecret}
}

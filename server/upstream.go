package server

import (
	"errors"
	"fmt"
	"os"

	"signet/internal/seal"
	"signet/internal/upstream"
)

// Upstream says by which accounts elsewhere users sign in: by one OpenID provider, or by those of
// a file.
type Upstream struct {
	Issuer       string // of the OpenID provider
	ClientID     string // at the OpenID provider
	ClientSecret string // at the OpenID provider; empty for a public client

	Config string // YAML file of providers, in place of the above

	Key string // role mcp: key that opens the users' tokens, as `signet secret derive upstream` prints it; default: tools get none

	Environ func(name string) (value string, ok bool) // finds variables that Config names; default: os.LookupEnv
}

// Check returns an error if the settings contradict each other, or one is wrong. It names the
// variable, and reads no file.
func (u Upstream) Check() error {
	single := u.Issuer != "" || u.ClientID != "" || u.ClientSecret != ""
	var faults []error
	switch {
	case u.Config != "" && single:
		faults = append(faults, errors.New("SIGNET_UPSTREAM_CONFIG, SIGNET_UPSTREAM_ISSUER: only one of them can say what the upstreams are; move the provider into the file"))
	case single && u.Issuer == "":
		faults = append(faults, errors.New("SIGNET_UPSTREAM_ISSUER: is missing beside SIGNET_UPSTREAM_CLIENT_ID or SIGNET_UPSTREAM_CLIENT_SECRET"))
	case single && u.ClientID == "":
		faults = append(faults, errors.New("SIGNET_UPSTREAM_CLIENT_ID: is missing beside SIGNET_UPSTREAM_ISSUER"))
	case single:
		if _, err := upstream.Single(u.Issuer, u.ClientID, u.ClientSecret); err != nil {
			faults = append(faults, fmt.Errorf("SIGNET_UPSTREAM_ISSUER: %w", err))
		}
	}
	if u.Key != "" {
		if _, err := seal.ParseUpstreamKeys(u.Key); err != nil {
			faults = append(faults, fmt.Errorf("SIGNET_UPSTREAM_KEY: %w", err))
		}
	}
	return errors.Join(faults...)
}

// Open returns the providers, or nil if there are none. Scopes are those that exist. Its errors
// name the variable.
func (u Upstream) Open(scopes []string) (*upstream.Set, error) {
	return u.open(func(text []byte, environ func(string) (string, bool)) (*upstream.Set, error) {
		set, err := upstream.Parse(text, environ)
		if err != nil {
			return nil, err
		}
		return set, set.CheckScopes(scopes)
	})
}

// OpenForTools is like Open, for a process that signs nobody in and so needs no secrets
// ([upstream.ParseForTools]).
func (u Upstream) OpenForTools() (*upstream.Set, error) { return u.open(upstream.ParseForTools) }

func (u Upstream) open(parse func(text []byte, environ func(string) (string, bool)) (*upstream.Set, error)) (*upstream.Set, error) {
	switch {
	case u.Config != "":
		text, err := os.ReadFile(u.Config)
		if err != nil {
			return nil, fmt.Errorf("SIGNET_UPSTREAM_CONFIG: %w", err)
		}
		environ := u.Environ
		if environ == nil {
			environ = os.LookupEnv
		}
		set, err := parse(text, environ)
		if err != nil {
			return nil, fmt.Errorf("SIGNET_UPSTREAM_CONFIG: %s:\n%w", u.Config, err)
		}
		return set, nil
	case u.Issuer != "":
		set, err := upstream.Single(u.Issuer, u.ClientID, u.ClientSecret)
		if err != nil {
			return nil, fmt.Errorf("SIGNET_UPSTREAM_ISSUER: %w", err)
		}
		return set, nil
	}
	return nil, nil
}

// openUpstreams opens the providers by which users sign in.
func (s *Server) openUpstreams() (err error) {
	s.upstreams, err = s.o.Upstream.Open(s.o.Scopes)
	return err
}

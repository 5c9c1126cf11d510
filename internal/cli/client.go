package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"signet/internal/clients"
	"signet/internal/denylist"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/internal/state"
	"signet/users"
)

func (c *config) clients() clients.File {
	return clients.File{Path: c.clientsFile(), GroupMayRead: c.GroupRead}
}

func clientCommand(p Process) *cobra.Command {
	cmd := &cobra.Command{Use: "client", Short: "Configure OAuth clients"}
	cmd.AddCommand(clientAddCommand(p), clientListCommand(p), clientExplainCommand(p), clientRemoveCommand(p), clientBlockCommand(p), clientUnblockCommand(p))
	return cmd
}

// addedClient is what `client add --json` prints.
type addedClient struct {
	clients.Configured
	Secret string `json:"client_secret,omitempty"`
}

// clientAddition is what the flags of `client add` say.
type clientAddition struct {
	spec     clients.Spec
	keysFile string

	fromStdin, asJSON bool
}

func clientAddCommand(p Process) *cobra.Command {
	a := &clientAddition{}
	cmd := &cobra.Command{
		Use: "add NAME --redirect-uri URI... | --client-credentials | --exchange AUDIENCE... | --resource URL", Short: "Add a client; make and print its secret unless told otherwise", Args: cobra.ExactArgs(1),
		Long: "Add a client. NAME is its client_id. A secret is made and printed, once, unless\n" +
			"the client is public, its secret is read from stdin, or it has keys: then it\n" +
			"authenticates by private_key_jwt (RFC 7523), signing with RS256, PS256, ES256 or EdDSA.\n" +
			"A redirect URI may be https, http on loopback or, with a warning, on a private\n" +
			"network, or have a private-use scheme (RFC 8252), with a warning if the scheme is\n" +
			"not based on a domain name. With --client-credentials the client is a machine: it gets\n" +
			"access tokens for itself, without a user, for the scopes that --scope names. With\n" +
			"--exchange it gets, for an access token of a user, another one for the audience\n" +
			"(RFC 8693), or with upstream:ID the user's own token at the provider ID.",
		RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, args []string) error {
			a.spec.ID = args[0]
			return p.addClient(cmd, cfg, a)
		}),
	}
	f := cmd.Flags()
	f.StringArrayVar(&a.spec.RedirectURIs, "redirect-uri", nil, "redirect URI; repeat for more")
	f.StringArrayVar(&a.spec.PostLogoutRedirectURIs, "post-logout-redirect-uri", nil, "where the browser may go after a logout; repeat for more")
	f.StringVar(&a.spec.Name, "name", "", "name to show to users; default NAME")
	f.StringArrayVar(&a.spec.Scopes, "scope", nil, "scope that the client may request; repeat for more; default SIGNET_DEFAULT_SCOPES")
	f.BoolVar(&a.spec.Public, "public", false, "the client cannot keep a secret, and gets none")
	f.BoolVar(&a.fromStdin, "secret-stdin", false, "read the secret from stdin, one line, instead of making one")
	f.StringVar(&a.keysFile, "jwks", "", "file with the client's public keys, a JWK Set, in place of a secret")
	f.StringVar(&a.spec.JWKSURI, "jwks-uri", "", "URL of the client's public keys, in place of a secret; the server fetches it")
	f.BoolVar(&a.asJSON, "json", false, "print JSON")
	f.StringVar(&a.spec.Resource, "resource", "", "the client is the resource server at this URL: it may introspect the tokens for it, and gets none itself")
	f.BoolVar(&a.spec.ClientCredentials, "client-credentials", false, "the client may get tokens for itself, without a user; it needs no redirect URI")
	f.StringArrayVar(&a.spec.Exchange, "exchange", nil, "audience for which the client may exchange access tokens of users, upstream:ID, connection:ID, or gateway for all that a gateway needs; repeat for more; it needs no redirect URI")
	f.DurationVar(&a.spec.AccessTTL, "access-ttl", 0, "life of the client's access tokens, such as 2m; at most SIGNET_ACCESS_TTL, the default")
	f.DurationVar(&a.spec.RefreshTTL, "refresh-ttl", 0, "life of what a user grants to the client, such as 24h; at most SIGNET_REFRESH_TTL, the default")
	f.StringVar(&a.spec.Consent, "consent", "", "choose: users may grant less than the client requests, which is the default; fixed: they approve or deny all of it")
	cmd.MarkFlagsOneRequired("redirect-uri", "resource", "client-credentials", "exchange")
	cmd.MarkFlagsMutuallyExclusive("redirect-uri", "resource")
	cmd.MarkFlagsMutuallyExclusive("client-credentials", "resource")
	cmd.MarkFlagsMutuallyExclusive("client-credentials", "public")
	cmd.MarkFlagsMutuallyExclusive("exchange", "resource")
	cmd.MarkFlagsMutuallyExclusive("exchange", "public")
	cmd.MarkFlagsMutuallyExclusive("public", "secret-stdin", "jwks", "jwks-uri")
	return cmd
}

// addClient adds a client and prints it.
func (p Process) addClient(cmd *cobra.Command, cfg *config, a *clientAddition) error {
	if err := p.readClientSecret(cmd, a); err != nil {
		return err
	}
	if err := checkClientLives(cmd, cfg, a.spec); err != nil {
		return err
	}
	if err := checkClientScopes(cfg, a.spec.Scopes); err != nil {
		return err
	}
	if a.spec.ClientCredentials {
		if err := checkNoUser(cfg, a.spec.ID); err != nil {
			return err
		}
	}
	made := cfg.lacksSecret()
	ring, err := state.Prepare(cmd.Context(), cfg.data())
	if err != nil {
		return err
	}
	c, secret, err := cfg.clients().Add(cmd.Context(), ring, a.spec)
	if err != nil {
		return err
	}
	for _, warning := range c.Warnings() {
		p.note("warning: " + warning)
	}
	if made && secret != "" {
		p.noteNewRoot(cfg)
	}
	if a.fromStdin {
		secret = "" // it is known already
	}
	return p.printClient(addedClient{c, secret}, a.asJSON)
}

// checkClientLives refuses lives that would have no effect.
func checkClientLives(cmd *cobra.Command, cfg *config, spec clients.Spec) error {
	for _, life := range []struct {
		flag, variable string
		own, global    time.Duration
	}{
		{"access-ttl", "SIGNET_ACCESS_TTL", spec.AccessTTL, cfg.Lives.Access}, {"refresh-ttl", "SIGNET_REFRESH_TTL", spec.RefreshTTL, cfg.Lives.Refresh},
	} {
		switch {
		case cmd.Flags().Changed(life.flag) && life.own < time.Second:
			return wrongUse{fmt.Errorf("--%s %s: must be a second or more", life.flag, life.own)}
		case life.own > life.global:
			return wrongUse{fmt.Errorf("--%s %s: must not be longer than %s (%s)", life.flag, life.own, life.variable, life.global)}
		}
	}
	return nil
}

// checkClientScopes refuses scopes that do not exist.
func checkClientScopes(cfg *config, scopes []string) error {
	known := scopeList(cfg.Scopes)
	if !oauth.ScopeIsSubset(scopes, slices.Concat(known, clients.AlwaysKnown)) {
		return unknownScopes(scopes, known)
	}
	return nil
}

// checkNoUser refuses a client that gets tokens for itself if there is a user of its name: a
// resource server could take one for the other.
func checkNoUser(cfg *config, name string) error {
	file, err := cfg.openUsers()
	if err != nil {
		return err
	}
	if _, ok := file.Find(name); ok {
		return fmt.Errorf("there is a user %s: a client with --client-credentials needs a name that no user has", name)
	}
	return nil
}

// namesOfClients returns what refuses a user's name that such a client has.
func namesOfClients(cfg *config) (refuse func(user string) error, err error) {
	list, err := cfg.clients().List()
	if err != nil {
		return nil, err
	}
	acting := map[string]string{}
	for _, c := range list {
		if name, err := users.Normalize(c.ID); err == nil && c.ClientCredentials {
			acting[name] = c.ID
		}
	}
	return func(user string) error {
		name, err := users.Normalize(user)
		if id, ok := acting[name]; ok && err == nil {
			return fmt.Errorf("there is a client %s with --client-credentials: a user needs another name", id)
		}
		return err
	}, nil
}

// readClientSecret reads the secret from stdin, or the keys from their file, as the flags say.
// Flags that are given but empty are refused.
func (p Process) readClientSecret(cmd *cobra.Command, a *clientAddition) (err error) {
	if a.fromStdin {
		var rest io.ByteReader
		if a.spec.Secret, rest, err = p.readSecret("secret", 64<<10); err != nil {
			return err
		}
		if _, err := rest.ReadByte(); err == nil { // something else was piped in
			return wrongUse{errors.New("more than one line on stdin")}
		}
	}
	if cmd.Flags().Changed("jwks-uri") && a.spec.JWKSURI == "" { // an empty variable of a script
		return wrongUse{errors.New("--jwks-uri is empty")}
	}
	if cmd.Flags().Changed("consent") && a.spec.Consent == "" {
		return wrongUse{errors.New("--consent is empty")}
	}
	if cmd.Flags().Changed("jwks") {
		a.spec.JWKS, err = readKeySet(a.keysFile)
	}
	return err
}

// readKeySet reads a file with public keys. Whether they are is for package clients to say.
func readKeySet(path string) ([]byte, error) {
	const limit = 64 << 10
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", path, err)
	case len(text) > limit:
		return nil, fmt.Errorf("%s is longer than %d bytes", path, limit)
	case !json.Valid(text):
		return nil, fmt.Errorf("%s is not a JWK Set", path)
	}
	return text, nil
}

func (p Process) printClient(c addedClient, asJSON bool) error {
	if asJSON {
		return p.printJSON(c)
	}
	if err := p.print("client_id      %s", c.ID); err != nil || c.Secret == "" {
		return err
	}
	p.note("The secret is not shown again.")
	return p.print("client_secret  %s", c.Secret)
}

func clientListCommand(p Process) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the configured clients, and the blocked ones", Args: cobra.NoArgs,
		Long: "List the configured clients, and the blocked ones. Clients that registered themselves\n" +
			"are listed only if they are blocked, in the table by the hash of their id.",
		RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, _ []string) error {
			list, err := cfg.clients().List()
			if err != nil {
				return err
			}
			var blocked []denylist.BlockedClient
			err = withGrants(cmd.Context(), cfg, func(grants *denylist.List, _ time.Time) (err error) {
				if grants != nil {
					blocked, err = grants.BlockedClients(cmd.Context())
				}
				return err
			})
			if err != nil {
				p.note("which clients are blocked cannot be read: %v", err)
			}
			all := listedClients(list, blocked)
			if asJSON {
				return p.printJSON(all)
			}
			return p.printClients(all)
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// listedClient is a client as `client list --json` prints it.
type listedClient struct {
	clients.Configured
	Hash       string     `json:"client_hash"`
	Registered bool       `json:"registered,omitempty"` // by itself
	BlockedAt  *time.Time `json:"blocked_at,omitempty"`
}

// listedClients are the configured clients in their order, then the other ones that are blocked.
func listedClients(list []clients.Configured, blocked []denylist.BlockedClient) []listedClient {
	all := []listedClient{} // "[]" in JSON, not "null"
	for _, c := range list {
		all = append(all, listedClient{Configured: c, Hash: seal.ClientHash(c.ID)})
	}
	for _, b := range blocked {
		at := b.At.UTC()
		if i := slices.IndexFunc(all, func(c listedClient) bool { return c.Hash == b.Hash }); i >= 0 {
			all[i].BlockedAt = &at
			continue
		}
		all = append(all, listedClient{Configured: clients.Configured{ID: b.ID, Name: b.Name}, Hash: b.Hash, Registered: true, BlockedAt: &at})
	}
	return all
}

func (p Process) printClients(all []listedClient) error {
	var rows [][]string
	for _, c := range all {
		id, kind, added := c.ID, "confidential", time.Unix(c.Created, 0).UTC().Format(time.DateOnly)
		switch {
		case c.Registered:
			id, kind, added = c.Hash, "registered", "-" // its id is too long for a table
		case c.Public:
			kind = "public"
		case c.Resource != "":
			kind = "resource server"
		case len(c.JWKS) > 0 || c.JWKSURI != "":
			kind = "keys"
		}
		if c.ClientCredentials {
			kind += ", machine"
		}
		if len(c.Exchange) > 0 {
			kind += ", exchange"
		}
		if c.BlockedAt != nil {
			kind += ", blocked"
		}
		rows = append(rows, []string{id, clean(c.Name), kind, strings.Join(c.Scopes, " "), strings.Join(c.RedirectURIs, " "), added})
	}
	return p.printTable("CLIENT ID\tNAME\tKIND\tSCOPES\tREDIRECT URIS\tADDED", rows)
}

// endClient ends the tokens that a client got for itself. Running servers do so too, but there
// may be none, and a removed client leaves no other trace.
func endClient(ctx context.Context, cfg *config, id string) error {
	return withGrants(ctx, cfg, func(list *denylist.List, _ time.Time) error {
		if list == nil {
			return nil
		}
		return list.EndClient(ctx, seal.ClientHash(id))
	})
}

func clientRemoveCommand(p Process) *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Remove a client, and end its grants", Args: cobra.ExactArgs(1),
		RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, args []string) error {
			list, err := cfg.clients().List()
			if err != nil {
				return err
			}
			if err := cfg.clients().Remove(cmd.Context(), args[0]); err != nil {
				return err
			}
			if slices.ContainsFunc(list, func(c clients.Configured) bool { return c.ID == args[0] && c.ClientCredentials }) {
				if err := endClient(cmd.Context(), cfg, args[0]); err != nil {
					return fmt.Errorf("%s is removed; its access tokens end when a running server notices, or expire: %w", args[0], err)
				}
			}
			return p.print("removed %s", args[0])
		}),
	}
}

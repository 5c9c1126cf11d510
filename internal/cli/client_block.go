package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"signet/internal/clients"
	"signet/internal/denylist"
	"signet/internal/seal"
	"signet/internal/state"
)

func clientBlockCommand(p Process) *cobra.Command {
	return &cobra.Command{
		Use: "block ID", Short: "Block a client, and end its grants", Args: cobra.ExactArgs(1),
		Long: "Block a client, and end its grants. ID is its client_id, or the hash of it that the\n" +
			"audit log has as client. A client that registered itself is in no file, so this is how\n" +
			"to end it; the program can register again, under another id, where registration is open.\n" +
			"Running servers notice within seconds.",
		RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, args []string) error {
			ctx := cmd.Context()
			return withGrants(ctx, cfg, func(list *denylist.List, now time.Time) error {
				if list == nil {
					return fmt.Errorf("%w: %s", clients.ErrUnknown, shortID(args[0]))
				}
				c, err := namedClient(ctx, cfg, list, args[0])
				if err != nil {
					return err
				}
				c.At = now
				if err := list.Block(ctx, c); err != nil {
					return err
				}
				n, err := list.RevokeWhere(ctx, func(g denylist.Grant) bool { return g.ClientHash == c.Hash })
				if err != nil {
					return fmt.Errorf("%s is blocked, %d of its grants have ended, then: %w", shortID(args[0]), n, err)
				}
				return p.print("blocked %s, grants ended: %d", shortID(args[0]), n)
			})
		}),
	}
}

func clientUnblockCommand(p Process) *cobra.Command {
	return &cobra.Command{
		Use: "unblock ID", Short: "Let a blocked client work again", Args: cobra.ExactArgs(1),
		Long: "Let a blocked client work again. Its grants stay ended: users sign in again. ID is as\n" +
			"for `client block`, or as `client list` prints it.",
		RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, args []string) error {
			return withGrants(cmd.Context(), cfg, func(list *denylist.List, _ time.Time) error {
				err := denylist.ErrUnknown
				for _, hash := range []string{seal.ClientHash(args[0]), args[0]} {
					if list != nil && errors.Is(err, denylist.ErrUnknown) {
						err = list.Unblock(cmd.Context(), hash)
					}
				}
				if errors.Is(err, denylist.ErrUnknown) {
					return fmt.Errorf("no blocked client: %s", shortID(args[0]))
				}
				if err != nil {
					return err
				}
				return p.print("unblocked %s", shortID(args[0]))
			})
		}),
	}
}

// namedClient finds the client that a name means: a client id, or the hash of the id of a client
// that is configured or has a grant.
func namedClient(ctx context.Context, cfg *config, list *denylist.List, name string) (denylist.BlockedClient, error) {
	ring, err := state.Prepare(ctx, cfg.data())
	if err != nil {
		return denylist.BlockedClient{}, err
	}
	registry, err := clients.Open(clients.Options{Path: cfg.clientsFile(), Ring: ring, GroupMayRead: cfg.GroupRead})
	if err != nil {
		return denylist.BlockedClient{}, err
	}
	c, err := registry.Find(ctx, name)
	switch {
	case err == nil:
		return denylist.BlockedClient{Hash: c.Hash(), ID: c.ID, Name: c.Name}, nil
	case strings.HasPrefix(name, "https://"): // its metadata document may no longer be there
		return denylist.BlockedClient{Hash: seal.ClientHash(name), ID: name}, nil
	case !errors.Is(err, clients.ErrUnknown):
		return denylist.BlockedClient{}, err
	}
	configured, err := cfg.clients().List()
	if err != nil {
		return denylist.BlockedClient{}, err
	}
	for _, c := range configured { // a machine has no grants
		if hash := seal.ClientHash(c.ID); hash == name {
			return denylist.BlockedClient{Hash: hash, ID: c.ID, Name: c.Name}, nil
		}
	}
	found, err := list.NameOfClient(ctx, name)
	if errors.Is(err, denylist.ErrUnknown) {
		err = fmt.Errorf("%w: %s", clients.ErrUnknown, shortID(name))
	}
	return denylist.BlockedClient{Hash: name, Name: found}, err
}

// shortID is a client id or hash in a message. Ids of registered clients have hundreds of
// characters.
func shortID(id string) string {
	if len(id) > 40 {
		id = id[:40] + "…"
	}
	return clean(id)
}

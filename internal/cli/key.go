package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"signet/internal/state"
	"signet/internal/store"
	"signet/keys"
)

// keyInfo is a signing key as --json prints it.
type keyInfo struct {
	ID             string     `json:"kid"`
	State          keys.State `json:"state"`
	Private        bool       `json:"private_half"`
	PublishedAt    *time.Time `json:"published_at,omitempty"`
	SignsFrom      *time.Time `json:"signs_from,omitempty"`
	SignsUntil     *time.Time `json:"signs_until,omitempty"`
	PublishedUntil *time.Time `json:"published_until,omitempty"`
	WithdrawnAt    *time.Time `json:"withdrawn_at,omitempty"`
}

func keyInfoOf(k keys.Info) keyInfo {
	at := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		t = t.UTC()
		return &t
	}
	return keyInfo{
		ID: k.ID, State: k.State, Private: k.Private, PublishedAt: at(k.PublishedAt), SignsFrom: at(k.SignsFrom), SignsUntil: at(k.SignsUntil),
		PublishedUntil: at(k.PublishedUntil), WithdrawnAt: at(k.WithdrawnAt),
	}
}

func keyCommand(p Process) *cobra.Command {
	cmd := &cobra.Command{
		Use: "key", Short: "List, rotate and withdraw the signing keys",
		Long: "List, rotate and withdraw the signing keys. They rotate by themselves; a command is\n" +
			"needed only if a key may have been stolen. A running server need not be stopped.",
	}
	cmd.AddCommand(keyListCommand(p), keyRotateCommand(p))
	return cmd
}

func keyListCommand(p Process) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "Draw the timeline of the signing keys", Args: cobra.NoArgs,
		Long: "Draw the timeline of the signing keys: the key that signs, the next one, and the past\n" +
			"ones, which stay published until their last token has expired. Times are UTC.",
		RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, _ []string) error {
			now := time.Now()
			t, err := timeline(cmd.Context(), cfg, now)
			if err != nil {
				return err
			}
			if asJSON {
				infos := []keyInfo{}
				for _, k := range t.Keys {
					infos = append(infos, keyInfoOf(k))
				}
				return p.printJSON(infos)
			}
			_, err = fmt.Fprint(p.Stdout, drawTimeline(t, now))
			return err
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// timeline reads the keys from the store, or from the operator's directory.
func timeline(ctx context.Context, cfg *config, now time.Time) (t keys.Timeline, err error) {
	if cfg.KeysDir != "" {
		set, err := cfg.readKeys(nil)
		if err != nil {
			return t, err
		}
		return set.List(now), nil
	}
	err = withStore(ctx, cfg, func(st *store.Store) error {
		t, err = keys.List(ctx, st, cfg.KeyRotation, cfg.Lives.Access, now)
		return err
	})
	if errors.Is(err, store.ErrNoStore) && !errors.Is(err, store.ErrHalf) {
		return t, nil // no server was started yet
	}
	return t, err
}

// readKeys reads the operator's folder as the server does.
func (c *config) readKeys(log *slog.Logger) (*keys.Set, error) {
	if c.GroupRead {
		return keys.ReadMounted(c.KeysDir, c.Lives.Access, log)
	}
	return keys.ReadDir(c.KeysDir, c.Lives.Access, log)
}

// withStore opens the store, also while a server runs.
func withStore(ctx context.Context, cfg *config, do func(st *store.Store) error) (err error) {
	st, err := state.OpenStore(ctx, cfg.data())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	return do(st)
}

var errOwnKeys = errors.New("SIGNET_KEYS_DIR is set, so the keys are yours: add a file with a later not-before to rotate, take a file away to withdraw its key (docs/keys.md)")

func keyRotateCommand(p Process) *cobra.Command {
	var revoke string
	cmd := &cobra.Command{
		Use: "rotate [--revoke KID]", Short: "Bring the next key forward, or withdraw one at once", Args: cobra.NoArgs,
		Long: "Bring the next key forward. It signs as soon as all caches that follow the headers of\n" +
			"the published keys have it, so no token is refused.\n\n" +
			"With --revoke withdraw a key at once, for example because it was stolen. It is no\n" +
			"longer published, its private half is erased, and tokens that it signed are refused.\n" +
			"Clients refresh them.",
		RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, _ []string) error {
			if cfg.KeysDir != "" {
				return errOwnKeys
			}
			if cmd.Flags().Changed("revoke") && revoke == "" {
				return wrongUse{errors.New("--revoke: the key ID is empty")}
			}
			return withStore(cmd.Context(), cfg, func(st *store.Store) error {
				if revoke != "" {
					return p.withdrawKey(cmd.Context(), cfg, st, revoke)
				}
				return p.rotateKey(cmd.Context(), cfg, st)
			})
		}),
	}
	cmd.Flags().StringVar(&revoke, "revoke", "", "withdraw the key with this `KID`, from signet key list")
	return cmd
}

func (p Process) rotateKey(ctx context.Context, cfg *config, st *store.Store) error {
	r, err := keys.Rotate(ctx, st, cfg.KeyRotation)
	if err != nil {
		return err
	}
	when := moment(r.Signs, time.Now())
	if r.Begun {
		return p.print("Nothing to do: %s comes next already, and signs %s, as early as all caches can have it.", r.ID, when)
	}
	return p.print("%s signs %s. Until then the current key signs.", r.ID, when)
}

func (p Process) withdrawKey(ctx context.Context, cfg *config, st *store.Store, kid string) error {
	w, err := keys.Withdraw(ctx, st, cfg.KeyRotation, kid)
	if err != nil {
		return fmt.Errorf("%s: %w", kid, err)
	}
	now := time.Now()
	p.print("%s is withdrawn. Running servers follow within seconds, and no longer publish it.", w.ID)
	if w.Was != keys.Next {
		p.print("Tokens that it signed are invalid. A verifier that caches the published keys may accept them for up to %s more (until %s).",
			short(w.MaxAge), clock(now.Add(w.MaxAge)))
	}
	err = p.print("%s signs now.", w.Signs)
	if w.Was == keys.Signing && w.Known.After(now) {
		err = p.print("It was published only lately: a verifier that caches the keys, and does not fetch them again for an unknown one, may refuse its tokens until %s.", clock(w.Known))
	}
	return err
}

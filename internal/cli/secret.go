package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"signet/internal/seal"
	"signet/internal/state"
)

// data returns where the configured state is kept.
func (c *config) data() state.Data {
	return state.Data{Dir: c.DataDir, Secret: c.Secret, Store: c.inDataDir(c.Store, "signet.db"), GroupMayRead: c.GroupRead}
}

func secretCommand(p Process) *cobra.Command {
	cmd := &cobra.Command{Use: "secret", Short: "Make, rotate and derive secrets, and seal those of others"}
	cmd.AddCommand(
		secretRotateCommand(p), secretEncryptCommand(p),
		&cobra.Command{
			Use: "new", Short: "Print a fresh root secret, for SIGNET_SECRET", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				_, err := fmt.Fprintln(p.Stdout, seal.NewSecret())
				return err
			},
		},
		&cobra.Command{
			Use: "derive PURPOSE", Short: "Print the only derived key that an MCP replica may hold (purpose: upstream)", Args: cobra.ExactArgs(1),
			Long: "Print the key that opens the users' upstream tokens, for SIGNET_UPSTREAM_KEY of an MCP\n" +
				"replica. It can open or mint nothing else. During a rotation of the secret there are\n" +
				"several, separated by commas.",
			RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, args []string) error {
				if args[0] != "upstream" {
					return wrongUse{fmt.Errorf("no key is derived for %q: the only purpose is upstream", args[0])}
				}
				ring, err := p.openRing(cmd.Context(), cfg)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(p.Stdout, ring.UpstreamKeys())
				return err
			}),
		})
	return cmd
}

func secretRotateCommand(p Process) *cobra.Command {
	var finish, now bool
	cmd := &cobra.Command{
		Use: "rotate", Short: "Replace the root secret, also while a server runs", Args: cobra.NoArgs,
		Long: "Replace the root secret by a new one. If it is the file in the data directory, the\n" +
			"command does all of it, also while a server runs, and no user or client notices. The\n" +
			"old secret still opens what it sealed. When that has expired, --finish keeps the old\n" +
			"secret for client ids only.\n\n" +
			"If SIGNET_SECRET is set, you deploy the new secret: run the command to see how.",
		RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, _ []string) error {
			if now && !finish {
				return wrongUse{errors.New("--now goes with --finish")}
			}
			return state.SecretRotation{
				Data: cfg.data(), Finish: finish, Now: now, Lives: state.SealedLives(cfg.Lives.Refresh, cfg.Lives.Idle),
				Say: func(format string, args ...any) { fmt.Fprintf(p.Stdout, format+"\n", args...) },
			}.Run(cmd.Context())
		}),
	}
	cmd.Flags().BoolVar(&finish, "finish", false, "keep the old root secret for client ids only")
	cmd.Flags().BoolVar(&now, "now", false, "with --finish: do not wait for the expiry of what the old secret sealed; all users sign in again")
	return cmd
}

// openRing reads the root secrets. It makes the content of the data directory if there
// is none yet, and says so: in a wrong directory the result would be of use to no server.
func (p Process) openRing(ctx context.Context, cfg *config) (*seal.Keyring, error) {
	made := cfg.lacksSecret()
	ring, err := state.Prepare(ctx, cfg.data())
	if err == nil && made {
		p.noteNewRoot(cfg)
	}
	return ring, err
}

// lacksSecret reports whether a command that needs the root secret would make one.
func (c *config) lacksSecret() bool { return c.Secret == "" && isMissing(secretName(c)) }

func (p Process) noteNewRoot(cfg *config) {
	p.note("made a new root secret in %s: the result is of use only to a server with that secret. For a server that has another one, set SIGNET_DATA_DIR or SIGNET_SECRET", secretName(cfg))
}

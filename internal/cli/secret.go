package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"signet/internal/seal"
	"signet/internal/state"
)

// data says where the configured state lives.
func (c *config) data() state.Data {
	return state.Data{Dir: c.DataDir, Secret: c.Secret, Store: c.inDataDir(c.Store, "signet.db"), GroupMayRead: c.GroupRead}
}

func secretCommand(p Process) *cobra.Command {
	cmd := &cobra.Command{Use: "secret", Short: "Make, rotate and derive secrets"}
	cmd.AddCommand(
		secretRotateCommand(p),
		&cobra.Command{
			Use: "new", Short: "Print a fresh root secret, for SIGNET_SECRET", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				_, err := fmt.Fprintln(p.Stdout, seal.NewSecret())
				return err
			},
		},
		&cobra.Command{
			Use: "derive PURPOSE", Short: "Print the one derived key that an MCP replica may hold (purpose: upstream)", Args: cobra.ExactArgs(1),
			Long: "Print the key that opens upstream credentials, for an MCP replica that must\n" +
				"open them. Nothing else can be opened or minted with it.",
			RunE: func(cmd *cobra.Command, args []string) error {
				if args[0] != "upstream" {
					return wrongUse{fmt.Errorf("no key is derived for %q: the one purpose is upstream", args[0])}
				}
				ring, err := openRing(cmd, p)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(p.Stdout, ring.UpstreamKey())
				return err
			},
		})
	return cmd
}

func secretRotateCommand(p Process) *cobra.Command {
	var finish, now bool
	cmd := &cobra.Command{
		Use: "rotate", Short: "Replace the root secret, beside a running server", Args: cobra.NoArgs,
		Long: "Replace the root secret by a new one. Where it is the file in the data directory, this\n" +
			"does it all beside a running server: nobody notices. What the old one sealed is still\n" +
			"opened; once that has expired, --finish leaves the old one for client ids only.\n\n" +
			"Where SIGNET_SECRET is set, deploying it is yours: without anything to rotate to, the\n" +
			"command says how.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := readConfig(p.Environ)
			if err != nil {
				return err
			}
			if now && !finish {
				return wrongUse{errors.New("--now goes with --finish")}
			}
			return state.SecretRotation{
				Data: cfg.data(), Finish: finish, Now: now, Lives: state.SealedLives(cfg.Lives.Refresh, cfg.Lives.Idle),
				Say: func(format string, args ...any) { fmt.Fprintf(p.Stdout, format+"\n", args...) },
			}.Run(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&finish, "finish", false, "leave the old root secret for client ids only")
	cmd.Flags().BoolVar(&now, "now", false, "with --finish: do not wait until what the old one sealed has expired; everybody signs in again")
	return cmd
}

// openRing reads the root secrets, making the data directory's content if nothing
// is there yet.
func openRing(cmd *cobra.Command, p Process) (*seal.Keyring, error) {
	cfg, err := readConfig(p.Environ)
	if err != nil {
		return nil, err
	}
	return state.Prepare(cmd.Context(), cfg.data())
}

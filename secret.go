package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"signet/seal"
	"signet/server"
)

// data says where the configured state lives.
func (c *config) data() server.Data {
	return server.Data{Dir: c.DataDir, Secret: c.Secret, Store: c.inDataDir(c.Store, "signet.db"), GroupMayRead: c.GroupRead}
}

func secretCommand(p process) *cobra.Command {
	cmd := &cobra.Command{Use: "secret", Short: "Make and derive secrets"}
	cmd.AddCommand(
		&cobra.Command{
			Use: "new", Short: "Print a fresh root secret, for SIGNET_SECRET", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				_, err := fmt.Fprintln(p.stdout, seal.NewSecret())
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
				_, err = fmt.Fprintln(p.stdout, ring.UpstreamKey())
				return err
			},
		})
	return cmd
}

// openRing reads the root secrets, making the data directory's content if nothing
// is there yet.
func openRing(cmd *cobra.Command, p process) (*seal.Keyring, error) {
	cfg, err := readConfig(p.environ)
	if err != nil {
		return nil, err
	}
	return server.Prepare(cmd.Context(), cfg.data())
}

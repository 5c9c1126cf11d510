package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"signet/internal/backup"
)

func restoreCommand(p Process) *cobra.Command {
	var replace backup.Replacing
	cmd := &cobra.Command{
		Use: "restore FILE", Short: "Restore a data directory or a PostgreSQL store from a backup", Args: cobra.ExactArgs(1),
		Long: "Restore a data directory, or the store in a PostgreSQL database, from a backup.\n" +
			"FILE - is the standard input. The command needs the root secret of the server that\n" +
			"was backed up, and refuses while a server runs.\n\n" +
			"The store gets a new epoch: nothing that was issued before is accepted, and all\n" +
			"users sign in again. Signing keys and revocations are as they were.\n\n" +
			"A store, users or clients that exist already are kept, unless a flag says to\n" +
			"replace them; then they are set aside under another name.",
		RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, args []string) error {
			from := p.Stdin
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				from = f
			}
			did, err := backup.Restore(cmd.Context(), cfg.data(), cfg.files(), from, replace)
			for _, line := range did {
				fmt.Fprintln(p.Stdout, line)
			}
			return err
		}),
	}
	cmd.Flags().BoolVar(&replace.Store, "replace", false, "replace the existing store")
	cmd.Flags().BoolVar(&replace.Files, "replace-files", false, "replace the existing users and clients")
	return cmd
}

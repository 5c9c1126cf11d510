package cli

import (
	"fmt"
	"os"
	"signet/internal/backup"

	"github.com/spf13/cobra"
)

func restoreCommand(p Process) *cobra.Command {
	var replace backup.Replacing
	cmd := &cobra.Command{
		Use: "restore FILE", Short: "Make a data directory or a PostgreSQL store of a backup", Args: cobra.ExactArgs(1),
		Long: "Make a data directory, or the store in a PostgreSQL database, of a backup. FILE -\n" +
			"is the standard input. It needs the root secret of the server that was backed up,\n" +
			"and refuses while a server runs.\n\n" +
			"The store gets a new epoch: nothing that was issued before is accepted, everybody\n" +
			"signs in again. Signing keys and what was revoked are as they were.\n\n" +
			"A store, users or clients that are there stay, unless they are to be replaced;\n" +
			"then they are set aside under another name.",
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := readConfig(p.Environ)
			if err != nil {
				return err
			}
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
		},
	}
	cmd.Flags().BoolVar(&replace.Store, "replace", false, "put the backup's store in the place of the one that is there")
	cmd.Flags().BoolVar(&replace.Files, "replace-files", false, "put the backup's users and clients in the place of those that are there")
	return cmd
}

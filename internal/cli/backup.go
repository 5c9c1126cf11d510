package cli

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"signet/internal/backup"
	"signet/server"
)

func (c *config) files() backup.Files {
	return backup.Files{Users: c.usersFile(), Clients: c.clientsFile()}
}

func backupCommand(p Process) *cobra.Command {
	return &cobra.Command{
		Use: "backup FILE", Short: "Back up store, users and clients, also while a server runs", Args: cobra.ExactArgs(1),
		Long: "Back up the store, as it is at one moment, the users and the configured clients\n" +
			"into a new file. A server may be running. FILE - is the standard output.\n\n" +
			"The root secret is not in the backup, and a backup is useless without it: keep\n" +
			"the secret in another place.",
		RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, args []string) error {
			report := p.Stdout
			var rows map[string]int
			var err error
			switch args[0] {
			case "": // an empty variable of a script
				return wrongUse{errors.New("the name of the file is empty")}
			case "-":
				report = p.Stderr
				rows, err = backup.Make(cmd.Context(), cfg.data(), cfg.files(), p.Stdout, server.Version)
			default:
				rows, err = backup.MakeFile(cmd.Context(), cfg.data(), cfg.files(), args[0], server.Version)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(report, "backed up %d grants and %d signing keys, users and clients\nThe root secret is NOT in the backup, which is useless without it: keep %s as well, in another place.\n",
				rows["grants"], rows["signing_keys"], secretName(cfg))
			return err
		}),
	}
}

func secretName(cfg *config) string {
	if cfg.Secret != "" {
		return "SIGNET_SECRET"
	}
	return filepath.Join(cfg.DataDir, "secret")
}

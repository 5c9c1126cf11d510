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
			if err := cfg.needUsers(); err != nil {
				return err
			}
			report := p.Stdout
			var made backup.Made
			var err error
			switch args[0] {
			case "": // an empty variable of a script
				return wrongUse{errors.New("the name of the file is empty")}
			case "-":
				report = p.Stderr
				made, err = backup.Make(cmd.Context(), cfg.data(), cfg.files(), p.Stdout, server.Version)
			default:
				made, err = backup.MakeFile(cmd.Context(), cfg.data(), cfg.files(), args[0], server.Version)
			}
			if err != nil {
				return err
			}
			if !made.Users && cfg.usersInFile() {
				p.note("warning: %s is not there: no users are in the backup; SIGNET_USERS_FILE or SIGNET_DATA_DIR says where they are", cfg.usersFile())
			}
			if !made.Clients && cfg.Clients != "" {
				p.note("warning: SIGNET_CLIENTS_FILE: %s is not there: no configured clients are in the backup", cfg.clientsFile())
			}
			_, err = fmt.Fprintf(report, "backed up %d grants and %d signing keys, %s\nThe root secret is NOT in the backup, which is useless without it: keep %s as well, in another place.\n",
				made.Rows["grants"], made.Rows["signing_keys"], filesOf(made), secretName(cfg))
			return err
		}),
	}
}

// usersInFile reports whether the users are those of the users file, and of no upstream.
func (c *config) usersInFile() bool { return c.Upstream.Config == "" && c.Upstream.Issuer == "" }

// needUsers returns an error if the users file that is set is not there: a backup without its
// users is not meant. A file of clients may be set long before there is a client.
func (c *config) needUsers() error {
	if c.Users == "" || !c.usersInFile() || !isMissing(c.Users) {
		return nil
	}
	return fmt.Errorf("SIGNET_USERS_FILE: %s is not there: its users would not be in the backup", c.Users)
}

func filesOf(made backup.Made) string {
	switch {
	case made.Users && made.Clients:
		return "users and clients"
	case made.Users:
		return "users, no configured clients"
	case made.Clients:
		return "clients, no users"
	}
	return "no users and no configured clients"
}

func secretName(cfg *config) string {
	if cfg.Secret != "" {
		return "SIGNET_SECRET"
	}
	return filepath.Join(cfg.DataDir, "secret")
}

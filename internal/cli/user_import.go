package cli

import (
	"io"
	"os"

	"github.com/spf13/cobra"

	"signet/users"
)

// importedUser is a user of an import as --json prints it.
type importedUser struct {
	Name     string   `json:"name"`
	Status   string   `json:"status"` // imported or skipped
	Hash     string   `json:"hash,omitempty"`
	Scopes   []string `json:"scopes,omitempty"`
	Disabled bool     `json:"disabled,omitempty"`
	Warning  string   `json:"warning,omitempty"`
}

func userImportCommand(p Process) *cobra.Command {
	var o users.ImportOptions
	var scopes []string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "import FILE", Short: "Add the users of another system", Args: cobra.ExactArgs(1),
		Long: "Add the users of FILE (- is stdin): lines of name:hash as in an htpasswd file, with\n" +
			"hashes of bcrypt or argon2id, or a users file of Authelia with such hashes. They are\n" +
			"kept until the user signs in. With --plaintext, lines may be name:password in clear,\n" +
			"and these passwords are hashed. Hashes of other programs are refused. Blank lines and\n" +
			"lines that begin with # are skipped. If one line is wrong, no user is added.",
		RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, args []string) error {
			var err error
			if o.Scopes, err = knownScopes(cfg, scopes); err != nil {
				return err
			}
			if o.Refuse, err = namesOfClients(cfg); err != nil {
				return err
			}
			from, in := "stdin", io.NopCloser(p.Stdin)
			if args[0] != "-" {
				if from, in, err = openImport(args[0]); err != nil {
					return err
				}
			}
			defer in.Close()
			file, err := openUsers(cfg)
			if err != nil {
				return err
			}
			o.Words = []string{cfg.AppName}
			if o.Plaintext {
				o.Begin = func(passwords, hashes int) {
					p.note("%s: hashing %d passwords in clear, and keeping %d hashes", from, passwords, hashes)
				}
			}
			all, err := file.Import(cmd.Context(), from, in, o)
			if err != nil {
				return err
			}
			return p.printImported(all, from, asJSON)
		}),
	}
	cmd.Flags().BoolVar(&o.Plaintext, "plaintext", false, "the file has passwords in clear, which are to be hashed")
	cmd.Flags().StringArrayVar(&scopes, "scope", nil, "scope that these users may grant; repeat for more")
	cmd.Flags().BoolVar(&o.SkipExisting, "skip-existing", false, "skip users that exist already instead of failing")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the users as JSON")
	return cmd
}

func openImport(path string) (from string, in io.ReadCloser, err error) {
	file, err := os.Open(path)
	return path, file, err
}

// printImported prints what was done. Warnings go to stderr, so that stdout is one JSON
// value with --json.
func (p Process) printImported(all []users.Imported, from string, asJSON bool) error {
	list := []importedUser{}
	added, clear := 0, false
	for _, u := range all {
		row := importedUser{Name: u.Name, Status: "skipped"}
		if !u.Skipped {
			row = importedUser{Name: u.Name, Status: "imported", Hash: u.Hash, Scopes: u.Scopes, Disabled: u.Disabled}
			added++
		}
		if u.Weak != nil {
			row.Warning = u.Weak.Error()
			p.note("warning: user %s: %v", u.Name, u.Weak)
		}
		clear = clear || u.Clear
		list = append(list, row)
	}
	if clear && from != "stdin" {
		p.note("%s holds passwords in clear: delete it once all users can sign in", from)
	}
	if asJSON {
		return p.printJSON(list)
	}
	return p.print("imported %d of %d users", added, len(all))
}

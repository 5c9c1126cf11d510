package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"signet/internal/durable"
	"signet/internal/oauth"
	"signet/users"
)

// account is a user as --json prints it.
type account struct {
	Name        string   `json:"name"`
	Email       string   `json:"email,omitempty"`
	DisplayName string   `json:"display_name,omitempty"`
	Scopes      []string `json:"scopes,omitempty"`
	Disabled    bool     `json:"disabled"`

	// Of users who are in no users file.
	Subject    string     `json:"subject,omitempty"`
	Provider   string     `json:"provider,omitempty"` // empty: the program's own check
	LastSignIn *time.Time `json:"last_sign_in,omitempty"`
}

func accountOf(a users.Account) account {
	return account{Name: a.Name, Email: a.Email, DisplayName: a.DisplayName, Scopes: a.Scopes, Disabled: a.Disabled}
}

func userCommand(p Process) *cobra.Command {
	cmd := &cobra.Command{
		Use: "user", Short: "Manage the users",
		Long: "Manage the users file, SIGNET_USERS_FILE or users in the data directory. A running\n" +
			"server notices the change within a second.\n\n" +
			"Users who sign in by a provider, or by a program's own check, are in no file. The\n" +
			"store knows them once they have signed in: list shows them, and disable, enable and\n" +
			"remove take their SUBJECT, such as upstream:corp:1234. A removed one may sign in\n" +
			"again, which disable prevents.",
	}
	cmd.AddCommand(userAddCommand(p), userImportCommand(p), userListCommand(p), userPasswdCommand(p),
		userEditCommand(p, "disable", "Keep a user from signing in, and end the user's grants", "is disabled", func(ctx context.Context, f *users.File, name string) error {
			return f.SetDisabled(ctx, name, true)
		}, func(e elsewhere, ctx context.Context, subject string) error { return e.setDisabled(ctx, subject, true) }),
		userEditCommand(p, "enable", "Let a disabled user sign in again", "is enabled", func(ctx context.Context, f *users.File, name string) error {
			return f.SetDisabled(ctx, name, false)
		}, func(e elsewhere, ctx context.Context, subject string) error {
			return e.setDisabled(ctx, subject, false)
		}),
		userEditCommand(p, "remove", "Remove a user, and end the user's grants", "is removed", func(ctx context.Context, f *users.File, name string) error {
			return f.Remove(ctx, name)
		}, elsewhere.remove))
	return cmd
}

func userAddCommand(p Process) *cobra.Command {
	var u users.User
	var scopes []string
	var fromStdin, asJSON bool
	cmd := &cobra.Command{
		Use: "add NAME", Short: "Add a user", Args: cobra.ExactArgs(1),
		Long: "Add a user, who can sign in at once. The command asks for the password, or reads it\n" +
			"from stdin with --password-stdin. Without --scope a user has SIGNET_DEFAULT_SCOPES.",
		RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, args []string) error {
			u.Name = args[0]
			if _, err := users.CheckName(u.Name); err != nil {
				return wrongUse{err}
			}
			refuse, err := namesOfClients(cfg)
			if err != nil {
				return err
			}
			if err := refuse(u.Name); err != nil {
				return err
			}
			if u.Scopes, err = knownScopes(cfg, scopes); err != nil {
				return err
			}
			file, err := openUsers(cfg)
			if err != nil {
				return err
			}
			if old, ok := file.Find(u.Name); ok { // before the password is asked for
				return fmt.Errorf("there is a user %s already", old.Name)
			}
			password, err := p.newPassword(cmd.Context(), fromStdin, cfg, u)
			if err != nil {
				return err
			}
			added, err := file.Add(cmd.Context(), u, password)
			if err != nil {
				return err
			}
			if asJSON {
				return p.printJSON(accountOf(users.Account{User: added}))
			}
			return p.print("user %s is added", added.Name)
		}),
	}
	cmd.Flags().StringVar(&u.Email, "email", "", "e-mail address")
	cmd.Flags().StringVar(&u.DisplayName, "name", "", "name to show")
	cmd.Flags().StringArrayVar(&scopes, "scope", nil, "scope that the user may grant; repeat for more")
	cmd.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from stdin, one line")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the user as JSON")
	return cmd
}

func userListCommand(p Process) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the users", Args: cobra.NoArgs,
		Long: "List the users of the users file, and those who sign in by a provider or by a\n" +
			"program's own check, as of their last sign-in. Times are UTC.",
		RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, _ []string) error {
			file, err := cfg.openUsers()
			if err != nil {
				return err
			}
			var all []account
			for _, u := range file.List() {
				all = append(all, accountOf(u))
			}
			others := func(print func([]account) error) error {
				return withElsewhere(cmd.Context(), cfg, func(e elsewhere) error { return e.each(cmd.Context(), print) })
			}
			if asJSON {
				return printPages(p, func(print func([]account) error) error {
					if err := print(all); err != nil {
						return err
					}
					return others(print)
				})
			}
			if err := p.printFileUsers(all); err != nil {
				return err
			}
			return others(p.printOthers)
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the users as JSON")
	return cmd
}

func (p Process) printFileUsers(all []account) error {
	var rows [][]string
	for _, a := range all {
		rows = append(rows, []string{a.Name, a.state(), strings.Join(a.Scopes, " "), a.Email, a.DisplayName})
	}
	return p.printTable("NAME\tSTATE\tSCOPES\tEMAIL\tDISPLAY NAME", rows)
}

// printOthers prints a page of users who are in no users file.
func (p Process) printOthers(page []account) error {
	var rows [][]string
	for _, a := range page {
		rows = append(rows, []string{clean(a.Subject), cmp.Or(clean(a.Provider), "-"), a.state(), a.LastSignIn.Format(minutes), clean(a.Name), clean(a.Email), clean(a.DisplayName)})
	}
	if err := p.print(""); err != nil {
		return err
	}
	return p.printTable("SUBJECT\tPROVIDER\tSTATE\tLAST SIGN-IN\tNAME\tEMAIL\tDISPLAY NAME", rows)
}

func (a account) state() string {
	if a.Disabled {
		return "disabled"
	}
	return "enabled"
}

func userPasswdCommand(p Process) *cobra.Command {
	var fromStdin bool
	cmd := &cobra.Command{
		Use: "passwd NAME", Short: "Change a password, and end the user's grants", Args: cobra.ExactArgs(1),
		RunE: p.withUsers(func(cmd *cobra.Command, cfg *config, file *users.File, args []string) error {
			u, ok := file.Find(args[0])
			if !ok { // before the password is asked for
				return fmt.Errorf("%w: %q", users.ErrUnknown, args[0])
			}
			password, err := p.newPassword(cmd.Context(), fromStdin, cfg, u.User)
			if err != nil {
				return err
			}
			if err := file.Passwd(cmd.Context(), args[0], password); err != nil {
				return err
			}
			return p.print("user %s has another password", args[0])
		}),
	}
	cmd.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from stdin, one line")
	return cmd
}

// userEditCommand returns a command that changes one user without a question: the user of that
// name in the users file, or else the user from elsewhere of that subject.
func userEditCommand(p Process, verb, short, done string, edit func(context.Context, *users.File, string) error, other func(elsewhere, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NAME", Short: short, Args: cobra.ExactArgs(1),
		RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, args []string) error {
			err := users.ErrUnknown
			if !strings.HasPrefix(args[0], users.UpstreamPrefix) {
				file, openErr := openUsers(cfg)
				if openErr != nil {
					return openErr
				}
				err = edit(cmd.Context(), file, args[0])
			}
			if errors.Is(err, users.ErrUnknown) {
				err = editElsewhere(cmd.Context(), cfg, args[0], other)
			}
			if err != nil {
				return err
			}
			return p.print("user %s %s", clean(args[0]), done)
		}),
	}
}

// withUsers returns what a command that changes a user runs: do, with the users file.
func (p Process) withUsers(do func(cmd *cobra.Command, cfg *config, file *users.File, args []string) error) func(*cobra.Command, []string) error {
	return p.withConfig(func(cmd *cobra.Command, cfg *config, args []string) error {
		file, err := openUsers(cfg)
		if err != nil {
			return err
		}
		return do(cmd, cfg, file, args)
	})
}

// openUsers opens the users file for a change. It makes the directory if needed: users
// may be added before the first start.
func openUsers(cfg *config) (*users.File, error) {
	if err := durable.MakeDir(filepath.Dir(cfg.usersFile())); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	return cfg.openUsers()
}

// knownScopes returns the scopes that a flag gives. All of them must exist.
func knownScopes(cfg *config, flag []string) ([]string, error) {
	scopes, known := scopeList(strings.Join(flag, " ")), scopeList(cfg.Scopes)
	if !oauth.ScopeIsSubset(scopes, known) {
		return nil, unknownScopes(scopes, known)
	}
	return scopes, nil
}

func unknownScopes(scopes, known []string) error {
	return wrongUse{fmt.Errorf("--scope %s: there are %s (SIGNET_SCOPES)", strings.Join(scopes, " "), strings.Join(known, ", "))}
}

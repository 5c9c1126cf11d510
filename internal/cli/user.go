package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

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
}

func accountOf(a users.Account) account {
	return account{Name: a.Name, Email: a.Email, DisplayName: a.DisplayName, Scopes: a.Scopes, Disabled: a.Disabled}
}

func userCommand(p Process) *cobra.Command {
	cmd := &cobra.Command{
		Use: "user", Short: "Manage the users",
		Long: "Manage the users file, SIGNET_USERS_FILE or users in the data directory. A running\n" +
			"server notices the change within a second.",
	}
	cmd.AddCommand(userAddCommand(p), userImportCommand(p), userListCommand(p), userPasswdCommand(p),
		userEditCommand(p, "disable", "Keep a user from signing in, and end the user's grants", "is disabled", func(ctx context.Context, f *users.File, name string) error {
			return f.SetDisabled(ctx, name, true)
		}),
		userEditCommand(p, "enable", "Let a disabled user sign in again", "is enabled", func(ctx context.Context, f *users.File, name string) error {
			return f.SetDisabled(ctx, name, false)
		}),
		userEditCommand(p, "remove", "Remove a user, and end the user's grants", "is removed", func(ctx context.Context, f *users.File, name string) error {
			return f.Remove(ctx, name)
		}))
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
			if _, err := users.Normalize(u.Name); err != nil {
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
			if _, ok := file.Find(u.Name); ok { // before the password is asked for
				return fmt.Errorf("there is a user %s already", u.Name)
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
		RunE: p.withConfig(func(_ *cobra.Command, cfg *config, _ []string) error {
			file, err := cfg.openUsers()
			if err != nil {
				return err
			}
			all, rows := []account{}, [][]string{}
			for _, u := range file.List() {
				a := accountOf(u)
				all = append(all, a)
				state := "enabled"
				if a.Disabled {
					state = "disabled"
				}
				rows = append(rows, []string{a.Name, state, strings.Join(a.Scopes, " "), a.Email, a.DisplayName})
			}
			if asJSON {
				return p.printJSON(all)
			}
			return p.printTable("NAME\tSTATE\tSCOPES\tEMAIL\tDISPLAY NAME", rows)
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the users as JSON")
	return cmd
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

// userEditCommand returns a command that changes one user without a question.
func userEditCommand(p Process, verb, short, done string, edit func(context.Context, *users.File, string) error) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NAME", Short: short, Args: cobra.ExactArgs(1),
		RunE: p.withUsers(func(cmd *cobra.Command, _ *config, file *users.File, args []string) error {
			if err := edit(cmd.Context(), file, args[0]); err != nil {
				return err
			}
			return p.print("user %s %s", args[0], done)
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
		return nil, wrongUse{fmt.Errorf("--scope %s: there are %s (SIGNET_SCOPES)", strings.Join(scopes, " "), strings.Join(known, ", "))}
	}
	return scopes, nil
}

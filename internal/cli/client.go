package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"signet/internal/clients"
)

func (c *config) clients() clients.File {
	return clients.File{Path: c.clientsFile(), GroupMayRead: c.GroupRead}
}

func clientCommand(p Process) *cobra.Command {
	cmd := &cobra.Command{Use: "client", Short: "Configure OAuth clients"}
	cmd.AddCommand(clientAddCommand(p), clientListCommand(p), clientRemoveCommand(p))
	return cmd
}

// addedClient is what `client add --json` prints.
type addedClient struct {
	clients.Configured
	Secret string `json:"client_secret,omitempty"`
}

func clientAddCommand(p Process) *cobra.Command {
	var spec clients.Spec
	var fromStdin, asJSON bool
	cmd := &cobra.Command{
		Use: "add NAME --redirect-uri URI...", Short: "Add a client; makes and prints a secret unless told otherwise", Args: cobra.ExactArgs(1),
		Long: "Add a client. NAME is its client_id. A secret is made and printed, once, unless\n" +
			"the client is public or its secret is read from stdin.",
		RunE: func(cmd *cobra.Command, args []string) error {
			spec.ID = args[0]
			cfg, err := readConfig(p.Environ)
			if err != nil {
				return err
			}
			if fromStdin {
				if spec.Secret, err = readLine(p.Stdin, "secret"); err != nil {
					return err
				}
			}
			ring, err := openRing(cmd, p)
			if err != nil {
				return err
			}
			c, secret, err := cfg.clients().Add(cmd.Context(), ring, spec)
			if err != nil {
				return err
			}
			if fromStdin {
				secret = "" // whoever gave it knows it
			}
			return printClient(p, addedClient{c, secret}, asJSON)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&spec.RedirectURIs, "redirect-uri", nil, "redirect URI; repeat for more")
	f.StringArrayVar(&spec.PostLogoutRedirectURIs, "post-logout-redirect-uri", nil, "where the browser may go after a logout; repeat for more")
	f.StringVar(&spec.Name, "name", "", "name that users are shown; default NAME")
	f.StringArrayVar(&spec.Scopes, "scope", nil, "scope that it may ask for; repeat for more; default SIGNET_DEFAULT_SCOPES")
	f.BoolVar(&spec.Public, "public", false, "a client that cannot keep a secret")
	f.BoolVar(&fromStdin, "secret-stdin", false, "read the secret from stdin rather than make one")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	cmd.MarkFlagRequired("redirect-uri")
	cmd.MarkFlagsMutuallyExclusive("public", "secret-stdin")
	return cmd
}

func printClient(p Process, c addedClient, asJSON bool) error {
	if asJSON {
		return printJSON(p.Stdout, c)
	}
	fmt.Fprintf(p.Stdout, "client_id      %s\n", c.ID)
	if c.Secret != "" {
		fmt.Fprintf(p.Stdout, "client_secret  %s\n", c.Secret)
		fmt.Fprintln(p.Stderr, "The secret is not shown again.")
	}
	return nil
}

func clientListCommand(p Process) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the configured clients", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := readConfig(p.Environ)
			if err != nil {
				return err
			}
			list, err := cfg.clients().List()
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(p.Stdout, list)
			}
			var rows [][]string
			for _, c := range list {
				kind := "confidential"
				if c.Public {
					kind = "public"
				}
				rows = append(rows, []string{c.ID, c.Name, kind, strings.Join(c.Scopes, " "), strings.Join(c.RedirectURIs, " "), time.Unix(c.Created, 0).UTC().Format(time.DateOnly)})
			}
			return table(p.Stdout, "CLIENT ID\tNAME\tKIND\tSCOPES\tREDIRECT URIS\tADDED", rows)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func clientRemoveCommand(p Process) *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Remove a client: its grants end with their next refresh", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := readConfig(p.Environ)
			if err != nil {
				return err
			}
			if err := cfg.clients().Remove(cmd.Context(), args[0]); err != nil {
				return err
			}
			fmt.Fprintf(p.Stdout, "removed %s\n", args[0])
			return nil
		},
	}
}

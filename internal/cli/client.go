package cli

import (
	"errors"
	"io"
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
		Use: "add NAME --redirect-uri URI...", Short: "Add a client; make and print its secret unless told otherwise", Args: cobra.ExactArgs(1),
		Long: "Add a client. NAME is its client_id. A secret is made and printed, once, unless\n" +
			"the client is public or its secret is read from stdin. A redirect URI may be https,\n" +
			"http on loopback or, with a warning, on a private network, or have a private-use\n" +
			"scheme (RFC 8252), with a warning if the scheme is not based on a domain name.",
		RunE: func(cmd *cobra.Command, args []string) error {
			spec.ID = args[0]
			cfg, err := readConfig(p.Environ)
			if err != nil {
				return err
			}
			if fromStdin {
				var rest io.ByteReader
				if spec.Secret, rest, err = p.readSecret("secret", 64<<10); err != nil {
					return err
				}
				if _, err := rest.ReadByte(); err == nil { // something else was piped in
					return wrongUse{errors.New("more than one line on stdin")}
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
			for _, warning := range c.Warnings() {
				p.note("warning: " + warning)
			}
			if fromStdin {
				secret = "" // it is known already
			}
			return p.printClient(addedClient{c, secret}, asJSON)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&spec.RedirectURIs, "redirect-uri", nil, "redirect URI; repeat for more")
	f.StringArrayVar(&spec.PostLogoutRedirectURIs, "post-logout-redirect-uri", nil, "where the browser may go after a logout; repeat for more")
	f.StringVar(&spec.Name, "name", "", "name to show to users; default NAME")
	f.StringArrayVar(&spec.Scopes, "scope", nil, "scope that the client may request; repeat for more; default SIGNET_DEFAULT_SCOPES")
	f.BoolVar(&spec.Public, "public", false, "the client cannot keep a secret, and gets none")
	f.BoolVar(&fromStdin, "secret-stdin", false, "read the secret from stdin, one line, instead of making one")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	cmd.MarkFlagRequired("redirect-uri")
	cmd.MarkFlagsMutuallyExclusive("public", "secret-stdin")
	return cmd
}

func (p Process) printClient(c addedClient, asJSON bool) error {
	if asJSON {
		return p.printJSON(c)
	}
	if err := p.print("client_id      %s", c.ID); err != nil || c.Secret == "" {
		return err
	}
	p.note("The secret is not shown again.")
	return p.print("client_secret  %s", c.Secret)
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
				return p.printJSON(list)
			}
			var rows [][]string
			for _, c := range list {
				kind := "confidential"
				if c.Public {
					kind = "public"
				}
				rows = append(rows, []string{c.ID, c.Name, kind, strings.Join(c.Scopes, " "), strings.Join(c.RedirectURIs, " "), time.Unix(c.Created, 0).UTC().Format(time.DateOnly)})
			}
			return p.printTable("CLIENT ID\tNAME\tKIND\tSCOPES\tREDIRECT URIS\tADDED", rows)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func clientRemoveCommand(p Process) *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Remove a client, and end its grants", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := readConfig(p.Environ)
			if err != nil {
				return err
			}
			if err := cfg.clients().Remove(cmd.Context(), args[0]); err != nil {
				return err
			}
			return p.print("removed %s", args[0])
		},
	}
}

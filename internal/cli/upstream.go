package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"signet/internal/upstream"
	"signet/server"
)

func upstreamCommand(p Process) *cobra.Command {
	cmd := &cobra.Command{Use: "upstream", Short: "Providers by whose accounts users sign in"}
	cmd.AddCommand(upstreamCheckCommand(p), upstreamListCommand(p))
	return cmd
}

func upstreamCheckCommand(p Process) *cobra.Command {
	return &cobra.Command{
		Use: "check [FILE]", Short: "Find the faults of the file of providers", Args: cobra.MaximumNArgs(1),
		Long: "Read FILE, or the file of SIGNET_UPSTREAM_CONFIG, as the server does, and name each\n" +
			"fault by line and path. No provider is asked: `signet upstream list` does that.",
		RunE: p.withConfig(func(_ *cobra.Command, cfg *config, args []string) error {
			u := cfg.upstream()
			if len(args) == 1 {
				u = server.Upstream{Config: args[0], Environ: u.Environ}
			}
			set, err := cfg.openUpstreams(u)
			if len(args) == 1 && err != nil {
				return errors.New(strings.TrimPrefix(err.Error(), "SIGNET_UPSTREAM_CONFIG: "))
			}
			if err != nil {
				return err
			}
			if set == nil {
				return errors.New("no upstream is configured: set SIGNET_UPSTREAM_CONFIG or SIGNET_UPSTREAM_ISSUER")
			}
			return p.print("no fault; upstreams: %d", len(set.All()))
		}),
	}
}

// openUpstreams opens the providers as a server does; nil if there are none.
func (c *config) openUpstreams(u server.Upstream) (*upstream.Set, error) {
	return u.Open(scopeList(c.Scopes))
}

// listedUpstream is what `upstream list --json` prints of a provider.
type listedUpstream struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Type        string `json:"type"`
	RedirectURI string `json:"redirect_uri,omitempty"`
	Answers     bool   `json:"answers"`
	Problem     string `json:"problem,omitempty"`
}

func upstreamListCommand(p Process) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the providers, and ask each whether it answers", Args: cobra.NoArgs,
		Long: "List the providers, and ask each whether it answers. The redirect URI is the one to\n" +
			"register at a provider of the type oidc or oauth2.",
		RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, _ []string) error {
			set, err := cfg.openUpstreams(cfg.upstream())
			if err != nil {
				return err
			}
			list := []listedUpstream{}
			if set != nil {
				list = askUpstreams(cmd.Context(), set, cfg.Issuer+"/oauth/callback")
			}
			if asJSON {
				return p.printJSON(list)
			}
			return p.printUpstreams(list)
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// askUpstreams asks all providers at once.
func askUpstreams(ctx context.Context, set *upstream.Set, redirectURI string) []listedUpstream {
	providers := set.All()
	list := make([]listedUpstream, len(providers))
	var work sync.WaitGroup
	for i, u := range providers {
		work.Go(func() {
			list[i] = listedUpstream{ID: u.ID(), Name: u.Name(), Type: u.Kind()}
			if u.Kind() != upstream.Password {
				list[i].RedirectURI = redirectURI
			}
			err := u.Check(ctx)
			if list[i].Answers = err == nil; err != nil {
				list[i].Problem = err.Error()
			}
		})
	}
	work.Wait()
	return list
}

func (p Process) printUpstreams(list []listedUpstream) error {
	var rows [][]string
	for _, u := range list {
		redirectURI, answers := u.RedirectURI, "yes"
		if redirectURI == "" {
			redirectURI = "-"
		}
		if !u.Answers {
			answers = fmt.Sprintf("no: %s", clean(u.Problem))
		}
		rows = append(rows, []string{u.ID, clean(u.Name), u.Type, redirectURI, answers})
	}
	return p.printTable("ID\tNAME\tTYPE\tREDIRECT URI\tANSWERS", rows)
}

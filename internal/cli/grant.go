package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"signet/internal/denylist"
	"signet/internal/seal"
	"signet/internal/state"
	"signet/internal/store"
	"signet/users"
)

// grantPage is how many grants are read and printed at a time.
const grantPage = 1000

// grantInfo is a grant as --json prints it.
type grantInfo struct {
	ID          string     `json:"id"`
	User        string     `json:"user"`
	Client      string     `json:"client"`
	ClientHash  string     `json:"client_hash"`
	Scopes      []string   `json:"scopes"`
	Resource    string     `json:"resource"`
	Since       time.Time  `json:"since"`
	LastRefresh *time.Time `json:"last_refresh,omitempty"`
	Replays     int64      `json:"replays"`
	Expires     time.Time  `json:"expires"`
}

func grantInfoOf(g denylist.Grant) grantInfo {
	info := grantInfo{
		ID: g.ID, User: g.Subject, Client: g.ClientName, ClientHash: g.ClientHash, Scopes: scopeList(g.Scope), Resource: g.Resource,
		Since: time.Unix(g.Created, 0).UTC(), Replays: g.Replays, Expires: time.Unix(g.Expires, 0).UTC(),
	}
	if g.Gen > 1 { // the first generation was issued for the code
		at := time.UnixMilli(g.RotatedAt).UTC().Truncate(time.Second)
		info.LastRefresh = &at
	}
	return info
}

func grantCommand(p Process) *cobra.Command {
	cmd := &cobra.Command{
		Use: "grant", Short: "List and end what users have granted to clients",
		Long: "List and end what users have granted to clients. A grant is one sign-in of one user\n" +
			"with one client. When it ends, its refresh token ends at once and its access tokens\n" +
			"within seconds. A running server need not be stopped.",
	}
	cmd.AddCommand(grantListCommand(p), grantRevokeCommand(p))
	return cmd
}

func grantListCommand(p Process) *cobra.Command {
	var user string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the live grants", Args: cobra.NoArgs,
		Long: "List the live grants. REPLAYS counts repeated refreshes that were answered again, as\n" +
			"after a lost answer. Many of them mean a poor network, or that two programs use one\n" +
			"token. The count lags by some seconds. Times are UTC.",
		RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, _ []string) error {
			list := p.printGrants
			if asJSON {
				list = func(each func(print func([]grantInfo) error) error) error { return printPages(p, each) }
			}
			return withGrants(cmd.Context(), cfg, func(grants *denylist.List, now time.Time) error {
				return list(func(print func([]grantInfo) error) error {
					return eachGrant(cmd.Context(), grants, user, now, print)
				})
			})
		}),
	}
	cmd.Flags().StringVar(&user, "user", "", "list only the grants of this user")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func grantRevokeCommand(p Process) *cobra.Command {
	var user string
	cmd := &cobra.Command{
		Use: "revoke {ID | --user NAME}", Short: "End one grant, or all grants of a user", Args: cobra.MaximumNArgs(1),
		Long: "End one grant, or all grants of a user. The client asks the user to sign in again,\n" +
			"which `signet user disable` prevents. If the ID is that of tokens that a client got for\n" +
			"itself, all such tokens of the client end; it gets others, which `signet client block`\n" +
			"prevents. A running server notices within a second.",
		RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, args []string) error {
			byUser := cmd.Flags().Changed("user")
			switch {
			case byUser == (len(args) == 1):
				return wrongUse{errors.New("give the ID of a grant, or --user NAME")}
			case byUser && strings.TrimSpace(user) == "":
				return wrongUse{errors.New("--user: the name is empty")}
			}
			return withGrants(cmd.Context(), cfg, func(list *denylist.List, now time.Time) error {
				if byUser {
					return p.revokeUser(cmd.Context(), list, user, now)
				}
				err := p.revokeGrant(cmd.Context(), list, args[0], now)
				if list != nil && errors.Is(err, denylist.ErrUnknown) {
					return p.revokeMachine(cmd.Context(), cfg, list, args[0])
				}
				return err
			})
		}),
	}
	cmd.Flags().StringVar(&user, "user", "", "end all grants of this user")
	return cmd
}

// withGrants opens the store, also while a server runs. list is nil before the first
// start.
func withGrants(ctx context.Context, cfg *config, do func(list *denylist.List, now time.Time) error) (err error) {
	st, err := state.OpenStore(ctx, cfg.data())
	if errors.Is(err, store.ErrNoStore) && !errors.Is(err, store.ErrHalf) {
		return do(nil, time.Now())
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	list, err := denylist.New(ctx, denylist.Options{Store: st})
	if err != nil {
		return err
	}
	return do(list, st.Now())
}

// subjects returns the values of sub that a user's grants may have: the name as it is
// given, which a source other than the users file may use, and the name as the users
// file has it.
func subjects(user string) []string {
	if name, err := users.Normalize(user); err == nil && name != user {
		return []string{user, name}
	}
	return []string{user}
}

// eachGrant calls print with the live grants of one user, or of all users, page by page.
func eachGrant(ctx context.Context, list *denylist.List, user string, now time.Time, print func([]grantInfo) error) error {
	if list == nil {
		return nil
	}
	printAll := func(grants []denylist.Grant) error {
		var infos []grantInfo
		for _, g := range grants {
			infos = append(infos, grantInfoOf(g))
		}
		return print(infos)
	}
	of := []string{""}
	if user != "" {
		of = subjects(user)
	}
	for _, subject := range of {
		for after := ""; ; {
			grants, err := list.All(ctx, subject, after, grantPage, now)
			if err != nil {
				return err
			}
			if len(grants) == 0 {
				break
			}
			if err := printAll(grants); err != nil {
				return err
			}
			after = grants[len(grants)-1].ID
		}
	}
	return nil
}

// printGrants prints the pages that each passes to it. Columns are aligned within a page.
func (p Process) printGrants(each func(print func([]grantInfo) error) error) error {
	header := "USER\tCLIENT\tSCOPES\tRESOURCE\tSINCE\tLAST REFRESH\tREPLAYS\tEXPIRES\tID"
	pages := 0
	print := func(grants []grantInfo) error {
		var rows [][]string
		for _, g := range grants {
			last := "-"
			if g.LastRefresh != nil {
				last = g.LastRefresh.Format(minutes)
			}
			rows = append(rows, []string{clean(g.User), clean(g.Client), strings.Join(g.Scopes, " "), clean(g.Resource),
				g.Since.Format(minutes), last, strconv.FormatInt(g.Replays, 10), g.Expires.Format(minutes), g.ID})
		}
		pages++
		return p.printTable(header, rows)
	}
	if err := each(print); err != nil || pages > 0 {
		return err
	}
	return print(nil)
}

const minutes = "2006-01-02 15:04"

func (p Process) revokeGrant(ctx context.Context, list *denylist.List, id string, now time.Time) error {
	var g denylist.Grant
	err := denylist.ErrUnknown
	if list != nil {
		g, err = list.Find(ctx, id)
	}
	switch {
	case errors.Is(err, denylist.ErrRevoked):
		return p.print("grant %s has ended already", g.ID)
	case errors.Is(err, denylist.ErrUnknown):
		return fmt.Errorf("%w: %q", err, id)
	case err != nil:
		return err
	}
	if err := list.Revoke(ctx, g, now); err != nil {
		return err
	}
	return p.print("grant %s of %s to %s is revoked", g.ID, clean(g.Subject), clean(g.ClientName))
}

// revokeMachine ends the tokens that a client got for itself, if id is their grant. Only the
// log and the tokens have such an id: there is no row.
func (p Process) revokeMachine(ctx context.Context, cfg *config, list *denylist.List, id string) error {
	configured, err := cfg.clients().List()
	if err != nil {
		return err
	}
	for _, c := range configured {
		hash := seal.ClientHash(c.ID)
		switch of, err := list.IsClientGrant(id, hash); {
		case err != nil:
			return err
		case !of:
			continue
		}
		if err := list.EndClient(ctx, hash); err != nil {
			return err
		}
		return p.print("the tokens that %s got for itself are revoked; it can get others until `signet client block %s`", c.ID, c.ID)
	}
	return fmt.Errorf("%w: %q", denylist.ErrUnknown, id)
}

// revokeUser prints how many grants it ended, also if it then failed: those stay ended.
func (p Process) revokeUser(ctx context.Context, list *denylist.List, user string, now time.Time) error {
	total := 0
	for _, subject := range subjects(user) {
		if list == nil {
			break
		}
		n, err := list.RevokeAll(ctx, subject, now)
		total += n
		if err != nil {
			return fmt.Errorf("%d grants of %s are revoked, then: %w", total, clean(user), err)
		}
	}
	return p.print("grants of %s revoked: %d", clean(user), total)
}

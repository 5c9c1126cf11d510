package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"signet/internal/clients"
	"signet/internal/denylist"
	"signet/internal/seal"
)

// maxRegistration is the length from which a registration document is not read.
const maxRegistration = 1 << 20

func clientExplainCommand(p Process) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "explain ID|URL|REGISTRATION", Short: "Say what a server sees in a client, and what it would refuse", Args: cobra.ExactArgs(1),
		Long: "Say what a server with these settings sees in a client, and what it would refuse.\n" +
			"ID is the client_id of a configured client, or of one that registered itself. URL is\n" +
			"the client_id of a client that has a metadata document; the document and its keys\n" +
			"are fetched now, by the rules of a server. REGISTRATION is a file with the JSON that a\n" +
			"client would send to /register, or - for stdin; nothing is registered. A running\n" +
			"server is neither needed nor asked.",
		RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, args []string) error {
			x, err := p.explain(cmd.Context(), cfg, args[0])
			switch {
			case err != nil:
				return err
			case asJSON:
				return p.printJSON(x)
			}
			return p.printExplanation(x)
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// explainedClient is what `client explain --json` prints.
type explainedClient struct {
	clients.Explanation
	Lives     *explainedLives `json:"lives,omitempty"`
	Blocked   bool            `json:"blocked"`
	BlockedAt *time.Time      `json:"blocked_at,omitempty"`
	Notes     []string        `json:"notes,omitempty"`
}

// explainedLives are durations, written as in the settings. A client without users has only
// the first one.
type explainedLives struct {
	Access  string `json:"access_ttl"`
	Refresh string `json:"refresh_ttl,omitempty"`
	Idle    string `json:"refresh_idle_ttl,omitempty"`
	Replay  string `json:"replay_window,omitempty"`
}

// explain finds out what the argument is: an id goes before a file of the same name.
func (p Process) explain(ctx context.Context, cfg *config, arg string) (*explainedClient, error) {
	if arg == "" {
		return nil, wrongUse{errors.New("the client is empty: name an id, a URL, a file, or - for stdin")}
	}
	ring, ringErr := cfg.data().Ring()
	if ringErr != nil { // without the secret only the ids of registered clients say nothing
		var err error
		if ring, err = seal.Parse(seal.NewSecret()); err != nil {
			return nil, err
		}
	}
	registry, err := clients.Open(cfg.clientOptions(ring))
	if err != nil {
		return nil, err
	}
	if arg == "-" {
		return p.explainDocument(ctx, cfg, registry, "stdin", p.Stdin)
	}
	x, err := registry.Explain(ctx, arg)
	if errors.Is(err, clients.ErrUnknown) {
		file, openErr := os.Open(arg)
		switch {
		case openErr == nil:
			defer file.Close()
			return p.explainDocument(ctx, cfg, registry, arg, file)
		case !errors.Is(openErr, fs.ErrNotExist) && strings.ContainsAny(arg, "./"):
			return nil, openErr
		case ringErr != nil && !errors.Is(ringErr, fs.ErrNotExist):
			return nil, fmt.Errorf("whether %s is a registered client cannot be told: %w", shortID(arg), ringErr)
		}
		return nil, fmt.Errorf("%w, and no such file: %s", clients.ErrUnknown, shortID(arg))
	}
	if err != nil {
		return nil, err
	}
	all := &explainedClient{Explanation: *x}
	all.addLives(cfg)
	return all, all.addBlock(ctx, cfg)
}

// explainDocument explains a registration document.
func (p Process) explainDocument(ctx context.Context, cfg *config, registry *clients.Registry, name string, in io.Reader) (*explainedClient, error) {
	body, err := io.ReadAll(io.LimitReader(in, maxRegistration+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", name, err)
	case len(body) > maxRegistration:
		return nil, fmt.Errorf("%s is longer than %d bytes: not a registration", name, maxRegistration)
	}
	x, err := registry.ExplainRegistration(ctx, body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	all := &explainedClient{Explanation: *x}
	all.addLives(cfg)
	switch cfg.Registration {
	case "off":
		all.Refused = append(all.Refused, "the registration: SIGNET_REGISTRATION=off")
	case "token":
		all.Notes = append(all.Notes, "the registration needs the token of SIGNET_REGISTRATION_TOKEN")
	}
	return all, nil
}

func (x *explainedClient) addLives(cfg *config) {
	c := x.Client()
	if c == nil || c.Resource != "" {
		return
	}
	l := c.Lives.Within(clients.Lives{Access: cfg.Lives.Access, Refresh: cfg.Lives.Refresh, Idle: cfg.Lives.Idle, Replay: cfg.Lives.Replay})
	if cfg.Lives.Replay == 0 {
		l.Replay = 0
	}
	if x.Lives = (&explainedLives{Access: l.Access.String()}); x.Consent == "" {
		return
	}
	x.Lives.Refresh, x.Lives.Idle, x.Lives.Replay = l.Refresh.String(), min(l.Idle, l.Refresh).String(), max(0, l.Replay).String()
	if c.KeyOnly {
		x.Notes = append(x.Notes, "the refresh token stays the same, so refresh_idle_ttl and replay_window do not apply")
	}
}

// addBlock looks whether the client is blocked. A store that cannot be read is a note: the
// rest is worth knowing.
func (x *explainedClient) addBlock(ctx context.Context, cfg *config) error {
	err := withGrants(ctx, cfg, func(list *denylist.List, _ time.Time) error {
		if list == nil {
			return nil
		}
		blocked, err := list.BlockedClients(ctx)
		for _, b := range blocked {
			if b.Hash == x.Hash {
				at := b.At.UTC()
				x.Blocked, x.BlockedAt = true, &at
				x.Refused = append(x.Refused, "the client: it is blocked (`signet client unblock` ends that)")
			}
		}
		return err
	})
	if err != nil {
		x.Notes = append(x.Notes, "whether the client is blocked cannot be read: "+err.Error())
	}
	return ctx.Err()
}

// printExplanation prints one fact a line. Text of the client is printed clean.
func (p Process) printExplanation(x *explainedClient) error {
	var err error
	line := func(label, format string, args ...any) {
		if err == nil {
			err = p.print("%-14s %s", label, clean(fmt.Sprintf(format, args...)))
		}
	}
	if x.ID != "" {
		line("client_id", "%s", x.ID)
		line("client_hash", "%s", x.Hash)
	}
	line("known by", "%s", x.KnownBy)
	x.printDocument(line)
	if x.Name != "" {
		line("name", "%s", x.Name)
	}
	if x.Since != nil {
		line("since", "%s", clock(*x.Since))
	}
	if x.Resource != "" {
		line("resource", "%s (a resource server: it introspects the tokens for it, and gets none)", x.Resource)
	}
	if x.Client() != nil {
		line("methods", "%s", orNone(x.Methods))
	}
	x.printURIsAndKeys(line)
	if x.Resource == "" && x.Client() != nil {
		if len(x.Exchange) > 0 && len(x.Scopes) == 0 {
			line("scopes", "those of the exchanged token, or fewer")
		} else {
			line("scopes", "%s (by default), may ask for %s", orNone(x.Scopes), orNone(x.MayRequest))
		}
		line("grant types", "%s", orNone(x.GrantTypes))
	}
	if len(x.Exchange) > 0 {
		line("exchanges for", "%s", strings.Join(x.Exchange, " "))
	}
	if l := x.Lives; l != nil && l.Refresh == "" {
		line("lives", "access token %s", l.Access)
	} else if l != nil {
		line("lives", "access token %s, grant %s, unused refresh token %s, replay window %s", l.Access, l.Refresh, l.Idle, l.Replay)
	}
	if x.Consent != "" {
		line("consent", "%s (by %s)", consentTexts[x.Consent], x.ConsentBy)
	}
	x.printQuirk(line)
	if x.ID != "" {
		line("blocked", "%s", map[bool]string{true: "yes", false: "no"}[x.Blocked])
	}
	for _, note := range x.Notes {
		line("note", "%s", note)
	}
	for _, what := range x.Refused {
		line("refused", "%s", what)
	}
	return err
}

var consentTexts = map[string]string{
	clients.ConsentChoose: "choose: users may grant a part of a request, and for a shorter time",
	clients.ConsentFixed:  "fixed: users approve or deny a request as a whole",
}

func (x *explainedClient) printDocument(line func(label, format string, args ...any)) {
	switch d := x.Document; {
	case d == nil:
	case d.Error != "":
		line("document", "cannot be used: %s", d.Error)
	case d.Bytes > 0 && d.Fresh != "":
		line("document", "%d bytes, good for %s by its host", d.Bytes, d.Fresh)
	case d.Bytes > 0:
		line("document", "%d bytes", d.Bytes)
	}
}

func (x *explainedClient) printURIsAndKeys(line func(label, format string, args ...any)) {
	for _, uri := range x.RedirectURIs {
		switch {
		case uri.Refused != "":
			line("redirect URI", "%s (refused: %s)", uri.URI, uri.Refused)
		case uri.Warning != "":
			line("redirect URI", "%s (warning: %s)", uri.URI, uri.Warning)
		default:
			line("redirect URI", "%s", uri.URI)
		}
	}
	if x.Keys == nil {
		return
	}
	if x.Keys.URL != "" {
		line("keys at", "%s", x.Keys.URL)
	}
	for _, key := range x.Keys.List {
		name := key.ID
		if name == "" {
			name = "without kid"
		}
		line("key", "%s (%s)", name, strings.Join(key.Algorithms, " "))
	}
}

func (x *explainedClient) printQuirk(line func(label, format string, args ...any)) {
	q := x.Quirk
	if q == nil {
		line("quirk", "none")
		return
	}
	line("quirk", "%s, by %s", q.Name, x.QuirkBy)
	for _, text := range []struct{ label, text string }{{"  known", q.Known}, {"  seen", strings.Join(q.Seen, ", ")}, {"  does", q.Does}, {"  sets", q.Sets()}} {
		if text.text != "" {
			line(text.label, "%s", text.text)
		}
	}
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, " ")
}

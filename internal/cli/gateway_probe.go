package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"signet/internal/backend"
	"signet/internal/gatewayconfig"
	"signet/internal/rawjson"
	"signet/server"
)

// probeTimeout bounds what one server takes to start and to answer.
const probeTimeout = 30 * time.Second

// probedServer is what `gateway probe --json` prints of a server.
type probedServer struct {
	ID       string       `json:"id"`
	Strategy string       `json:"auth_strategy"`
	Protocol string       `json:"protocol,omitempty"`
	Works    bool         `json:"works"`
	Tools    []probedTool `json:"tools"`              // null if they cannot be listed
	Problems []string     `json:"problems,omitempty"` // why it does not work
	Notes    []string     `json:"notes,omitempty"`
}

type probedTool struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	Pin         string `json:"pin"` // hash of all that the server says of the tool
}

func gatewayProbeCommand(p Process) *cobra.Command {
	var asJSON bool
	var tokens []string
	cmd := &cobra.Command{
		Use: "probe [FILE]", Short: "Connect to each server of the gateway, and say what is wrong", Args: cobra.MaximumNArgs(1), Annotations: takesOverrides,
		Long: "Connect to each server of FILE, or of the file of SIGNET_GATEWAY_CONFIG, list its tools,\n" +
			"and say what is wrong. No running server of Signet is asked. A server that wants a\n" +
			"user's credential is asked with the one of --token, or else lists no tools, which is\n" +
			"no failure. The exit status is 1 if a server does not work.",
		RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, args []string) error {
			list, err := p.probe(cmd.Context(), cfg, args, tokens)
			if err != nil {
				return err
			}
			if asJSON {
				err = p.printJSON(list)
			} else {
				err = p.printProbed(list)
			}
			return errors.Join(err, failedServers(list))
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, with the tools")
	cmd.Flags().StringArrayVar(&tokens, "token", nil, "ID=VARIABLE: the environment variable has a credential for the server ID (repeatable)")
	return cmd
}

// failedServers is the error of servers that do not work, or nil.
func failedServers(list []probedServer) error {
	failed := 0
	for _, s := range list {
		if !s.Works {
			failed++
		}
	}
	if failed == 0 {
		return nil
	}
	return fmt.Errorf("servers that do not work: %d of %d", failed, len(list))
}

// probe connects to all servers of a file at once.
func (p Process) probe(ctx context.Context, cfg *config, args, tokens []string) ([]probedServer, error) {
	path := cfg.Gateway.Config
	if len(args) == 1 {
		path = args[0]
	}
	if path == "" {
		return nil, wrongUse{errors.New("no FILE, and SIGNET_GATEWAY_CONFIG is not set")}
	}
	o := cfg.gatewayOptions(p.overrides)
	o.Part = gatewayconfig.ForGateway
	c, err := gatewayconfig.Load(path, o)
	if err != nil {
		return nil, fmt.Errorf("%s:\n%w", path, err)
	}
	given, err := readTokens(cfg, c, tokens)
	if err != nil {
		return nil, err
	}
	list := make([]probedServer, len(c.Servers))
	var work sync.WaitGroup
	for i, s := range c.Servers {
		work.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, probeTimeout)
			defer cancel()
			list[i] = probeServer(ctx, s, cmp.Or(given[s.ID], string(s.Token)))
		})
	}
	work.Wait()
	return list, ctx.Err()
}

// readTokens reads the credentials of flags of the form ID=VARIABLE.
func readTokens(cfg *config, c *gatewayconfig.Config, flags []string) (map[string]string, error) {
	tokens := map[string]string{}
	for _, flag := range flags {
		id, variable, ok := strings.Cut(flag, "=")
		if !ok || variable == "" {
			return nil, wrongUse{errors.New("--token must be ID=VARIABLE")}
		}
		if _, ok := c.Server(id); !ok {
			return nil, wrongUse{fmt.Errorf("--token: there is no server %q", id)}
		}
		if tokens[id] = cfg.all[variable]; tokens[id] == "" {
			return nil, wrongUse{fmt.Errorf("--token: the environment variable of the server %s is not set", id)}
		}
	}
	return tokens, nil
}

// probeServer connects to one server.
func probeServer(ctx context.Context, s *gatewayconfig.Server, token string) (found probedServer) {
	found = probedServer{ID: s.ID, Strategy: s.Strategy}
	fail := func(err error) {
		found.Problems = append(found.Problems, strings.ReplaceAll(err.Error(), "server "+s.ID+": ", ""))
	}
	b, err := backend.New(backend.Options{Server: s, Agent: "signet/" + server.Version, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		fail(err)
		return found
	}
	defer b.Close()
	defer func() { found.Protocol, found.Works = b.State().Era, len(found.Problems) == 0 }()
	if err := b.Check(ctx); err != nil {
		fail(err)
		return found
	}
	tools, err := b.List(ctx, "tools", "", credentialOf(s, token))
	e, ok := errors.AsType[*backend.Error](err)
	switch {
	case ok && e.Kind == backend.Unauthorized && token == "" && s.Strategy != gatewayconfig.Bypass:
		found.Notes = append(found.Notes, "its tools are listed with a credential only (--token)")
	case err != nil:
		fail(err)
	default:
		found.read(s, tools)
	}
	return found
}

// credentialOf returns the header in which a server expects a credential.
func credentialOf(s *gatewayconfig.Server, token string) http.Header {
	if token == "" {
		return nil
	}
	name, scheme := s.Header, s.Scheme
	if name == "" {
		name, scheme = "Authorization", cmp.Or(scheme, "Bearer ")
	}
	return http.Header{http.CanonicalHeaderKey(name): {scheme + token}}
}

// read compares the tools of a server with what its configuration says of them.
func (found *probedServer) read(s *gatewayconfig.Server, tools []json.RawMessage) {
	found.Tools = []probedTool{}
	pins := map[string]string{}
	for _, raw := range tools {
		name, _ := rawjson.String(rawjson.Get(raw, "name"))
		description, _ := rawjson.String(rawjson.Get(raw, "description"))
		pin, err := gatewayconfig.Pin(raw)
		switch _, again := pins[name]; {
		case name == "" || err != nil:
			found.Notes = append(found.Notes, "a tool without a name is not served")
			continue
		case again:
			found.Notes = append(found.Notes, "two tools have the name "+strconv.Quote(name))
			continue
		}
		if why := backend.ItemProblem("tools", raw); why != "" {
			found.Notes = append(found.Notes, "the tool "+strconv.Quote(name)+" is not served: "+why)
			continue
		}
		pins[name] = pin
		found.Tools = append(found.Tools, probedTool{name, description, pin})
		if reviewed, ok := s.Pins[name]; ok && reviewed != pin {
			found.Problems = append(found.Problems, "the tool "+strconv.Quote(name)+" has changed since it was pinned, and is not served")
		} else if !ok && s.Pins != nil {
			found.Notes = append(found.Notes, "the tool "+strconv.Quote(name)+" is not pinned, and not served")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Tools)) {
		if _, ok := pins[name]; !ok {
			found.Notes = append(found.Notes, "the configuration names the tool "+strconv.Quote(name)+", which the server does not have")
		}
	}
}

func (p Process) printProbed(list []probedServer) error {
	var rows [][]string
	for _, s := range list {
		tools, works := "-", "yes"
		if s.Tools != nil {
			tools = strconv.Itoa(len(s.Tools))
		}
		if !s.Works {
			works = "no"
		}
		if said := strings.Join(append(slices.Clone(s.Problems), s.Notes...), "; "); said != "" {
			works += ": " + cleanTo(1000, said)
		}
		rows = append(rows, []string{s.ID, orDash(s.Protocol), tools, works})
	}
	return p.printTable("ID\tPROTOCOL\tTOOLS\tWORKS", rows)
}

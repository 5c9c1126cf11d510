package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"signet/internal/backend"
)

// adminTimeout bounds a question to the running server, and maxAdminAnswer the answer.
const (
	adminTimeout   = 10 * time.Second
	maxAdminAnswer = 16 << 20
)

func gatewayListCommand(p Process) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the servers of the running gateway, with their state", Args: cobra.NoArgs,
		Long: "Ask the server that runs on this machine with these settings for the state of the MCP\n" +
			"servers behind it. It is asked on the listener of SIGNET_METRICS_LISTEN.",
		RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, _ []string) error {
			list, err := askGateway(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			if asJSON {
				return p.printJSON(list)
			}
			return p.printServers(list)
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// askGateway asks the running server for the state of the servers behind it.
func askGateway(ctx context.Context, cfg *config) ([]backend.State, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	if cfg.MetricsListen == "off" {
		return nil, errors.New("SIGNET_METRICS_LISTEN is off: the running server is asked on that listener")
	}
	host, port, err := net.SplitHostPort(cfg.MetricsListen)
	if err != nil {
		return nil, fmt.Errorf("SIGNET_METRICS_LISTEN: %w", err)
	}
	switch host {
	case "", "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/gateway/servers", nil)
	if err != nil {
		return nil, fmt.Errorf("SIGNET_METRICS_LISTEN: %w", err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r) // no proxy: the server is on this machine
	if err != nil {
		return nil, fmt.Errorf("no server answers at %s (SIGNET_METRICS_LISTEN): %w", cfg.MetricsListen, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAdminAnswer))
	if err != nil {
		return nil, fmt.Errorf("reading the server's answer: %w", err)
	}
	var answer struct {
		Servers []backend.State
		Error   string
	}
	if err := json.Unmarshal(text, &answer); err != nil || resp.StatusCode != http.StatusOK {
		if answer.Error == "" {
			answer.Error = "what listens there is no server with a gateway: " + resp.Status
		}
		return nil, fmt.Errorf("%s: %s", cfg.MetricsListen, clean(answer.Error))
	}
	if answer.Servers == nil {
		answer.Servers = []backend.State{}
	}
	return answer.Servers, nil
}

func (p Process) printServers(list []backend.State) error {
	var rows [][]string
	for _, s := range list {
		running, open := 0, 0
		for _, i := range s.Instance {
			if i.Status == "running" {
				running++
			}
			if i.Breaker == "open" {
				open++
			}
		}
		instances := fmt.Sprintf("%d/%d", running, len(s.Instance))
		if open > 0 {
			instances += fmt.Sprintf(", %d open", open)
		}
		rows = append(rows, []string{s.ID, orDash(s.Status), orDash(s.Era), instances, s.Since.UTC().Format(time.RFC3339), orDash(problems(s))})
	}
	return p.printTable("ID\tSTATUS\tPROTOCOL\tRUNNING\tSINCE\tPROBLEM", rows)
}

// problems are what is wrong with a server, for a table.
func problems(s backend.State) string {
	const most = 3
	said := slices.Clone(s.LeftOut[:min(len(s.LeftOut), most)])
	if more := len(s.LeftOut) - most; more > 0 {
		said = append(said, fmt.Sprintf("%d more (--json)", more))
	}
	if s.Problem != "" {
		said = append([]string{s.Problem}, said...)
	}
	return clean(strings.Join(said, "; "))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"signet/internal/gatewayconfig"
	"signet/server"
)

func gatewayCommand(p Process) *cobra.Command {
	cmd := &cobra.Command{Use: "gateway", Short: "The MCP servers behind the gateway"}
	cmd.AddCommand(gatewayCheckCommand(p), gatewaySchemaCommand(p), gatewayListCommand(p), gatewayProbeCommand(p), gatewayPinCommand(p))
	return cmd
}

// checkedGateway is what `gateway check --json` prints.
type checkedGateway struct {
	Faults   []gatewayFault `json:"faults"`
	Warnings []string       `json:"warnings"`
	Config   any            `json:"config,omitempty"` // if there is no fault
}

type gatewayFault struct {
	Line int    `json:"line,omitempty"`
	From string `json:"from,omitempty"` // variable or flag that has the value
	Path string `json:"path,omitempty"`
	What string `json:"what"`
}

func gatewayCheckCommand(p Process) *cobra.Command {
	var asJSON bool
	var part string
	cmd := &cobra.Command{
		Use: "check [FILE]", Short: "Find the faults of the gateway's configuration", Args: cobra.MaximumNArgs(1), Annotations: takesOverrides,
		Long: "Read FILE, or the file of SIGNET_GATEWAY_CONFIG, as the server does, with the variables\n" +
			"that win over it, and name each fault by line and path. No server is asked. A flag with\n" +
			"the path of a member, such as --hosting.port=4000, wins over file and variables.",
		RunE: p.withConfig(func(_ *cobra.Command, cfg *config, args []string) error {
			o := cfg.gatewayOptions(p.overrides)
			var ok bool
			if o.Part, ok = gatewayParts[part]; !ok {
				return wrongUse{errors.New("--role must be all, auth or mcp")}
			}
			file := cfg.Gateway.Config
			if len(args) == 1 {
				file = args[0]
			}
			if file == "" {
				return wrongUse{errors.New("name a file, or set SIGNET_GATEWAY_CONFIG")}
			}
			c, err := gatewayconfig.Load(file, o)
			if asJSON {
				return p.printGateway(c, err)
			}
			if err != nil {
				return fmt.Errorf("%s:\n%w", file, err)
			}
			for _, warning := range c.Warnings {
				p.note("%s: %s", file, clean(warning))
			}
			return p.print("no fault; servers: %d, connections: %d", len(c.Servers), len(c.Connections))
		}),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print faults, warnings and the configuration as JSON, without secrets")
	cmd.Flags().StringVar(&part, "role", "all", "role of the process whose secrets must be there: all, auth or mcp")
	return cmd
}

// gatewayParts are what a process of a role needs of the configuration.
var gatewayParts = map[string]gatewayconfig.Part{"all": gatewayconfig.Whole, "auth": gatewayconfig.ForIssuer, "mcp": gatewayconfig.ForGateway}

// useGateway takes the address, the issuer and the level of the log from the gateway's
// configuration, unless variables say otherwise. A file with faults says nothing: a server tells
// them at its start.
func (c *config) useGateway() {
	if c.Gateway.Config == "" {
		return
	}
	o := c.gatewayOptions(c.gatewayFlags)
	if len(c.Resources) == 0 {
		o.Resources = nil // they follow from the issuer, which the file may set
	}
	o.Part, o.Decrypt = gatewayParts[c.Role], func(string) (gatewayconfig.Sealed, error) { return gatewayconfig.Sealed{}, gatewayconfig.ErrSkip }
	g, err := gatewayconfig.Load(c.Gateway.Config, o)
	if err != nil {
		return
	}
	port := strconv.Itoa(g.Port)
	if g.Port != 0 && c.wins("LISTEN", "hosting.port", strings.HasSuffix(c.Listen, ":"+port)) {
		c.Listen = net.JoinHostPort("127.0.0.1", port)
		if g.AllAddresses {
			c.Listen = ":" + port
		}
		if g.BaseURL == "" && c.environ[envPrefix+"ISSUER"] == "" {
			c.Issuer = "http://localhost:" + port
		}
	}
	if g.BaseURL != "" && c.wins("ISSUER", "hosting.base_url", c.Issuer == g.BaseURL) {
		c.Issuer = g.BaseURL
	}
	if level := slog.Level(0); g.LogLevel != "" && level.UnmarshalText([]byte(g.LogLevel)) == nil && c.wins("LOG_LEVEL", "logging.level", c.LogLevel == level) {
		c.LogLevel = level
	}
}

// wins reports whether a member of the gateway's configuration wins over a variable: if the
// variable is not set. It notes a member that does not win and differs.
func (c *config) wins(variable, member string, same bool) bool {
	if c.environ[envPrefix+variable] == "" {
		return true
	}
	if !same {
		c.unused = append(c.unused, fmt.Sprintf("%s of the gateway's configuration counts for nothing: %s is set", member, envPrefix+variable))
	}
	return false
}

// gatewayOptions are the options to read the gateway's configuration with.
func (c *config) gatewayOptions(flags []string) gatewayconfig.Options {
	resources := c.Resources
	if len(resources) == 0 {
		resources = []string{c.Issuer + "/mcp"}
	}
	return gatewayconfig.Options{
		Environ: func(name string) (string, bool) { value, ok := c.all[name]; return value, ok },
		Decrypt: server.OpenSettings(c.data().Ring), Flags: flags, Resources: resources,
	}
}

var errGatewayFaults = errors.New("the configuration has faults")

// printGateway prints the outcome of a check for programs.
func (p Process) printGateway(c *gatewayconfig.Config, err error) error {
	view := checkedGateway{Faults: []gatewayFault{}, Warnings: []string{}}
	if err == nil {
		view.Config = c.Redacted()
		view.Warnings = append(view.Warnings, c.Warnings...)
		return p.printJSON(view)
	}
	all, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return err // the file cannot be read
	}
	for _, err := range all.Unwrap() {
		var f *gatewayconfig.Fault
		if errors.As(err, &f) {
			view.Faults = append(view.Faults, gatewayFault{f.Line, f.From, f.Path, f.What})
		}
	}
	return errors.Join(p.printJSON(view), errGatewayFaults)
}

func gatewaySchemaCommand(p Process) *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "Print the JSON Schema of the gateway's configuration, for editors", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := p.Stdout.Write(gatewayconfig.Schema())
			return err
		},
	}
}

// maxSetting is the length of a secret that `secret encrypt` seals, in bytes.
const maxSetting = 4 << 10

func secretEncryptCommand(p Process) *cobra.Command {
	return &cobra.Command{
		Use: "encrypt", Short: "Seal a secret from stdin, for the gateway's configuration", Args: cobra.NoArgs,
		Long: "Read a secret of at most 4 KiB from stdin and print it sealed under the root secret, as\n" +
			"enc:..., which may stand in the gateway's configuration. A line end after the secret\n" +
			"does not count. Only a server with the same root secret opens it.",
		RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, _ []string) error {
			value, err := p.readSetting(cmd.Context())
			if err != nil {
				return err
			}
			ring, err := p.openRing(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			sealed, err := server.SealSetting(ring, value)
			if err != nil {
				return err
			}
			return p.print("enc:%s", sealed)
		}),
	}
}

// readSetting reads a secret, which may have several lines.
func (p Process) readSetting(ctx context.Context) (string, error) {
	if _, ok := p.terminal(); ok {
		return p.askPassword(ctx, "Secret: ")
	}
	text, err := io.ReadAll(io.LimitReader(p.Stdin, maxSetting+3))
	if err != nil {
		return "", fmt.Errorf("reading the secret: %w", err)
	}
	value := strings.TrimRight(string(text), "\r\n")
	switch {
	case value == "":
		return "", wrongUse{errors.New("no secret on stdin")}
	case len(value) > maxSetting:
		return "", wrongUse{fmt.Errorf("the secret has more than %d bytes", maxSetting)}
	}
	return value, nil
}

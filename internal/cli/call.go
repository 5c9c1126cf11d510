package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"unicode"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"signet/internal/oauth"
	"signet/server"
)

func callCommand(p Process) *cobra.Command {
	var where, username string
	var scopes []string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "call [TOOL] --server URL [name=value ...]", Short: "Call a tool of any MCP server, signing in on the way",
		Long: "Call a tool of an MCP server and say at each step what is done: discovery,\n" +
			"registration, login in a browser, the call, a refresh of the token, and a second\n" +
			"call with the new token. Without TOOL it lists the server's tools.\n\n" +
			"The result goes to stdout, everything else to stderr. An argument is a string\n" +
			"unless the tool wants something else; then it is JSON. A tool that may change\n" +
			"something is not called twice: the second call lists the tools instead.",
		Example: "  signet call --server http://localhost:8080/mcp\n" +
			"  signet call greet --server http://localhost:8080/mcp name=World\n" +
			"  echo demo_password | signet call whoami --server http://localhost:8080/mcp --username demo_user",
		RunE: func(cmd *cobra.Command, args []string) error {
			endpoint, err := parseEndpoint(where)
			if err != nil {
				return wrongUse{fmt.Errorf("--server: %w", err)}
			}
			order, err := parseOrder(args)
			if err != nil {
				return wrongUse{err}
			}
			c := &caller{out: p.Stderr, environ: p.Environ, endpoint: endpoint, scopes: scopeList(strings.Join(scopes, " ")), username: username}
			if username != "" {
				if c.password, err = passwordFor(cmd.Context(), p); err != nil {
					return err
				}
			}
			return c.run(cmd.Context(), p.Stdout, order, asJSON)
		},
	}
	cmd.Flags().StringVar(&where, "server", "", "URL of the MCP server")
	cmd.Flags().StringVar(&username, "username", "", "sign in as this user without a browser; the password is read from stdin")
	cmd.Flags().StringArrayVar(&scopes, "scope", nil, "scope to ask for, in place of what the server suggests; repeat for more")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the result as the server sent it")
	return cmd
}

// parseEndpoint refuses what a token must not be sent to.
func parseEndpoint(raw string) (*url.URL, error) {
	if raw == "" {
		return nil, errors.New("say which MCP server, such as http://localhost:8080/mcp")
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "":
		return nil, fmt.Errorf("%q is not the URL of an MCP server, such as https://mcp.example.com/mcp", raw)
	case u.Scheme != "https" && (u.Scheme != "http" || !oauth.IsLoopbackHost(u.Hostname())):
		return nil, fmt.Errorf("%q must be https: only on this machine may a token travel in clear", raw)
	}
	return u, nil
}

// order is what the command line asks for.
type order struct {
	tool string // empty: list the tools
	args []argument
}

type argument struct{ name, value string }

func parseOrder(args []string) (order, error) {
	var o order
	for i, a := range args {
		name, value, ok := strings.Cut(a, "=")
		switch {
		case ok && name != "":
			o.args = append(o.args, argument{name, value})
		case i == 0 && !ok && a != "":
			o.tool = a
		default:
			return o, fmt.Errorf("%q is not name=value", a)
		}
	}
	if o.tool == "" && len(o.args) > 0 {
		return o, errors.New("arguments need a tool to go to")
	}
	return o, nil
}

func passwordFor(ctx context.Context, p Process) (string, error) {
	if in, ok := p.Stdin.(*os.File); ok && term.IsTerminal(int(in.Fd())) {
		return askPassword(ctx, p, "Password: ")
	}
	return readPassword(p.Stdin)
}

// run calls, refreshes, and calls again.
func (c *caller) run(ctx context.Context, stdout io.Writer, o order, asJSON bool) error {
	c.prepare()
	if err := c.findEndpoint(ctx); err != nil {
		return err
	}
	if err := c.probe(ctx); err != nil {
		return err
	}
	c.say("Opening an MCP session")
	client := sdk.NewClient(&sdk.Implementation{Name: "signet call", Version: server.Version}, nil)
	session, err := client.Connect(ctx, &sdk.StreamableClientTransport{
		Endpoint: c.endpoint.String(), HTTPClient: &http.Client{Transport: c}, DisableStandaloneSSE: true,
	}, nil)
	if err != nil {
		return c.explain("opening an MCP session", err)
	}
	defer session.Close()
	tools, err := listTools(ctx, session)
	if err != nil {
		return c.explain("listing the tools", err)
	}
	if o.tool == "" {
		if err := printTools(stdout, tools, asJSON); err != nil {
			return err
		}
		return c.refreshAndRepeat(ctx, func() error {
			_, err := listTools(ctx, session)
			return err
		})
	}
	return c.callTool(ctx, session, tools, o, stdout, asJSON)
}

func (c *caller) callTool(ctx context.Context, session *sdk.ClientSession, tools []*sdk.Tool, o order, stdout io.Writer, asJSON bool) error {
	tool := &sdk.Tool{Name: o.tool} // one that is not listed may exist, and need another scope
	i := slices.IndexFunc(tools, func(t *sdk.Tool) bool { return t.Name == o.tool })
	if i >= 0 {
		tool = tools[i]
	}
	params := &sdk.CallToolParams{Name: o.tool}
	var err error
	if params.Arguments, err = o.typed(tool.InputSchema); err != nil {
		return wrongUse{err}
	}
	c.say("Calling %s", o.tool)
	result, err := session.CallTool(ctx, params)
	switch {
	case err != nil && i < 0 && !c.refused():
		return noTool(o.tool, tools)
	case err != nil:
		return c.explain("calling "+o.tool, err)
	}
	if err := printResult(stdout, result, asJSON); err != nil {
		return err
	}
	if result.IsError {
		return fmt.Errorf("%s says that it failed", o.tool)
	}
	return c.refreshAndRepeat(ctx, func() error {
		if a := tool.Annotations; a == nil || !a.ReadOnlyHint && !a.IdempotentHint {
			c.say("Listing the tools with the new token: a second call of %s may do something twice", o.tool)
			_, err := listTools(ctx, session)
			return err
		}
		c.say("Calling %s with the new token", o.tool)
		_, err := session.CallTool(ctx, params)
		return err
	})
}

func noTool(name string, tools []*sdk.Tool) error {
	var names []string
	for _, t := range tools {
		names = append(names, clean(t.Name))
	}
	return fmt.Errorf("the server has no tool %q; it has %s", name, strings.Join(names, ", "))
}

// refreshAndRepeat shows that the login lasts longer than its first token.
func (c *caller) refreshAndRepeat(ctx context.Context, again func() error) error {
	switch {
	case c.token == nil:
		c.say("Done. The server asked for no token")
		return nil
	case c.token.RefreshToken == "":
		c.say("Done. The server issued no refresh token, so the login ends with the token")
		return nil
	}
	c.say("Refreshing the token")
	if err := c.refresh(ctx); err != nil {
		return err
	}
	if err := again(); err != nil {
		return c.explain("using the refreshed token", err)
	}
	c.say("Done. The refreshed token works")
	return nil
}

func listTools(ctx context.Context, session *sdk.ClientSession) ([]*sdk.Tool, error) {
	tools := []*sdk.Tool{}
	for t, err := range session.Tools(ctx, nil) {
		if err != nil {
			return nil, err
		}
		tools = append(tools, t)
	}
	return tools, nil
}

func printTools(w io.Writer, tools []*sdk.Tool, asJSON bool) error {
	if asJSON {
		return printJSON(w, &sdk.ListToolsResult{Tools: tools})
	}
	var rows [][]string
	for _, t := range tools {
		about, _, _ := strings.Cut(t.Description, "\n")
		rows = append(rows, []string{clean(t.Name), clean(about)})
	}
	return table(w, "TOOL\tDESCRIPTION", rows)
}

// printResult prints text as it is and everything else as JSON.
func printResult(w io.Writer, result *sdk.CallToolResult, asJSON bool) error {
	if asJSON {
		return printJSON(w, result)
	}
	for _, content := range result.Content {
		var err error
		if text, ok := content.(*sdk.TextContent); ok {
			_, err = fmt.Fprintln(w, text.Text)
		} else {
			err = printJSON(w, content)
		}
		if err != nil {
			return err
		}
	}
	if len(result.Content) == 0 && result.StructuredContent != nil {
		return printJSON(w, result.StructuredContent)
	}
	return nil
}

// typed turns the arguments into what the tool's input schema says they are.
func (o order) typed(schema any) (map[string]any, error) {
	b, err := json.Marshal(schema)
	if err != nil {
		return nil, err
	}
	var s struct {
		Properties map[string]json.RawMessage `json:"properties"`
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("the input schema of %s is not one: %w", o.tool, err)
	}
	args := map[string]any{}
	for _, a := range o.args {
		if _, twice := args[a.name]; twice {
			return nil, fmt.Errorf("%s is given twice", a.name)
		}
		types := schemaTypes(s.Properties[a.name])
		if len(types) == 0 || slices.Contains(types, "string") {
			args[a.name] = a.value
			continue
		}
		d := json.NewDecoder(bytes.NewReader([]byte(a.value)))
		d.UseNumber()
		var v any
		if err := d.Decode(&v); err != nil || d.More() || !slices.ContainsFunc(types, func(t string) bool { return hasType(v, t) }) {
			return nil, fmt.Errorf("%s must be %s in JSON, not %q", a.name, strings.Join(types, " or "), a.value)
		}
		args[a.name] = v
	}
	return args, nil
}

// schemaTypes returns the types that a property may have, none if it does not say.
func schemaTypes(property json.RawMessage) []string {
	var one struct{ Type string }
	if json.Unmarshal(property, &one) == nil && one.Type != "" {
		return []string{one.Type}
	}
	var many struct{ Type []string }
	if json.Unmarshal(property, &many) != nil {
		return nil
	}
	return many.Type
}

func hasType(v any, name string) bool {
	switch v := v.(type) {
	case nil:
		return name == "null"
	case bool:
		return name == "boolean"
	case json.Number:
		return name == "number" || name == "integer" && !strings.ContainsAny(v.String(), ".eE")
	case []any:
		return name == "array"
	case map[string]any:
		return name == "object"
	}
	return false
}

// clean makes text of a stranger fit for a line on a terminal.
func clean(s string) string {
	const most = 300
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return s
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"signet/internal/mcpclient"
	"signet/server"
)

func callCommand(p Process) *cobra.Command {
	var where, issuer string
	var asJSON bool
	o := mcpclient.Options{Name: "signet call", Version: server.Version, Narrator: narrator{p.Stderr}, ShowLogin: p.showLogin, Confirm: p.confirmOrigin}
	cmd := &cobra.Command{
		Use: "call [TOOL] --server URL [name=value ...]", Short: "Call a tool of any MCP server, signing in on the way",
		Long: "Call a tool of an MCP server and say at each step what is done: discovery,\n" +
			"registration, login in a browser, the call, a refresh of the token, and a second\n" +
			"call with the new token. Without TOOL, list the server's tools.\n\n" +
			"The result goes to stdout, everything else to stderr. An argument is a string\n" +
			"unless the tool wants another type; then it is JSON. A tool that may change\n" +
			"something is not called twice: the second call lists the tools instead.\n\n" +
			"The password of --username goes to the server's own origin, and to another one only\n" +
			"if that is the issuer's of --issuer, or after a question. Text of the server is\n" +
			"printed without control characters; --json prints all of it, escaped.",
		Example: "  signet call --server http://localhost:8080/mcp\n" +
			"  signet call greet --server http://localhost:8080/mcp name=World\n" +
			"  echo demo_password | signet call whoami --server http://localhost:8080/mcp --username demo_user",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if o.Endpoint, err = mcpclient.ParseEndpoint(where); err != nil {
				return wrongUse{fmt.Errorf("--server: %w", err)}
			}
			if issuer != "" {
				if o.Issuer, err = mcpclient.ParseEndpoint(issuer); err != nil {
					return wrongUse{fmt.Errorf("--issuer: %w", err)}
				}
			}
			tool, arguments, err := parseCall(args)
			if err != nil {
				return wrongUse{err}
			}
			o.Scopes = scopeList(strings.Join(o.Scopes, " "))
			if o.Username != "" {
				_, ask := p.terminal()
				if o.Password, err = p.password(cmd.Context(), !ask); err != nil {
					return err
				}
			}
			return forTerminal(p.call(cmd.Context(), o, tool, arguments, asJSON))
		},
	}
	cmd.Flags().StringVar(&where, "server", "", "URL of the MCP server")
	cmd.Flags().StringVar(&issuer, "issuer", "", "sign in at this authorization server only, and give it the password")
	cmd.Flags().StringVar(&o.Username, "username", "", "sign in as this user without a browser; the password is read from stdin")
	cmd.Flags().StringArrayVar(&o.Scopes, "scope", nil, "scope to request instead of those that the server suggests; repeat for more")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the result as the server sent it")
	return cmd
}

// parseCall reads [TOOL] [name=value ...].
func parseCall(args []string) (tool string, list []mcpclient.Argument, err error) {
	for i, a := range args {
		name, value, ok := strings.Cut(a, "=")
		switch {
		case ok && name != "":
			list = append(list, mcpclient.Argument{Name: name, Value: value})
		case i == 0 && !ok && a != "":
			tool = a
		default:
			return "", nil, fmt.Errorf("%q is not name=value", a)
		}
	}
	if tool == "" && len(list) > 0 {
		return "", nil, errors.New("there are arguments, but no tool to call with them")
	}
	return tool, list, nil
}

// call calls the tool, or lists the tools if it is empty, prints the result, and shows
// that a refreshed token works as well.
func (p Process) call(ctx context.Context, o mcpclient.Options, tool string, args []mcpclient.Argument, asJSON bool) error {
	c, err := mcpclient.Connect(ctx, o)
	if err != nil {
		return err
	}
	defer c.Close()
	if tool == "" {
		list, raw := c.Tools()
		if err := p.printTools(list, raw, asJSON); err != nil {
			return err
		}
		return c.Refresh(ctx)
	}
	result, err := c.Call(ctx, tool, args)
	if err != nil {
		return err
	}
	if err := p.printResult(result, asJSON); err != nil {
		return err
	}
	if result.IsError {
		return fmt.Errorf("%s says that it failed", tool)
	}
	return c.Refresh(ctx)
}

// forTerminal maps an error of the client to what the user can do about it, and takes
// control characters of the server out of it.
func forTerminal(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	var scope *mcpclient.ScopeError
	if errors.As(err, &scope) {
		text = fmt.Sprintf("%s: the token does not allow it: run again with --scope %q", scope.Doing, scope.Scope)
	}
	var origin *mcpclient.OriginError
	switch {
	case errors.As(err, &origin) && origin.Issuer != "":
		text += fmt.Sprintf(": if it is the right one, run again with --issuer %s", origin.Issuer)
	case errors.As(err, &origin), errors.Is(err, mcpclient.ErrBrowser):
		text += ": run again without --username"
	}
	cleaned := errors.New(cleanTo(1000, text))
	var wrong mcpclient.ArgumentError
	if errors.As(err, &wrong) {
		return wrongUse{cleaned}
	}
	return cleaned
}

func (p Process) printTools(list []mcpclient.Tool, raw any, asJSON bool) error {
	if asJSON {
		return p.printJSON(raw)
	}
	var rows [][]string
	for _, t := range list {
		about, _, _ := strings.Cut(t.Description, "\n")
		rows = append(rows, []string{clean(t.Name), clean(about)})
	}
	return p.printTable("TOOL\tDESCRIPTION", rows)
}

// printResult prints text as lines and everything else as JSON.
func (p Process) printResult(result *mcpclient.Result, asJSON bool) error {
	if asJSON {
		return p.printJSON(result.Raw)
	}
	for _, part := range result.Content {
		var err error
		if text, ok := part.(string); ok {
			err = p.print("%s", cleanLines(text))
		} else {
			err = p.printJSON(part)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// narrator prints what the client does.
type narrator struct{ w io.Writer }

func (n narrator) Step(text string) { fmt.Fprintf(n.w, "* %s\n", clean(text)) }

func (n narrator) Exchange(method, url string, status int) {
	fmt.Fprintf(n.w, "    %s %s: %d\n", method, clean(url), status)
}

// confirmOrigin asks whether the password may go to an origin. A script is not asked.
func (p Process) confirmOrigin(_ context.Context, origin string) (bool, error) {
	if _, ok := p.terminal(); !ok {
		return false, nil
	}
	return p.askYes(fmt.Sprintf("The login page is at %s, which is not the server's own. Send the password there? [y/N] ", clean(origin)))
}

// showLogin prints the address of a login page, and opens it in a browser if there is a
// screen. If that fails the printed address is enough. The system opens whatever an
// address means to it, so nothing but a page of the web gets there.
func (p Process) showLogin(ctx context.Context, address string) {
	if _, err := mcpclient.ParseEndpoint(address); err != nil {
		fmt.Fprintf(p.Stderr, "* %s\n", clean(err.Error()))
		return
	}
	fmt.Fprintf(p.Stderr, "\n%s\n\n", cleanTo(8000, address))
	program := "xdg-open"
	screen := slices.ContainsFunc(p.Environ, func(kv string) bool {
		name, value, _ := strings.Cut(kv, "=")
		return (name == "DISPLAY" || name == "WAYLAND_DISPLAY") && value != ""
	})
	if runtime.GOOS == "darwin" {
		program, screen = "open", true
	}
	if !screen {
		return
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), program, address)
	if cmd.Start() == nil {
		cmd.Process.Release()
	}
}

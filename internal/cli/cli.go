// Package cli is the command line: one file for each command. [Run] carries out one
// command line; package main calls it with the process, and tests call it with their own.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"signet/server"
)

// Exit statuses.
const (
	exitFailed   = 1
	exitWrongUse = 2
)

// Process is what a command sees of the process it runs in. A test passes its own.
type Process struct {
	Environ        []string // in the form of [os.Environ]
	EnvironErr     error    // why Environ is without the file of variables; commands that read settings return it
	Settings       string   // text of .env.example, which `signet help settings` prints
	Stdin          io.Reader
	Stdout, Stderr io.Writer

	overrides []string  // such as --hosting.port=4000, of the gateway's configuration
	rawStdin  io.Reader // Stdin as it was given; that of a command ends with its context
	rawStdout io.Writer // Stdout as it was given; that of a command remembers its error
}

// Run carries out one command line and returns the exit status: 0 for success, 1 for
// failure, 2 for wrong use.
func Run(ctx context.Context, p Process, args []string) int {
	args, p.overrides = splitOverrides(args)
	p.rawStdin, p.Stdin = p.Stdin, &input{ctx: ctx, from: p.Stdin}
	out := &checkedWriter{to: p.Stdout}
	p.rawStdout, p.Stdout = p.Stdout, out
	root := rootCommand(p)
	root.SetArgs(args)
	root.SetIn(p.Stdin)
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		err = out.err
	}
	if err == nil {
		return 0
	}
	if errors.Is(err, errInterrupted) {
		err = errInterrupted // no matter what was being read
	}
	fmt.Fprintln(p.Stderr, "signet:", strings.ReplaceAll(err.Error(), "\n", "\nsignet: "))
	var wrong wrongUse
	if errors.As(err, &wrong) || !cmd.Runnable() || isUsage(err) {
		fmt.Fprintf(p.Stderr, "Run '%s --help' for usage.\n", cmd.CommandPath())
		return exitWrongUse
	}
	return exitFailed
}

// takesOverrides marks a command that reads the gateway's configuration.
var takesOverrides = map[string]string{"overrides": "taken"}

// splitOverrides takes the flags whose name has a dot out of a command line: no flag of ours has
// one, and no parser of flags knows the members of the gateway's configuration.
func splitOverrides(args []string) (rest, overrides []string) {
	for i, arg := range args {
		name, _, _ := strings.Cut(arg, "=")
		switch {
		case arg == "--":
			return append(rest, args[i:]...), overrides
		case strings.HasPrefix(name, "--") && strings.Contains(name, "."):
			overrides = append(overrides, arg)
		default:
			rest = append(rest, arg)
		}
	}
	return rest, overrides
}

// wrongUse is an error in the command line rather than in what it asked for.
type wrongUse struct{ error }

func (w wrongUse) Unwrap() error { return w.error }

// isUsage recognises the errors that cobra returns untyped.
func isUsage(err error) bool {
	for _, prefix := range []string{"unknown command", "unknown flag", "unknown shorthand", "required flag", "invalid argument", "flag needs an argument", "accepts ", "requires at least", "if any flags in the group", "at least one of the flags in the group"} {
		if strings.HasPrefix(err.Error(), prefix) {
			return true
		}
	}
	return false
}

func rootCommand(p Process) *cobra.Command {
	root := &cobra.Command{
		Use: "signet", Short: "The authorization layer for MCP servers", Version: server.Version,
		SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if len(p.overrides) > 0 && cmd.Annotations["overrides"] == "" {
			name, _, _ := strings.Cut(p.overrides[0], "=")
			return wrongUse{fmt.Errorf("unknown flag: %s", name)}
		}
		return nil
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return wrongUse{err} })
	root.AddCommand(serveCommand(p), userCommand(p), clientCommand(p), grantCommand(p), keyCommand(p), secretCommand(p), tokenCommand(p), upstreamCommand(p), gatewayCommand(p), callCommand(p), doctorCommand(p), backupCommand(p), restoreCommand(p), settingsHelp(p))
	refuseUnknownTopics(root)
	for _, group := range root.Commands() {
		if group.HasSubCommands() {
			group.Args = cobra.NoArgs // cobra shows the help for `signet user frobnicate` and calls it a success
			group.RunE = func(cmd *cobra.Command, _ []string) error { return wrongUse{errors.New("a command is missing")} }
		}
	}
	return root
}

// refuseUnknownTopics makes `signet help frobnicate` an error: cobra calls it a success.
func refuseUnknownTopics(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	i := slices.IndexFunc(root.Commands(), func(c *cobra.Command) bool { return c.Name() == "help" })
	root.Commands()[i].Args = func(_ *cobra.Command, args []string) error {
		cmd, rest, err := root.Find(args)
		if err == nil && len(rest) > 0 {
			err = fmt.Errorf("unknown command %q for %q", rest[0], cmd.CommandPath())
		}
		return err
	}
}

// settingsHelp is a help topic rather than a command: it prints a file that can be
// changed and loaded.
func settingsHelp(p Process) *cobra.Command {
	cmd := &cobra.Command{Use: "settings", Short: "The settings in the environment, with their defaults"}
	cmd.SetHelpFunc(func(*cobra.Command, []string) { io.WriteString(p.Stdout, p.Settings) })
	return cmd
}

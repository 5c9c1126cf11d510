// Package cli is the command line: one file for each command. [Run] carries out one
// command line; package main calls it with the process, and tests call it with their own.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"signet/mcp"
	"signet/server"
)

// Exit statuses.
const (
	exitFailed   = 1
	exitWrongUse = 2
)

// Process is what a command gets of the process it runs in, so that a test can run
// one without any.
type Process struct {
	Environ        []string // in the form of [os.Environ]
	Settings       string   // text of .env.example, which `signet help settings` prints
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Run carries out one command line and returns the exit status: 0 when it is done, 1
// when it failed, 2 for wrong use.
func Run(ctx context.Context, p Process, args []string) int {
	root := rootCommand(p)
	root.SetArgs(args)
	root.SetIn(p.Stdin)
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(p.Stderr, "signet:", strings.ReplaceAll(err.Error(), "\n", "\nsignet: "))
	var wrong wrongUse
	if errors.As(err, &wrong) || !cmd.Runnable() || isUsage(err) {
		fmt.Fprintf(p.Stderr, "Run '%s --help' for usage.\n", cmd.CommandPath())
		return exitWrongUse
	}
	return exitFailed
}

// wrongUse is an error in the command line rather than in what it asked for.
type wrongUse struct{ error }

func (w wrongUse) Unwrap() error { return w.error }

// isUsage recognises the errors that cobra returns untyped.
func isUsage(err error) bool {
	for _, prefix := range []string{"unknown command", "unknown flag", "unknown shorthand", "required flag", "invalid argument", "flag needs an argument", "accepts ", "requires at least", "if any flags in the group"} {
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
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return wrongUse{err} })
	root.AddCommand(serveCommand(p), userCommand(p), clientCommand(p), grantCommand(p), keyCommand(p), secretCommand(p), tokenCommand(p), callCommand(p), doctorCommand(p), backupCommand(p), restoreCommand(p), settingsHelp(p))
	for _, group := range root.Commands() {
		if group.HasSubCommands() {
			group.Args = cobra.NoArgs // cobra shows the help for `signet user frobnicate` and calls it a success
			group.RunE = func(cmd *cobra.Command, _ []string) error { return wrongUse{errors.New("a command is missing")} }
		}
	}
	return root
}

// settingsHelp is a help topic rather than a command: it prints a file that can be
// changed and loaded.
func settingsHelp(p Process) *cobra.Command {
	cmd := &cobra.Command{Use: "settings", Short: "The settings in the environment, with their defaults"}
	cmd.SetHelpFunc(func(*cobra.Command, []string) { io.WriteString(p.Stdout, p.Settings) })
	return cmd
}

func serveCommand(p Process) *cobra.Command {
	var demo bool
	var role, chaos string
	cmd := &cobra.Command{
		Use: "serve", Short: "Serve the authorization server and the MCP endpoint", Args: cobra.NoArgs,
		Long: "Serve the authorization server and the MCP endpoint until SIGTERM or SIGINT.\n" +
			"Settings come from the environment: `signet help settings` lists them.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("role") {
				p.Environ = append(p.Environ, envPrefix+"ROLE="+role)
			}
			cfg, err := readConfig(p.Environ)
			if err != nil {
				return err
			}
			seed, err := chaosSeed(chaos)
			if err != nil {
				return wrongUse{err}
			}
			return serve(cmd.Context(), p, cfg, demo, seed)
		},
	}
	cmd.Flags().BoolVar(&demo, "demo", false, "add a demo user and a demo client, in memory only")
	cmd.Flags().StringVar(&chaos, "chaos", "", "misbehave on purpose, as a server may, for authors of clients; a seed repeats it")
	cmd.Flags().Lookup("chaos").NoOptDefVal = "random"
	cmd.Flags().StringVar(&role, "role", "", "all, auth or mcp; overrides SIGNET_ROLE")
	return cmd
}

// tuneGC trades memory that a server has for time: an MCP call leaves half a megabyte
// of garbage behind, most of it the SDK's. The limit keeps that trade small; GOGC and
// GOMEMLIMIT override both.
func tuneGC(environ []string) {
	set := func(name string) bool {
		return slices.ContainsFunc(environ, func(kv string) bool { return strings.HasPrefix(kv, name+"=") })
	}
	if !set("GOGC") {
		debug.SetGCPercent(800)
	}
	if !set("GOMEMLIMIT") {
		debug.SetMemoryLimit(256 << 20)
	}
}

func serve(ctx context.Context, p Process, cfg *config, demo bool, chaos uint64) error {
	tuneGC(p.Environ)
	log := cfg.logger()
	for _, name := range cfg.unknown() {
		log.Warn("unknown variable is not used", "name", name)
	}
	if err := cfg.checkPages(); err != nil {
		return err
	}
	o := cfg.options(log)
	o.Demo, o.Chaos = demo, chaos
	srv, err := server.New(o)
	if err != nil {
		return err
	}
	mcp.AddSampleTools(srv.MCP, srv.Require)
	l, err := srv.Listen()
	if err != nil {
		return errors.Join(err, srv.Close())
	}
	if demo {
		printDemo(p.Stdout, srv.Resources()[0])
	} else { // a demo ends with its terminal
		defer onHangup(srv.Reload)()
	}
	if chaos != 0 {
		printChaos(p.Stdout, chaos)
	}
	return srv.Serve(ctx, l)
}

func printDemo(w io.Writer, resource string) {
	fmt.Fprintf(w, `
  Signet is running, with a demo user and a demo client.

    MCP server   %s
    sign in as   %s / %s
    OAuth client %s / %s   (or let yours register itself)

  Try it from another terminal:

    ./signet call greet --server %s name=World

`, resource, server.DemoUser, server.DemoPassword, server.DemoClient, server.DemoClientSecret, resource)
}

// chaosSeed reads the flag: nothing, "random", or a seed.
func chaosSeed(flag string) (uint64, error) {
	switch flag {
	case "":
		return 0, nil
	case "random":
		return 1 + rand.Uint64N(1_000_000), nil
	}
	seed, err := strconv.ParseUint(flag, 10, 64)
	if err != nil || seed == 0 {
		return 0, fmt.Errorf("invalid argument %q for --chaos: a seed is a number above 0", flag)
	}
	return seed, nil
}

func printChaos(w io.Writer, seed uint64) {
	fmt.Fprintf(w, `
  **** CHAOS **** This server misbehaves on purpose, as a server may: it loses and refuses
  answers, rotates its keys every few seconds, and writes what it says in odd forms.
  A client that stays signed in has little to fear. The same again: --chaos=%d

`, seed)
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"signet/internal/memory"
	"signet/server"
)

func serveCommand(p Process) *cobra.Command {
	var demo, stdio bool
	var role, chaos string
	cmd := &cobra.Command{
		Use: "serve", Short: "Serve the authorization server and the MCP endpoint", Args: cobra.NoArgs, Annotations: takesOverrides,
		Long: "Serve the authorization server and the MCP endpoint until SIGTERM or SIGINT.\n" +
			"Settings come from the environment: `signet help settings` lists them. A flag with the path\n" +
			"of a member of the gateway's configuration, such as --hosting.port=4000, wins over it.\n\n" +
			"With --stdio it serves the MCP tools alone, to the program that has started it, until\n" +
			"stdin ends: no OAuth, no listener, no data directory.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("role") {
				p.Environ = append(p.Environ, envPrefix+"ROLE="+role)
			}
			return p.withConfig(func(cmd *cobra.Command, cfg *config, _ []string) error {
				if stdio {
					return serveStdio(cmd.Context(), p, cfg)
				}
				seed, err := chaosSeed(chaos)
				if err != nil {
					return wrongUse{err}
				}
				return serve(cmd.Context(), p, cfg, demo, seed)
			})(cmd, args)
		},
	}
	cmd.Flags().BoolVar(&demo, "demo", false, "add a demo user and a demo client, in memory only")
	cmd.Flags().StringVar(&chaos, "chaos", "", "misbehave on purpose, within the standards, to test clients; a seed repeats a run")
	cmd.Flags().Lookup("chaos").NoOptDefVal = "random"
	cmd.Flags().StringVar(&role, "role", "", "all, auth or mcp; overrides SIGNET_ROLE")
	cmd.Flags().BoolVar(&stdio, "stdio", false, "speak MCP over stdin and stdout, for a program on this machine")
	for _, other := range []string{"demo", "chaos", "role"} {
		cmd.MarkFlagsMutuallyExclusive("stdio", other)
	}
	return cmd
}

// serveStdio serves the tools to the program that has started this one. Stdout is for the
// protocol alone.
func serveStdio(ctx context.Context, p Process, cfg *config) error {
	defer memory.Pace(p.Environ, os.DirFS("/"))()
	log := cfg.logger(p.Stderr)
	for _, name := range cfg.unknown() {
		log.Warn("unknown variable is not used", "name", name)
	}
	l, err := server.NewLocal(ctx, cfg.localOptions(log))
	if err != nil {
		return err
	}
	l.AddSamples()
	return l.Serve(ctx, p.rawStdin, p.rawStdout)
}

func serve(ctx context.Context, p Process, cfg *config, demo bool, chaos uint64) error {
	defer memory.Pace(p.Environ, os.DirFS("/"))()
	log := cfg.logger(p.Stderr)
	for _, name := range cfg.unknown() {
		log.Warn("unknown variable is not used", "name", name)
	}
	for _, text := range cfg.warnings() {
		log.Warn(text)
	}
	if err := cfg.checkFiles(); err != nil {
		return err
	}
	o := cfg.options(log)
	o.Demo, o.Chaos = demo, chaos
	srv, err := server.New(o)
	if err != nil {
		return err
	}
	srv.AddSamples()
	l, err := srv.Listen()
	if err != nil {
		return errors.Join(err, srv.Close())
	}
	if demo {
		printDemo(p.Stdout, srv.Resources()[0])
	} else { // a demo ends when its terminal is closed
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
    OAuth client %s / %s   (or let your client register itself)

  Try it from another terminal:

    ./signet call greet --server %s name=World

`, resource, server.DemoUser, server.DemoPassword, server.DemoClient, server.DemoClientSecret, resource)
}

// chaosSeed reads the flag: empty, "random", or a seed.
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
  **** CHAOS **** This server misbehaves on purpose, within the standards: it loses and
  refuses answers, rotates its keys every few seconds, and writes answers in unusual
  forms. A client that stays signed in is robust. The same again: --chaos=%d

`, seed)
}

// onHangup calls reload at every SIGHUP until stop is called. Without onHangup the
// signal, which is also sent when a terminal is closed, ends the process.
func onHangup(reload func()) (stop func()) {
	signals, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, syscall.SIGHUP)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case <-signals:
				reload()
			case <-done:
				return
			}
		}
	})
	return func() {
		signal.Stop(signals)
		close(done)
		running.Wait()
	}
}

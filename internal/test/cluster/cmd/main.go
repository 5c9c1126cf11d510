// Command cmd runs a cluster until Ctrl-C, to be broken by hand. See docs/replicas.md.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"signet/internal/test/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	port := flag.Int("port", 8080, "port of nginx, on loopback")
	program := flag.String("signet", "", "path of the program; built if empty")
	gateway := flag.String("gateway", "", "configuration of the gateway, with its variables in the environment; empty: the demo's tools")
	flag.Parse()
	o := cluster.Options{Port: *port, Program: *program, Gateway: *gateway}
	if *gateway != "" {
		o.Env = variables()
	}
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

// variables are those of this process to which the configuration of a gateway may refer.
func variables() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "SIGNET_") || strings.HasPrefix(v, "HOME=") || strings.HasPrefix(v, "PATH=")
	})
}

func run(ctx context.Context, o cluster.Options) (err error) {
	c, err := cluster.Start(ctx, o)
	if err != nil {
		return err
	}
	defer func() {
		fmt.Println("\n  Stopping.")
		err = errors.Join(err, c.Close())
	}()
	welcome(os.Stdout, c)
	var all sync.WaitGroup
	for _, r := range c.Replicas() {
		all.Go(func() { supervise(ctx, r) })
	}
	go obey(ctx, os.Stdin, c) // waits for lines until the process ends
	all.Wait()
	return nil
}

func welcome(w io.Writer, c *cluster.Cluster) {
	fmt.Fprintf(w, `
  A cluster is running: nginx, replicas of Signet behind it, and PostgreSQL.
  Signing keys rotate every %s.

    MCP server   %s/mcp
    sign in as   %s / %s
    account      %s/account

`, cluster.Rotation, c.URL, cluster.User, cluster.Password, c.URL)
	for _, r := range c.Replicas() {
		fmt.Fprintf(w, "    %-8s %s   pid %-8d %s\n", r.Name, r.URL, r.PID(), r.Log)
	}
	fmt.Fprintf(w, `
  Try it from another terminal, and again while you break things here:

    echo %s | ./signet call greet --server %s/mcp --username %s name=World
    curl -s %s/.well-known/jwks.json

  Type here, then Enter:

    kill auth-1        kill -9; a moment later it is started again
    restart mcp-2      stop it as a deployment does, and start it
    postgres stop      logins and refreshes get 503, MCP calls go on
    postgres start

  Ctrl-C ends all of it.

`, cluster.Password, c.URL, cluster.User, c.URL)
}

// supervise starts a replica again whenever it has ended, as an orchestrator does.
func supervise(ctx context.Context, r *cluster.Replica) {
	for tick := time.NewTicker(time.Second); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
		if r.Running() {
			continue
		}
		if err := r.Start(ctx); err != nil && ctx.Err() == nil {
			fmt.Println("  ", err)
		} else if err == nil {
			fmt.Printf("  %s runs again, pid %d\n", r.Name, r.PID())
		}
	}
}

// obey carries out commands from the terminal.
func obey(ctx context.Context, in io.Reader, c *cluster.Cluster) {
	for lines := bufio.NewScanner(in); lines.Scan() && ctx.Err() == nil; {
		words := strings.Fields(lines.Text())
		if len(words) == 0 {
			continue
		}
		began := time.Now()
		if err := do(words, c); err != nil {
			fmt.Println("  ", err)
		} else {
			fmt.Printf("  done in %s\n", time.Since(began).Round(time.Millisecond))
		}
	}
}

func do(words []string, c *cluster.Cluster) error {
	unknown := fmt.Errorf("%s? kill NAME, restart NAME, postgres stop or postgres start", strings.Join(words, " "))
	if len(words) != 2 {
		return unknown
	}
	switch r := c.Replica(words[1]); {
	case words[0] == "postgres" && words[1] == "stop":
		return c.Postgres.Stop()
	case words[0] == "postgres" && words[1] == "start":
		return c.Postgres.Start()
	case words[0] == "kill" && r != nil:
		return r.Kill()
	case words[0] == "restart" && r != nil:
		return r.Stop() // it is started again
	}
	return unknown
}

// Signet is an authorization server and a protected MCP server in one program: login,
// consent, short-lived signed tokens, discovery, rotation and revocation, with one
// small file of state. See README.md.
package main

import (
	"context"
	_ "embed"
	"os"
	"os/signal"
	"syscall"

	"signet/internal/cli"
)

//go:embed .env.example
var settings string

func main() {
	ctx := untilSignal(os.Interrupt, syscall.SIGTERM)
	environ, err := cli.Environ(os.Environ(), ".env")
	p := cli.Process{Environ: environ, EnvironErr: err, Settings: settings, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	os.Exit(cli.Run(ctx, p, os.Args[1:]))
}

// untilSignal returns a context that ends with the first of these signals. The second
// signal ends the process at once.
func untilSignal(signals ...os.Signal) context.Context {
	ctx, stop := context.WithCancel(context.Background())
	came := make(chan os.Signal, 2)
	signal.Notify(came, signals...)
	go func() {
		<-came
		stop()
		<-came
		os.Exit(1)
	}()
	return ctx
}

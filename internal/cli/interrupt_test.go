package cli_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"signet/internal/cli"
	"signet/internal/seal"
)

// A command that waits for its input ends with the signal, and says so.
func TestInterruptedWhileReadingStdin(t *testing.T) {
	for _, command := range []string{
		"user import -", "user add ann --password-stdin", "token inspect", "token verify", "client explain -", "restore --replace -",
		"client add app --secret-stdin --redirect-uri https://app.example/cb", "secret encrypt",
	} {
		t.Run(command, func(t *testing.T) {
			ctx, interrupt := context.WithCancel(t.Context())
			in, feed := io.Pipe()
			defer feed.Close()
			var stderr bytes.Buffer
			p := cli.Process{Environ: []string{"SIGNET_DATA_DIR=" + t.TempDir() + "/data", "SIGNET_SECRET=" + seal.NewSecret()}, Stdin: in, Stdout: io.Discard, Stderr: &stderr}
			status := make(chan int, 1)
			go func() { status <- cli.Run(ctx, p, strings.Fields(command)) }()
			select {
			case <-status:
				t.Fatalf("does not read stdin: %s", &stderr)
			case <-feedTaken(feed):
			}
			interrupt()
			select {
			case got := <-status:
				if got != 1 || stderr.String() != "signet: interrupted\n" {
					t.Errorf("status %d, %q, want 1 and interrupted", got, &stderr)
				}
			case <-time.After(10 * time.Second):
				feed.Close()
				t.Fatalf("still reads stdin: status %d after its end", <-status)
			}
		})
	}
}

// feedTaken returns a channel that is closed when the first byte of the input was read.
func feedTaken(feed io.Writer) <-chan struct{} {
	taken := make(chan struct{})
	go func() {
		if _, err := feed.Write([]byte("{")); err == nil {
			close(taken)
		}
	}()
	return taken
}

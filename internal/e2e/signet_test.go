package e2e

import (
	"flag"
	"strings"
	"testing"
	"time"

	"signet/internal/cli"
	"signet/keys"
)

var update = flag.Bool("update", false, "write the generated files that tests compare with")

// Exit statuses of the program.
const (
	exitFailed   = 1
	exitWrongUse = 2
)

// signet carries out one command line in this process, with a data directory and
// what stdin holds, and returns the status and what it wrote.
func signet(t *testing.T, dir, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	p := cli.Process{Environ: []string{"SIGNET_DATA_DIR=" + dir}, Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs}
	status = cli.Run(t.Context(), p, args)
	return status, out.String(), errs.String()
}

// keyInfo is a key of `signet key list --json`.
type keyInfo struct {
	ID             string     `json:"kid"`
	State          keys.State `json:"state"`
	Private        bool       `json:"private_half"`
	PublishedAt    *time.Time `json:"published_at,omitempty"`
	SignsFrom      *time.Time `json:"signs_from,omitempty"`
	SignsUntil     *time.Time `json:"signs_until,omitempty"`
	PublishedUntil *time.Time `json:"published_until,omitempty"`
	WithdrawnAt    *time.Time `json:"withdrawn_at,omitempty"`
}

// grantInfo is a grant of `signet grant list --json`.
type grantInfo struct {
	ID          string     `json:"id"`
	User        string     `json:"user"`
	Client      string     `json:"client"`
	Scopes      []string   `json:"scopes"`
	Resource    string     `json:"resource"`
	Since       time.Time  `json:"since"`
	LastRefresh *time.Time `json:"last_refresh,omitempty"`
	Replays     int64      `json:"replays"`
	Expires     time.Time  `json:"expires"`
}

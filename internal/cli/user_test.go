package cli

import (
	"strings"
	"testing"
)

// signet carries out one command line in this process, with a data directory and
// what stdin holds, and returns the status and what it wrote.
func signet(t *testing.T, dir, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	p := Process{Environ: []string{"SIGNET_DATA_DIR=" + dir}, Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs}
	status = Run(t.Context(), p, args)
	return status, out.String(), errs.String()
}

// A password is one line; only the end of the line is cut.
func TestPasswordIsOneLineOfStdin(t *testing.T) {
	for in, want := range map[string]string{
		"cows": "cows", "cows\n": "cows", "cows\r\n": "cows", " cows \n": " cows ", "cows\ndogs\n": "cows", "a\x00b\n": "a\x00b", "cows\r\r\n": "cows\r",
	} {
		p := Process{Stdin: strings.NewReader(in)}
		if got, err := p.password(t.Context(), true); got != want || err != nil {
			t.Errorf("%q: %q, %v, want %q", in, got, err, want)
		}
	}
}

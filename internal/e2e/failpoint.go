package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

var BreakableBinary = sync.OnceValues(func() (string, error) { return Build("signet-failpoint", "-tags", pgxTag+",failpoint") })

const FailpointVariable = "SIGNET_TEST_FAILPOINT"

// Breakable returns a demo server, before its start, of the build that has failpoints.
func Breakable(t testing.TB, settings ...string) *Program {
	t.Helper()
	path, err := BreakableBinary()
	if err != nil {
		t.Fatal(err)
	}
	d := New(t, append(settings, FailpointVariable+"="+filepath.Join(t.TempDir(), "failpoint")), "--demo")
	d.Path = path
	return d
}

// Arm makes the nth pass of a point carry out an action.
func (d *Program) Arm(point, action string, n int) {
	d.T.Helper()
	path := d.Setting(FailpointVariable)
	if err := os.WriteFile(path+".new", fmt.Appendln(nil, point, action, n), 0o600); err != nil {
		d.T.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		d.T.Fatal(err)
	}
}

// Armed reports whether the action is still to come.
func (d *Program) Armed() bool {
	_, err := os.Stat(d.Setting(FailpointVariable))
	return !errors.Is(err, fs.ErrNotExist)
}

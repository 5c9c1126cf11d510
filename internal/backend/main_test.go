package backend_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain runs one of the servers over stdio in place of the tests if the environment names it.
// Otherwise it looks for goroutines that are still running, as goleak.VerifyTestMain does, and
// waits for those that end late on a busy machine.
func TestMain(m *testing.M) {
	if name := os.Getenv(programVariable); name != "" {
		programs[name]()
		return
	}
	status := m.Run()
	if status == 0 {
		err := goleak.Find()
		for deadline := time.Now().Add(30 * time.Second); err != nil && time.Now().Before(deadline); {
			err = goleak.Find()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}
	os.Exit(status)
}

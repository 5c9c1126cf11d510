package e2e

import (
	"testing"
	"time"

	"signet/internal/test/process"
)

// Eventually waits for a condition that no log line announces; for a log line there is
// [Program.WaitFor].
func Eventually(t testing.TB, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(process.Patience); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen within %s", process.Patience)
		}
	}
}

package e2e

import (
	"testing"
	"time"

	"signet/internal/test/process"
)

// Eventually waits for something that another process is about to notice, and says
// nowhere: where it does, [Program.WaitFor] waits for that.
func Eventually(t testing.TB, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(process.Patience); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen within %s", process.Patience)
		}
	}
}

package e2e

import (
	"testing"
	"time"
)

// Eventually waits for what another process is about to notice.
func Eventually(t *testing.T, ok func() bool) {
	t.Helper()
	Within(t, 10*time.Second, ok)
}

func Within(t *testing.T, limit time.Duration, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen within %s", limit)
		}
	}
}

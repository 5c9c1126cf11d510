package server

import (
	"fmt"
	"io/fs"

	"signet/internal/admission"
	"signet/internal/memory"
	"signet/users"
)

// idleMemory is roughly the memory of the process without password hashes.
const idleMemory = 32 << 20

// checkMemory returns an error if the logins that may run at once do not fit into memory:
// the kernel would kill the process in the middle of a busy day. One hash more is counted
// for the garbage of finished ones.
func checkMemory(root fs.FS, hashes users.Stats) error {
	limit := memory.Limit(root)
	need := idleMemory + (int64(hashes.Limit)+1)*hashes.Memory
	if limit == 0 || need <= limit/5*4 {
		return nil
	}
	return fmt.Errorf("memory: %d password hashes at once take %d MiB with the rest, and of the limit of %d MiB (cgroup) no more than four fifths should be used: "+
		"give the process %d MiB, fewer cores (GOMAXPROCS), or the users file hashes with a smaller m", hashes.Limit, mib(need), limit>>20, mib(need*5/4))
}

// Bytes of MCP messages and answers that are kept. While it runs, a message takes several
// times its own bytes, so the whole is a part of what a small machine has.
const (
	messagesOfGrant = 16 << 20 // four messages of the largest size, or 256 small ones
	messagesAtMost  = 256 << 20
	messagesAtLeast = 64 << 20
)

// newBudget returns the budget of MCP messages: a quarter of the memory that the process
// may have, within bounds.
func newBudget(root fs.FS) *admission.Budget {
	total := int64(messagesAtMost)
	if limit := memory.Limit(root); limit > 0 {
		total = max(messagesAtLeast, min(total, limit/4))
	}
	return admission.NewBudget(messagesOfGrant, total)
}

func mib(n int64) int64 { return (n + 1<<20 - 1) >> 20 }

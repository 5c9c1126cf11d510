package server

import (
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"signet/internal/admission"
	"signet/users"
)

// idleMemory is roughly the memory of the process without password hashes.
const idleMemory = 32 << 20

// checkMemory returns an error if the logins that may run at once do not fit into memory:
// the kernel would kill the process in the middle of a busy day. One hash more is counted
// for the garbage of finished ones.
func checkMemory(root fs.FS, hashes users.Stats) error {
	limit := memoryLimit(root)
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
	if limit := memoryLimit(root); limit > 0 {
		total = max(messagesAtLeast, min(total, limit/4))
	}
	return admission.NewBudget(messagesOfGrant, total)
}

func mib(n int64) int64 { return (n + 1<<20 - 1) >> 20 }

// memoryLimit returns the smallest limit of the control groups of the process, in bytes, or
// 0 if there is none. In a container the group is often not at the path that /proc says,
// but at the root of the mounted tree.
func memoryLimit(root fs.FS) (least int64) {
	b, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		mount, file := "sys/fs/cgroup", "memory.max"
		if parts[0] != "0" || parts[1] != "" { // version 1: a tree for each controller
			if parts[1] != "memory" {
				continue
			}
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		}
		for group := path.Clean("/" + parts[2]); ; group = path.Dir(group) {
			if n := readLimit(root, path.Join(mount, group, file)); n > 0 && (least == 0 || n < least) {
				least = n
			}
			if group == "/" {
				break
			}
		}
	}
	return least
}

// readLimit returns the number in a file, or 0 if there is none or if it means no limit,
// for which version 1 writes more bytes than a machine has.
func readLimit(root fs.FS, name string) int64 {
	b, err := fs.ReadFile(root, name)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || n <= 0 || n >= 1<<50 {
		return 0
	}
	return n
}

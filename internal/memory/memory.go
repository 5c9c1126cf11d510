// Package memory knows how much memory the process may have, and paces the garbage
// collector by it.
//
// It imports no other package of this module.
package memory

import (
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// Limit returns the smallest limit of the control groups of the process, in bytes, or
// 0 if there is none. In a container the group is often not at the path that /proc says,
// but at the root of the mounted tree.
func Limit(root fs.FS) (least int64) {
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

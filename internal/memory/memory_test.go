package memory_test

import (
	"testing"
	"testing/fstest"

	"signet/internal/memory"
)

// The smallest limit of the control groups counts, wherever the container's is mounted.
func TestLimitOfControlGroups(t *testing.T) {
	const v2, v1 = "0::/app/web\n", "5:devices:/\n4:memory:/app/web\n0::/\n"
	for name, c := range map[string]struct {
		groups string
		files  map[string]string
		want   int64
	}{
		"no cgroups":        {"", map[string]string{"memory.max": "4096"}, 0},
		"no limit":          {v2, map[string]string{"app/web/memory.max": "max\n"}, 0},
		"of the group":      {v2, map[string]string{"app/web/memory.max": "8192\n", "memory.max": "max\n"}, 8192},
		"of a group above":  {v2, map[string]string{"app/web/memory.max": "8192\n", "app/memory.max": "4096\n"}, 4096},
		"of the container":  {v2, map[string]string{"memory.max": "4096\n"}, 4096},
		"version 1":         {v1, map[string]string{"memory/app/web/memory.limit_in_bytes": "4096\n"}, 4096},
		"version 1, none":   {v1, map[string]string{"memory/app/web/memory.limit_in_bytes": "9223372036854771712\n"}, 0},
		"not a number":      {v2, map[string]string{"memory.max": "much\n"}, 0},
		"nonsense as group": {"x\n::\n", map[string]string{"memory.max": "4096\n"}, 0},
	} {
		if got := memory.Limit(system(c.groups, c.files)); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// system is a file system with control groups.
func system(groups string, files map[string]string) fstest.MapFS {
	root := fstest.MapFS{}
	if groups != "" {
		root["proc/self/cgroup"] = &fstest.MapFile{Data: []byte(groups)}
	}
	for name, text := range files {
		root["sys/fs/cgroup/"+name] = &fstest.MapFile{Data: []byte(text)}
	}
	return root
}

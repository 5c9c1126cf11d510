package server_test

import (
	"strings"
	"testing"
	"testing/fstest"

	"signet/server"
	"signet/users"
)

// The server does not start if its logins do not fit, whichever control group sets the
// limit, and the error says how much memory it needs.
func TestLoginsMustFitIntoMemory(t *testing.T) {
	const v2, v1 = "0::/app/web\n", "5:devices:/\n4:memory:/app/web\n0::/\n"
	hashes := users.Stats{Limit: 2, Memory: 19 << 20} // 89 MiB with the rest
	for name, c := range map[string]struct {
		groups string
		limits map[string]string
		change func(*users.Stats)
		needs  string // "" if it starts
	}{
		"no cgroups":                   {"", nil, nil, ""},
		"no limit":                     {v2, map[string]string{"app/web/memory.max": "max\n"}, nil, ""},
		"enough":                       {v2, map[string]string{"app/web/memory.max": "134217728\n"}, nil, ""},
		"too little":                   {v2, map[string]string{"app/web/memory.max": "67108864\n"}, nil, "112 MiB"},
		"of a group above":             {v2, map[string]string{"app/web/memory.max": "max\n", "app/memory.max": "67108864\n"}, nil, "112 MiB"},
		"of the container":             {v2, map[string]string{"memory.max": "67108864\n"}, nil, "112 MiB"},
		"version 1":                    {v1, map[string]string{"memory/app/web/memory.limit_in_bytes": "67108864\n"}, nil, "112 MiB"},
		"version 1, no limit":          {v1, map[string]string{"memory/app/web/memory.limit_in_bytes": "9223372036854771712\n"}, nil, ""},
		"just over four fifths":        {v2, map[string]string{"memory.max": "115343360\n"}, nil, "112 MiB"},
		"expensive hashes":             {v2, map[string]string{"memory.max": "134217728\n"}, func(s *users.Stats) { s.Memory = 64 << 20 }, "280 MiB"},
		"many cores":                   {v2, map[string]string{"memory.max": "134217728\n"}, func(s *users.Stats) { s.Limit = 64 }, "1584 MiB"},
		"a limit that is not a number": {v2, map[string]string{"memory.max": "much\n"}, nil, ""},
		"nonsense as groups":           {"x\n::\n", map[string]string{"memory.max": "1\n"}, nil, ""},
	} {
		root, h := fstest.MapFS{}, hashes
		if c.groups != "" {
			root["proc/self/cgroup"] = &fstest.MapFile{Data: []byte(c.groups)}
		}
		for file, text := range c.limits {
			root["sys/fs/cgroup/"+file] = &fstest.MapFile{Data: []byte(text)}
		}
		if c.change != nil {
			c.change(&h)
		}
		err := server.CheckMemory(root, h)
		if (err == nil) != (c.needs == "") || err != nil && !strings.Contains(err.Error(), "give the process "+c.needs) {
			t.Errorf("%s: %v, want %q", name, err, c.needs)
		}
	}
}

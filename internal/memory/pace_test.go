package memory_test

import (
	"math"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"
	"testing/fstest"

	"signet/internal/memory"
)

const mib = 1 << 20

// keepSettings restores the runtime's settings after a test.
func keepSettings(t *testing.T) {
	percent, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(math.MaxInt64)
	t.Cleanup(func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
	})
}

func container(limit int64) fstest.MapFS {
	return system("0::/\n", map[string]string{"memory.max": strconv.FormatInt(limit, 10)})
}

// collections returns the number of collections while bytes of garbage are made.
func collections(bytes int) int {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const piece = 64 << 10
	for range bytes / piece {
		garbage = make([]byte, piece)
	}
	runtime.ReadMemStats(&after)
	return int(after.NumGC - before.NumGC)
}

var garbage, kept []byte

// The heap profile has fewer samples, unless the operator says how many.
func TestHeapProfileHasFewSamples(t *testing.T) {
	keepSettings(t)
	usual := runtime.MemProfileRate
	t.Cleanup(func() { runtime.MemProfileRate = usual })
	memory.Pace([]string{"GODEBUG=madvdontneed=1,memprofilerate=1"}, fstest.MapFS{})()
	if runtime.MemProfileRate != usual {
		t.Errorf("one sample in %d bytes, although GODEBUG says how many", runtime.MemProfileRate)
	}
	memory.Pace([]string{"GODEBUG=madvdontneed=1"}, fstest.MapFS{})()
	if runtime.MemProfileRate != 8*mib {
		t.Errorf("one sample in %d bytes, want one in 8 MiB", runtime.MemProfileRate)
	}
}

// The heap of a small process is collected at 128 MiB, or at a third of what the process
// may have.
func TestHeapGrowsToItsFloor(t *testing.T) {
	for name, c := range map[string]struct {
		root        fstest.MapFS
		least, most int // collections for 512 MiB of garbage
	}{
		"no limit":             {fstest.MapFS{}, 2, 8},
		"container of 64 MiB":  {container(64 * mib), 8, 120},
		"container of 128 MiB": {container(128 * mib), 4, 24},
		"container of 1 GiB":   {container(1024 * mib), 2, 8},
	} {
		t.Run(name, func(t *testing.T) {
			keepSettings(t)
			defer memory.Pace(nil, c.root)()
			collections(200 * mib) // finds the pace
			if n := collections(512 * mib); n < c.least || n > c.most {
				t.Errorf("%d collections for 512 MiB, want %d to %d", n, c.least, c.most)
			}
		})
	}
}

// A live heap above the floor is collected when it has doubled, also if it grew at once.
func TestLiveHeapAboveTheFloorIsNotCollectedAllTheTime(t *testing.T) {
	keepSettings(t)
	defer memory.Pace(nil, fstest.MapFS{})()
	kept = make([]byte, 300*mib)
	defer func() { kept = nil }()
	collections(256 * mib)
	if n := collections(1500 * mib); n < 2 || n > 10 {
		t.Errorf("%d collections for 1.5 GiB beside 300 MiB that are live, want about 5", n)
	}
	runtime.KeepAlive(kept)
}

// What the operator has set stays, and a container's limit is the soft limit otherwise.
func TestPaceLeavesTheOperatorsSettings(t *testing.T) {
	for name, c := range map[string]struct {
		environ []string
		percent int // as the operator set it; 0: any
		limit   int64
		root    fstest.MapFS
		want    int64 // soft limit; 0: any
	}{
		"GOGC":                         {[]string{"GOGC=50"}, 50, math.MaxInt64, fstest.MapFS{}, math.MaxInt64},
		"GOGC in a container":          {[]string{"GOGC=50"}, 50, math.MaxInt64, container(64 * mib), 48 * mib},
		"GOMEMLIMIT":                   {[]string{"GOMEMLIMIT=90MiB"}, 0, 90 * mib, fstest.MapFS{}, 90 * mib},
		"GOMEMLIMIT in a container":    {[]string{"GOMEMLIMIT=90MiB"}, 0, 90 * mib, container(64 * mib), 90 * mib},
		"both":                         {[]string{"GOGC=off", "GOMEMLIMIT=90MiB"}, -1, 90 * mib, fstest.MapFS{}, 90 * mib},
		"an empty variable is unset":   {[]string{"GOGC=", "GOMEMLIMIT="}, 0, math.MaxInt64, container(64 * mib), 0},
		"another variable's beginning": {[]string{"GOGCX=1"}, 0, math.MaxInt64, container(64 * mib), 0},
	} {
		t.Run(name, func(t *testing.T) {
			keepSettings(t)
			runtime.GC() // other tests have left little that is live
			debug.SetMemoryLimit(c.limit)
			if c.percent != 0 {
				debug.SetGCPercent(c.percent)
			}
			memory.Pace(c.environ, c.root)()
			if got := debug.SetGCPercent(100); c.percent != 0 && got != c.percent || c.percent == 0 && got == 100 {
				t.Errorf("GOGC is %d, want %d", got, c.percent)
			}
			if got := debug.SetMemoryLimit(-1); c.want != 0 && got != c.want || got > max(c.limit, 48*mib) {
				t.Errorf("the soft limit is %d, want %d", got, c.want)
			}
		})
	}
}

// After the pacing has ended, nothing adjusts the runtime's settings.
func TestPaceEnds(t *testing.T) {
	keepSettings(t)
	memory.Pace(nil, fstest.MapFS{})()
	debug.SetGCPercent(77)
	for range 3 {
		runtime.GC()
	}
	if got := debug.SetGCPercent(100); got != 77 {
		t.Errorf("GOGC became %d", got)
	}
}

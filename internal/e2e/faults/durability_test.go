package faults

import (
	"bufio"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"signet/internal/e2e"
)

var (
	tracedCall   = regexp.MustCompile(`^(\d+) +(\w+)\(\d+<([^>]*)>(.*)`)
	tracedResume = regexp.MustCompile(`^(\d+) +<\.\.\. (\w+) resumed>`)
)

// writeOrder reads a trace of system calls and counts the answers written to a socket,
// and among them those written while a frame of the store's log was not yet synced. Also the
// syncs of the log.
func writeOrder(trace *bufio.Scanner) (answers, frames, early, syncs int) {
	dirty := false
	syncing := map[string]bool{} // threads inside a sync of the log
	for trace.Scan() {
		line := trace.Text()
		if m := tracedResume.FindStringSubmatch(line); m != nil {
			if syncing[m[1]] && strings.Contains(m[2], "sync") {
				dirty, syncing[m[1]] = false, false
			}
			continue
		}
		m := tracedCall.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		thread, call, file, rest := m[1], m[2], m[3], m[4]
		isLog := strings.HasSuffix(file, "signet.db-wal")
		switch {
		case call == "pwrite64" && isLog:
			dirty = true
			frames++
		case strings.Contains(call, "sync") && isLog && strings.Contains(rest, "unfinished"):
			syncs++
			syncing[thread] = true
		case strings.Contains(call, "sync") && isLog:
			syncs++
			dirty = false
		case call == "write" && strings.Contains(rest, `"HTTP/1.1 200`) && strings.Contains(rest, `refresh_token`):
			answers++
			if dirty {
				early++
			}
		}
	}
	return answers, frames, early, syncs
}

// traced runs the server below strace while requests are sent, and returns what writeOrder says.
func traced(t *testing.T, d *e2e.Program, requests func()) (answers, frames, early, syncs int) {
	t.Helper()
	trace := filepath.Join(t.TempDir(), "trace")
	d.Prefix = []string{e2e.Need(t, "strace"), "-f", "-y", "-s", "4096", "-e", "trace=pwrite64,fsync,fdatasync,write", "-o", trace}
	d.Start()
	requests()
	http.DefaultClient.CloseIdleConnections()
	d.StopTraced()
	f, err := os.Open(trace)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	return writeOrder(lines)
}

// The log is synced before the answer is written. The requests come one at a time, so
// that the frames of each answer are known. Logins between them sync nothing.
func TestWritesAreSyncedBeforeTheAnswer_L05(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	client, tok := d.Login()
	d.Stop()
	const refreshes = 30
	answers, frames, early, _ := traced(t, d, func() {
		for i := range refreshes {
			if i%5 == 0 {
				client.Code(t, "demo_user", "demo_password")
			}
			next, status := client.Refresh(t, tok.RefreshToken)
			if status != 200 {
				t.Fatalf("refresh: %d %+v", status, next)
			}
			tok = next
		}
	})
	if answers != refreshes || frames < refreshes {
		t.Fatalf("the trace shows %d answers and %d writes to the log, want %d of each: the checker is blind", answers, frames, refreshes)
	}
	if early > 0 {
		t.Errorf("%d of %d answers were sent before their rows were on disk", early, answers)
	}
}

// A login writes three times: its attempt is counted, then not, and its request is answered. None
// of these waits for the disk.
func TestLoginsWaitForNoDisk(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	client := e2e.Register(t, d.Issuer, e2e.RedirectURI)
	d.Stop()
	const logins = 10
	_, idleFrames, _, idle := traced(t, d, func() {})
	_, frames, _, syncs := traced(t, d, func() {
		for range logins {
			client.Code(t, "demo_user", "demo_password")
		}
	})
	t.Logf("%d and %d frames, %d and %d syncs", idleFrames, frames, idle, syncs)
	if frames < idleFrames+3*logins || syncs >= idle+logins {
		t.Errorf("%d writes to the log and %d syncs, want %d or more, and less than one sync a login more than the %d without them", frames, syncs, idleFrames+3*logins, idle)
	}
}

// The checker finds an answer that was written too early.
func TestWriteOrderCondemnsAnEarlyAnswer(t *testing.T) {
	const answer = `7 write(9<socket:[1]>, "HTTP/1.1 200 OK\r\n\r\n{\"refresh_token\":1}", 30) = 30`
	for name, c := range map[string]struct {
		trace string
		early int
	}{
		"synced first": {"7 pwrite64(5</d/signet.db-wal>, \"x\", 1, 0) = 1\n7 fdatasync(5</d/signet.db-wal>) = 0\n" + answer, 0},
		"synced after": {"7 pwrite64(5</d/signet.db-wal>, \"x\", 1, 0) = 1\n" + answer + "\n7 fdatasync(5</d/signet.db-wal>) = 0\n", 1},
		"sync running": {"7 pwrite64(5</d/signet.db-wal>, \"x\", 1, 0) = 1\n8 fsync(5</d/signet.db-wal> <unfinished ...>\n" + answer + "\n8 <... fsync resumed>) = 0\n", 1},
		"sync ended":   {"7 pwrite64(5</d/signet.db-wal>, \"x\", 1, 0) = 1\n8 fsync(5</d/signet.db-wal> <unfinished ...>\n8 <... fsync resumed>) = 0\n" + answer, 0},
		"other file":   {"7 pwrite64(5</d/signet.db-wal>, \"x\", 1, 0) = 1\n7 fsync(6</d/mirror>) = 0\n" + answer, 1},
	} {
		if answers, _, early, _ := writeOrder(bufio.NewScanner(strings.NewReader(c.trace))); answers != 1 || early != c.early {
			t.Errorf("%s: %d answers, %d early, want 1 and %d", name, answers, early, c.early)
		}
	}
}

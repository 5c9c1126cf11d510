package faults

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/internal/e2e"
	"signet/internal/test/process"
)

// shiftedBinary is the program with a wall clock that a test can set: only time.Now
// differs, which adds the seconds that a file holds.
var shiftedBinary = sync.OnceValues(func() (string, error) {
	dir, err := e2e.BuildDir()
	if err != nil {
		return "", err
	}
	const now = "sec, nsec, mono := runtimeNow()\n\tif mono == 0 {"
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	original := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	source, err := os.ReadFile(original)
	if err != nil {
		return "", err
	}
	if !strings.Contains(string(source), now) {
		return "", errors.New("this test does not know the source of time.Now in this release of Go")
	}
	shifted := strings.Replace(string(source), now, strings.Replace(now, "\n", "\n\tsec += shift()\n", 1), 1)
	files := map[string]string{original: shifted, filepath.Join(filepath.Dir(original), "shift.go"): shiftSource}
	replace := map[string]string{}
	for path, text := range files {
		replace[path] = filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(replace[path], []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(path, overlay, 0o600); err != nil {
		return "", err
	}
	program := filepath.Join(dir, "signet-clock")
	return program, process.Compile(context.Background(), program, "signet", "-overlay", path)
})

const clockVariable = "SIGNET_TEST_CLOCK"

// The scheduler calls time.Now too, where system calls are not allowed. So the file is
// mapped into memory once.
const shiftSource = `package time

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

var shifted = mapShift()

// shift is how many seconds the clock is ahead, or behind.
func shift() int64 {
	if shifted == nil {
		return 0
	}
	return atomic.LoadInt64(shifted)
}

func mapShift() *int64 {
	path, ok := syscall.Getenv("` + clockVariable + `")
	if !ok {
		return nil
	}
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		panic(path + ": " + err.Error())
	}
	defer syscall.Close(fd)
	b, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic(path + ": " + err.Error())
	}
	return (*int64)(unsafe.Pointer(&b[0]))
}
`

// setClock moves the server's clock by that much from the test's clock.
func setClock(d *e2e.Program, by time.Duration) {
	d.T.Helper()
	f, err := os.OpenFile(d.Setting(clockVariable), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		d.T.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(binary.NativeEndian.AppendUint64(nil, uint64(int64(by/time.Second)))); err != nil {
		d.T.Fatal(err)
	}
}

// Wherever the clock jumps, spent, expired and revoked artefacts stay so, also across a
// restart, and logins go on working. The test runs at the present time, and so that the
// jumps cross the beginning of a signing period.
func TestClockJumpsReviveNothing_L10(t *testing.T) {
	t.Run("now", func(t *testing.T) { clockJumps(t, 0) })
	t.Run("over the beginning of a period", func(t *testing.T) {
		const begin = 30 * time.Minute // of the default period, before the first of the jumps
		now := time.Now()
		clockJumps(t, now.Truncate(24*time.Hour).Add(24*time.Hour+begin).Sub(now))
	})
}

// clockJumps begins with a server's clock that is ahead of the test's by base.
func clockJumps(t *testing.T, base time.Duration) {
	path, err := shiftedBinary()
	if err != nil {
		t.Fatal(err)
	}
	d := e2e.New(t, []string{"SIGNET_LIMITS=off", "SIGNET_LOG_LEVEL=info", clockVariable + "=" + filepath.Join(t.TempDir(), "clock")}, "--demo")
	d.Path = path
	setClock := func(by time.Duration) { t.Helper(); setClock(d, base+by) }
	setClock(0)
	d.Start()
	code := func(c *e2e.Client) string {
		return c.Code(t, "demo_user", "demo_password")
	}
	client, tok := d.Login()
	expired, spent := code(client), code(client)
	client.Exchange(t, spent)
	e2e.Post(t, d.Issuer, client.CodeForm(spent)) // ends its grant
	second, revoked := d.Login()
	if _, status, ok := try(d, "/revoke", second.TokenForm(revoked.RefreshToken)); !ok || status != 200 {
		t.Fatalf("revoke: %d", status)
	}
	third, rotated := d.Login()
	next, status := third.Refresh(t, rotated.RefreshToken)
	if status != 200 {
		t.Fatalf("refresh: %d", status)
	}
	refused := func(when string) {
		t.Helper()
		for what, form := range map[string]func() (e2e.Tokens, int){
			"an expired code":   func() (e2e.Tokens, int) { return e2e.Post(t, d.Issuer, client.CodeForm(expired)) },
			"a spent code":      func() (e2e.Tokens, int) { return e2e.Post(t, d.Issuer, client.CodeForm(spent)) },
			"a revoked handle":  func() (e2e.Tokens, int) { return second.Refresh(t, revoked.RefreshToken) },
			"a rotated handle":  func() (e2e.Tokens, int) { return third.Refresh(t, rotated.RefreshToken) },
			"its family's last": func() (e2e.Tokens, int) { return third.Refresh(t, next.RefreshToken) },
		} {
			if got, status := form(); status != 400 || got.Error != "invalid_grant" {
				t.Errorf("%s: %s got %d %+v", when, what, status, got)
			}
		}
	}
	goesOn := func(when string) {
		t.Helper()
		var status int
		if tok, status = client.Refresh(t, tok.RefreshToken); status != 200 {
			t.Fatalf("%s: a live handle got %d %+v", when, status, tok)
		}
		if status := e2e.Call(t, d.Issuer+"/mcp", tok.AccessToken); status != 200 {
			t.Errorf("%s: a new token got %d", when, status)
		}
		client.Exchange(t, code(client))
	}
	goesOn("at first")
	setClock(time.Hour)
	if got, status := third.Refresh(t, rotated.RefreshToken); status != 400 || got.Error != "invalid_grant" { // long after its window: reuse
		t.Errorf("a rotated handle after an hour: %d %+v", status, got)
	}
	if status := e2e.Call(t, d.Issuer+"/mcp", tok.AccessToken); status != 401 {
		t.Errorf("an access token after an hour: %d, want 401", status)
	}
	refused("an hour ahead")
	goesOn("an hour ahead")
	for _, at := range []time.Duration{0, -10 * time.Minute, -20 * time.Minute, -30 * time.Minute, time.Hour, -time.Hour} {
		setClock(at)
		refused(at.String())
		goesOn(at.String())
	}
	d.Stop()
	setClock(-2 * time.Hour)
	d.Start() // before the last time that the store has seen
	refused("started two hours back")
	goesOn("started two hours back")
	if doc, resp := e2e.GetJSON(t, d.Issuer+"/readyz"); resp.StatusCode != 200 || doc["clock"] != "differs" {
		t.Errorf("/readyz two hours back: %d %v", resp.StatusCode, doc)
	}
	if !strings.Contains(d.Output(), "the clock is behind the store") {
		t.Error("the log does not warn of the clock")
	}
	setClock(2 * time.Hour)
	refused("two hours ahead")
	goesOn("two hours ahead")
	if doc, _ := e2e.GetJSON(t, d.Issuer+"/readyz"); doc["clock"] != "ok" {
		t.Errorf("/readyz with the clock ahead of the store: %v", doc)
	}
	if _, after, panicked := strings.Cut(d.Output(), "panic"); panicked {
		t.Errorf("the log has a panic: %.2000s", after)
	}
}

// A clock that is wrong for one commit does not stop the time: windows and codes end, the
// list of revoked grants is dated by the clock, and the command accepts what is left.
func TestTimePassesAfterOneLeap_L10(t *testing.T) {
	path, err := shiftedBinary()
	if err != nil {
		t.Fatal(err)
	}
	d := e2e.New(t, []string{"SIGNET_LIMITS=off", "SIGNET_CODE_TTL=3s", "SIGNET_REPLAY_WINDOW=3s", "SIGNET_REFRESH_TTL=17520h", "SIGNET_REFRESH_IDLE_TTL=17520h",
		clockVariable + "=" + filepath.Join(t.TempDir(), "clock")}, "--demo")
	d.Path = path
	setClock(d, 0)
	d.Start()
	client, tok := d.Login()
	setClock(d, 30*24*time.Hour)
	next, status := client.Refresh(t, tok.RefreshToken)
	if status != 200 {
		t.Fatalf("in the leap: %d", status)
	}
	setClock(d, 0)
	late := client.Code(t, "demo_user", "demo_password")
	last, status := client.Refresh(t, next.RefreshToken)
	if status != 200 {
		t.Fatalf("after the leap: %d", status)
	}
	time.Sleep(3300 * time.Millisecond) // both have ended by any clock
	if got, status := e2e.Post(t, d.Issuer, client.CodeForm(late)); status != 400 || got.Error != "invalid_grant" {
		t.Errorf("a code after its life: %d %+v", status, got)
	}
	if got, status := client.Refresh(t, next.RefreshToken); status != 400 || got.Error != "invalid_grant" {
		t.Errorf("a handle after the window: %d %+v", status, got)
	}
	if got, status := client.Refresh(t, last.RefreshToken); status != 400 {
		t.Errorf("its family, which has ended: %d %+v", status, got)
	}
	_, tok = d.Login()
	if status := e2e.Call(t, d.Issuer+"/mcp", tok.AccessToken); status != 200 {
		t.Errorf("a token made after the leap: %d", status)
	}
	if at := feedDate(t, d); time.Since(at).Abs() > time.Hour {
		t.Errorf("the list is dated %v", at)
	}
	d.Stop()
	d.Start() // goes on from what was written
	second, tok := d.Login()
	if _, status := second.Refresh(t, tok.RefreshToken); status != 200 {
		t.Errorf("after a restart: %d", status)
	}
	if at := feedDate(t, d); time.Since(at).Abs() > time.Hour {
		t.Errorf("after a restart the list is dated %v", at)
	}
	d.Stop()
	if out := d.Must("doctor", "--accept-clock"); !strings.Contains(out, "ahead of the clock") {
		t.Errorf("doctor says %q", out)
	}
	d.Start()
	if doc, _ := e2e.GetJSON(t, d.Issuer+"/readyz"); doc["clock"] != "ok" {
		t.Errorf("/readyz after it was accepted: %v", doc)
	}
	if got, status := second.Refresh(t, tok.RefreshToken); status != 400 || got.Error != "invalid_grant" {
		t.Errorf("a handle of before: %d %+v", status, got)
	}
	d.Login()
}

// feedDate is the iat of the list of revoked grants.
func feedDate(t *testing.T, d *e2e.Program) time.Time {
	t.Helper()
	resp, err := http.Get(d.Issuer + "/.well-known/revoked")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(body), ".")
	if resp.StatusCode != 200 || len(parts) != 3 {
		t.Fatalf("the list: %d %.100s", resp.StatusCode, body)
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		IssuedAt int64 `json:"iat"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	return time.Unix(claims.IssuedAt, 0)
}

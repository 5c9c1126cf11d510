package faults

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"signet/internal/e2e"
	"signet/internal/test/process"
)

// harm is a kind of damage to the files in a data directory.
type harm struct {
	name string
	do   func(t *testing.T, dir, yesterday string)
	says []string // texts in the error of the next start
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func removed(names ...string) func(*testing.T, string, string) {
	return func(t *testing.T, dir, _ string) {
		for _, n := range names {
			if err := os.Remove(filepath.Join(dir, n)); !errors.Is(err, os.ErrNotExist) {
				must(t, err)
			}
		}
	}
}

// cut truncates a file to a part of its size.
func cut(name string, part float64) func(*testing.T, string, string) {
	return func(t *testing.T, dir, _ string) {
		info, err := os.Stat(filepath.Join(dir, name))
		must(t, err)
		must(t, os.Truncate(filepath.Join(dir, name), int64(part*float64(info.Size()))))
	}
}

// scribbled overwrites a page, counted from the end if it is negative.
func scribbled(page int64, with string) func(*testing.T, string, string) {
	return func(t *testing.T, dir, _ string) {
		f, err := os.OpenFile(filepath.Join(dir, "signet.db"), os.O_WRONLY, 0)
		must(t, err)
		defer f.Close()
		info, err := f.Stat()
		must(t, err)
		if page < 0 {
			page += info.Size() / 4096
		}
		_, err = f.WriteAt([]byte(strings.Repeat(with, 4096/len(with))), page*4096)
		must(t, err)
	}
}

// written overwrites the store with content, in the same file.
func written(content func(yesterday string) ([]byte, error)) func(*testing.T, string, string) {
	return func(t *testing.T, dir, yesterday string) {
		b, err := content(yesterday)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, "signet.db"), b, 0o600))
	}
}

// movedIn replaces the store by another file.
func movedIn(path func(yesterday string) string) func(*testing.T, string, string) {
	return func(t *testing.T, dir, yesterday string) {
		b, err := os.ReadFile(path(yesterday))
		must(t, err)
		aside := filepath.Join(dir, "signet.db.moved")
		must(t, os.WriteFile(aside, b, 0o600))
		must(t, os.Rename(aside, filepath.Join(dir, "signet.db")))
	}
}

func both(list ...func(*testing.T, string, string)) func(*testing.T, string, string) {
	return func(t *testing.T, dir, yesterday string) {
		for _, f := range list {
			f(t, dir, yesterday)
		}
	}
}

func ofYesterday(yesterday string) string { return filepath.Join(yesterday, "signet.db") }

func ofAnother(yesterday string) string { return filepath.Join(yesterday, "another", "signet.db") }

const wayOut = "signet doctor --accept-loss"

var harms = []harm{
	{"store deleted", removed("signet.db"), []string{"signet.db", "missing", wayOut}},
	{"store and log deleted", removed("signet.db", "signet.db-wal", "signet.db-shm"), []string{"signet.db", "missing", wayOut}},
	{"0 bytes", cut("signet.db", 0), []string{"signet.db", "empty", wayOut}},
	{"log deleted", removed("signet.db-wal"), []string{"signet.db", "rolled back", wayOut}},
	{"log cut to half", cut("signet.db-wal", .5), []string{"signet.db", "rolled back", wayOut}},
	{"header zeroed", scribbled(0, "\x00"), []string{"signet.db", wayOut}},
	{"main file cut", cut("signet.db", .5), []string{"signet.db", "damaged", wayOut}},
	{"one page scribbled", both(scribbled(-1, "scribble"), removed("signet.db-wal", "signet.db-shm")), []string{"signet.db", wayOut}}, // the log might have the page
	{"a text in its place", written(func(string) ([]byte, error) { return []byte("hello, this is no database\n"), nil }), []string{"signet.db", wayOut}},
	{"yesterday's copy, the log gone", both(written(func(y string) ([]byte, error) { return os.ReadFile(ofYesterday(y)) }), removed("signet.db-wal", "signet.db-shm")), []string{"signet.db", "rolled back", wayOut}},
	{"yesterday's copy moved in", movedIn(ofYesterday), []string{"signet.db", "rolled back", wayOut}},
	{"yesterday's copy written over it", written(func(y string) ([]byte, error) { return os.ReadFile(ofYesterday(y)) }), []string{"signet.db", "rolled back", wayOut}},
	{"another server's, the log gone", both(movedIn(ofAnother), removed("signet.db-wal", "signet.db-shm")), []string{"signet.db", "different epochs", wayOut}},
	{"mirror deleted", removed("mirror"), []string{"mirror", "missing", wayOut}},
	{"mirror emptied", cut("mirror", 0), []string{"mirror", wayOut}},
}

// holder is a client with a grant of its own and every handle it ever had.
type holder struct {
	client  *e2e.Client
	handles []string
	access  string // access token of the last refresh
}

func (h *holder) refresh(t *testing.T, d *e2e.Program) (status int) {
	t.Helper()
	resp, err := http.PostForm(d.Issuer+"/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {h.handles[len(h.handles)-1]}, "client_id": {h.client.ID}})
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	var tok e2e.Tokens
	if err := json.NewDecoder(resp.Body).Decode(&tok); err != nil {
		t.Errorf("refresh: %d: %v", resp.StatusCode, err)
	}
	if resp.StatusCode == http.StatusOK {
		h.handles, h.access = append(h.handles, tok.RefreshToken), tok.AccessToken
	}
	return resp.StatusCode
}

// prepareLoss makes a server with a past: an older copy of the store, another server's
// store, and later commits, some in the main file and some only in the log.
func prepareLoss(t *testing.T, d *e2e.Program) (holders []*holder, yesterday string) {
	t.Helper()
	for range 3 {
		client, tok := d.Login()
		holders = append(holders, &holder{client, []string{tok.RefreshToken}, tok.AccessToken})
	}
	d.Stop()
	yesterday = filepath.Join(t.TempDir(), "yesterday")
	copyDir(t, d.Dir, yesterday)
	other := e2e.Start(t, []string{"SIGNET_SECRET=" + strings.TrimSpace(e2e.ReadText(t, filepath.Join(d.Dir, "secret")))})
	other.Stop()
	copyDir(t, other.Dir, filepath.Join(yesterday, "another"))
	d.Start()
	holders[0].refresh(t, d)
	d.Stop() // moves the commits into the main file
	d.Start()
	for _, h := range holders {
		if status := h.refresh(t, d); status != http.StatusOK {
			t.Fatalf("refresh: %d", status)
		}
	}
	return holders, yesterday
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	must(t, os.RemoveAll(to))
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// nothingIsAccepted presents every handle that was ever issued.
func nothingIsAccepted(t *testing.T, d *e2e.Program, holders []*holder) {
	t.Helper()
	for i, h := range holders {
		for gen, handle := range h.handles {
			if tok, status := h.client.Refresh(t, handle); status != http.StatusBadRequest || tok.Error != "invalid_grant" {
				t.Errorf("handle %d of grant %d: %d %+v, want invalid_grant", gen+1, i, status, tok)
			}
		}
	}
}

// refusedUntilAccepted checks that a start is refused, twice, and changes nothing; and
// that it works once the loss is accepted, with no older handle.
func refusedUntilAccepted(t *testing.T, d *e2e.Program, holders []*holder, says []string) {
	t.Helper()
	before := e2e.Hashes(t, d.Dir)
	for range 2 {
		d.MustRefuse(says...)
	}
	if got := e2e.Hashes(t, d.Dir); fmt.Sprint(got) != fmt.Sprint(before) {
		t.Errorf("the refused start changed files:\n%v\n%v", before, got)
	}
	d.Must("doctor", "--accept-loss")
	d.Start()
	nothingIsAccepted(t, d, holders)
	if _, tok := d.Login(); tok.RefreshToken == "" {
		t.Error("after the loss was accepted, the user cannot sign in")
	}
	d.Stop()
}

// Whatever was done to the files of a killed server, it does not start with data
// missing.
func TestStoreLostWhileStoppedIsRefused_L08(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	holders, yesterday := prepareLoss(t, d)
	d.Kill()
	kept := filepath.Join(t.TempDir(), "kept")
	copyDir(t, d.Dir, kept)
	for _, h := range harms {
		t.Run(h.name, func(t *testing.T) {
			copyDir(t, kept, d.Dir)
			h.do(t, d.Dir, yesterday)
			refusedUntilAccepted(t, d, holders, h.says)
		})
	}
	copyDir(t, kept, d.Dir)
	d.Start() // unharmed
	for _, h := range holders {
		if status := h.refresh(t, d); status != http.StatusOK {
			t.Errorf("unharmed: %d", status)
		}
	}
}

// The same under load: each answer is right or 503. Afterwards the server refuses to
// start, or it has lost nothing and spent handles stay spent.
func TestStoreLostUnderLoadRevivesNothing_L08_INV15(t *testing.T) {
	for i, end := range []string{"stopped", "killed"} {
		for j, h := range harms {
			if testing.Short() && i != j%2 {
				continue
			}
			t.Run(h.name+", "+end, func(t *testing.T) {
				t.Parallel()
				d := e2e.Start(t, []string{"SIGNET_REPLAY_WINDOW=0", "SIGNET_DRAIN_DELAY=1ms"}, "--demo")
				holders, yesterday := prepareLoss(t, d)
				loadWhile(t, d, holders, func() { h.do(t, d.Dir, yesterday) })
				if end == "killed" {
					d.Kill()
				} else {
					d.Stop()
				}
				_, errOut, refused := startsOrNot(d)
				if refused {
					if !strings.Contains(errOut, wayOut) || !strings.Contains(errOut, d.Dir) {
						t.Errorf("refused without naming the file and the command: %s", errOut)
					}
					refusedUntilAccepted(t, d, holders, nil)
					return
				}
				t.Logf("the server starts, so nothing may be lost")
				for i, h := range holders {
					last := len(h.handles) - 1
					if status := h.refresh(t, d); status != http.StatusOK {
						t.Errorf("the last handle of grant %d, its generation %d: %d", i, last+1, status)
					}
					for _, spent := range h.handles[:last] {
						if tok, status := h.client.Refresh(t, spent); status != http.StatusBadRequest || tok.Error != "invalid_grant" {
							t.Errorf("a spent handle of grant %d: %d %+v", i, status, tok)
						}
					}
				}
			})
		}
	}
}

// startsOrNot starts the server, or returns the error of the start.
func startsOrNot(d *e2e.Program) (out, errOut string, refused bool) {
	if _, errOut, status := d.Signet("", "doctor"); status != 0 {
		_, errOut2, status2 := d.Signet("", d.Args...)
		return errOut, errOut2, status2 != 0
	}
	d.Start()
	return "", "", false
}

// loadWhile refreshes with every holder before, during and after do.
func loadWhile(t *testing.T, d *e2e.Program, holders []*holder, do func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	var answers atomic.Int64
	more := func(n int64) {
		t.Helper()
		enough := answers.Load() + n
		e2e.Eventually(t, func() bool { return answers.Load() >= enough || t.Failed() })
	}
	for i, h := range holders {
		done.Go(func() {
			for ctx.Err() == nil {
				status := h.refresh(t, d)
				answers.Add(1)
				switch status {
				case http.StatusOK:
				case http.StatusServiceUnavailable:
					time.Sleep(10 * time.Millisecond)
				default:
					t.Errorf("grant %d: %d, want 200 or 503", i, status)
					return
				}
			}
		})
	}
	more(30) // of load before
	do()
	more(30) // and after
	cancel()
	done.Wait()
}

// openDir returns a directory that other users may enter.
func openDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	return dir
}

// A directory, a store or a mirror that cannot be written is named in the error and not
// changed.
func TestReadOnlyFilesAreNamedAndLeftAlone_L08(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	d.Login()
	d.Stop()
	signet := filepath.Join(openDir(t), "signet")
	if out, err := exec.Command("cp", e2e.Binary(t), signet).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	kept := filepath.Join(t.TempDir(), "kept")
	copyDir(t, d.Dir, kept)
	for _, name := range []string{"", "signet.db", "mirror", "signet.db.lock"} {
		t.Run("read-only "+name, func(t *testing.T) {
			dir := filepath.Join(openDir(t), "data")
			copyDir(t, kept, dir)
			path := filepath.Join(dir, name)
			if out, err := exec.Command("chmod", "a-w", path).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			before := e2e.Hashes(t, dir)
			ctx, cancel := context.WithTimeout(t.Context(), process.Patience)
			defer cancel()
			cmd := exec.CommandContext(ctx, signet, "serve")
			cmd.Env = append(d.Env, "SIGNET_DATA_DIR="+dir)
			if os.Geteuid() == 0 { // root may write whatever the mode says
				const nobody = 65534
				if out, err := exec.Command("chown", "-R", fmt.Sprint(nobody), filepath.Dir(dir)).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
			}
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != e2e.ExitFailed || !strings.Contains(string(out), path) {
				t.Errorf("%v: %s; want an error that names %s", err, out, path)
			}
			if strings.Contains(string(out), wayOut) {
				t.Errorf("nothing is lost, but the error is %s", out)
			}
			if got := e2e.Hashes(t, dir); fmt.Sprint(got) != fmt.Sprint(before) {
				t.Errorf("files changed:\n%v\n%v", before, got)
			}
		})
	}
}

// If another process holds the database, a start fails and says so, and a running
// server answers 503 until the database is free.
func TestStoreLockedByAnotherProcess_L08(t *testing.T) {
	d := e2e.Start(t, nil, "--demo")
	client, tok := d.Login()
	d.Stop()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(d.Dir, "signet.db"))
	must(t, err)
	db.SetMaxOpenConns(1)
	defer db.Close()
	hold := func(query string) {
		t.Helper()
		_, err := db.Exec(query)
		must(t, err)
	}
	hold("PRAGMA locking_mode = EXCLUSIVE")
	hold("BEGIN EXCLUSIVE")
	d.MustRefuse(filepath.Join(d.Dir, "signet.db"), "locked")
	hold("ROLLBACK")
	must(t, db.Close())

	d.Start()
	db, err = sql.Open("sqlite", "file:"+filepath.Join(d.Dir, "signet.db")+"?_pragma=busy_timeout(5000)") // the server writes now and then
	must(t, err)
	db.SetMaxOpenConns(1)
	hold("BEGIN IMMEDIATE")
	if got, status := client.Refresh(t, tok.RefreshToken); status != http.StatusServiceUnavailable || got.Error != "temporarily_unavailable" {
		t.Errorf("while another process writes: %d %+v, want 503", status, got)
	}
	if status := e2e.Call(t, d.Issuer+"/mcp", tok.AccessToken); status != http.StatusOK {
		t.Errorf("an MCP call: %d", status)
	}
	hold("ROLLBACK")
	if got, status := client.Refresh(t, tok.RefreshToken); status != http.StatusOK {
		t.Errorf("afterwards: %d %+v", status, got)
	}
}

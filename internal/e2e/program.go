package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"signet/internal/test/process"
)

// Program is the built program, serving in a process of its own. Its methods fail the
// test on errors.
type Program struct {
	T      testing.TB
	Issuer string // http://localhost:PORT
	Dir    string // data directory
	Env    []string
	Args   []string
	Prefix []string // command line of a program that starts this one
	Path   string   // path of the program; empty for [Binary]
	Cwd    string   // working directory; empty for the one of the tests

	// Log is the path of a file that takes the output. A benchmark that kept the output in memory
	// would read it on the core of its load, as much as the load's own answers. Empty: in memory.
	Log string

	process *process.Process // nil before the first start

	mu     sync.Mutex
	log    []byte        // output of the process
	unread int           // how much of log was searched for the line "serving"
	up     chan struct{} // closed when the log says "serving"
	wrote  chan struct{} // closed when log grows
}

// Start starts the program with a data directory of its own and waits until it serves.
// settings are more variables, args more arguments.
func Start(t testing.TB, settings []string, args ...string) *Program {
	t.Helper()
	p := New(t, settings, args...)
	p.Start()
	return p
}

// New returns the program of [Start] before its start.
func New(t testing.TB, settings []string, args ...string) *Program {
	t.Helper()
	port := FreePort(t)
	p := &Program{T: t, Issuer: "http://localhost:" + port, Dir: filepath.Join(t.TempDir(), "data"), Args: append([]string{"serve"}, args...)}
	p.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(),
		"SIGNET_ISSUER=" + p.Issuer, "SIGNET_LISTEN=127.0.0.1:" + port, "SIGNET_DATA_DIR=" + p.Dir, "SIGNET_METRICS_LISTEN=off", "SIGNET_LOG_LEVEL=debug",
	}, settings...)
	t.Cleanup(p.Kill)
	return p
}

// Start starts the program and waits until it says that it serves.
func (p *Program) Start() {
	p.T.Helper()
	cmd := p.Command()
	if p.Log != "" {
		p.startWithFile(cmd)
		return
	}
	cmd.Stdout, cmd.Stderr = p, p // one pipe, which keeps the order
	up := make(chan struct{})
	p.mu.Lock()
	p.up, p.unread = up, len(p.log)
	p.mu.Unlock()
	started, err := process.Start(cmd)
	if err != nil {
		p.T.Fatal(err)
	}
	p.process = started
	select {
	case <-up:
	case <-started.Ended():
		p.T.Fatalf("signet %s stopped at once:\n%s", strings.Join(p.Args, " "), p.Output())
	case <-time.After(process.Patience):
		p.T.Fatalf("signet %s does not serve after %s:\n%s", strings.Join(p.Args, " "), process.Patience, p.Output())
	}
}

// startWithFile starts the program with its output in p.Log.
func (p *Program) startWithFile(cmd *exec.Cmd) {
	p.T.Helper()
	f, err := os.OpenFile(p.Log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		p.T.Fatal(err)
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	if p.process, err = process.Start(cmd); err != nil {
		p.T.Fatal(err)
	}
	if err := p.process.Listens(p.T.Context(), strings.TrimPrefix(p.URL(), "http://")); err != nil {
		p.T.Fatalf("signet %s: %v:\n%s", strings.Join(p.Args, " "), err, p.Output())
	}
}

// Command is the command line that Start runs.
func (p *Program) Command() *exec.Cmd {
	path := p.Path
	if path == "" {
		path = Binary(p.T)
	}
	line := slices.Concat(p.Prefix, []string{path}, p.Args)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env, cmd.Dir = p.Env, p.Cwd
	return cmd
}

// Write adds output of the process to the log.
func (p *Program) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log = append(p.log, b...)
	if p.wrote != nil {
		close(p.wrote)
		p.wrote = nil
	}
	for p.up != nil {
		line, _, whole := bytes.Cut(p.log[p.unread:], []byte("\n"))
		if !whole {
			break
		}
		p.unread += len(line) + 1
		var entry struct{ Msg string }
		if json.Unmarshal(line, &entry) == nil && entry.Msg == "serving" {
			close(p.up)
			p.up = nil
		}
	}
	return len(b), nil
}

// Output returns the output of the process, including earlier starts.
func (p *Program) Output() string {
	if p.Log != "" {
		text, _ := os.ReadFile(p.Log) // not there yet: there is no output
		return string(text)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.log)
}

// Says reports how often the process wrote a text.
func (p *Program) Says(text string) int { return strings.Count(p.Output(), text) }

// WaitFor waits until the process has written a text.
func (p *Program) WaitFor(text string) {
	p.T.Helper()
	p.WaitForMore(text, 0)
}

// WaitForMore waits until the process has written a text more often than a number that
// [Program.Says] returned earlier.
func (p *Program) WaitForMore(text string, than int) {
	p.T.Helper()
	enough := time.After(process.Patience)
	for {
		p.mu.Lock()
		if bytes.Count(p.log, []byte(text)) > than {
			p.mu.Unlock()
			return
		}
		if p.wrote == nil {
			p.wrote = make(chan struct{})
		}
		wrote := p.wrote
		p.mu.Unlock()
		select {
		case <-wrote:
		case <-p.Ended():
			if p.Says(text) <= than {
				p.T.Fatalf("it ended without writing %q:\n%s", text, p.Output())
			}
		case <-enough:
			p.T.Fatalf("it did not write %q:\n%s", text, p.Output())
		}
	}
}

// PID is the number of the process.
func (p *Program) PID() int { return p.process.PID() }

// Signal sends a signal to the process.
func (p *Program) Signal(s syscall.Signal) error { return p.process.Signal(s) }

// Ended is closed when the process has ended.
func (p *Program) Ended() <-chan struct{} { return p.process.Ended() }

// Status waits for the end of the process and returns its exit status.
func (p *Program) Status() int { return p.process.Status() }

// Stop asks the process to stop and returns its exit status.
func (p *Program) Stop() int {
	p.T.Helper()
	if err := p.process.Stop(); err != nil {
		p.T.Errorf("%v:\n%s", err, p.Output())
	}
	return p.Status()
}

// Kill ends the process, if it runs, without a chance to tidy up.
func (p *Program) Kill() {
	if p.process != nil && p.process.Running() {
		p.process.Kill()
	}
}

// Signet runs one command beside the server, with the same settings.
func (p *Program) Signet(stdin string, args ...string) (stdout, stderr string, status int) {
	p.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, Binary(p.T), args...)
	cmd.Env, cmd.Stdin = p.Env, strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		p.T.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// TakesUp changes the file of users or of clients and waits until the server has the new
// content in use: its generation in /readyz moves.
func (p *Program) TakesUp(file string, change func()) {
	p.T.Helper()
	generation := func() float64 {
		doc, _ := GetJSON(p.T, p.URL()+"/readyz")
		n, ok := doc[file].(float64)
		if !ok {
			p.T.Fatalf("/readyz has no generation of %s: %v", file, doc)
		}
		return n
	}
	before := generation()
	change()
	Eventually(p.T, func() bool { return generation() > before })
}

// AddUser adds a user by a command, and waits until a server that runs knows the user.
func (p *Program) AddUser(name, password string, args ...string) {
	p.T.Helper()
	add := func() {
		p.T.Helper()
		if out, errOut, status := p.Signet(password+"\n", append([]string{"user", "add", name, "--password-stdin"}, args...)...); status != 0 {
			p.T.Fatalf("user add: %d %s%s", status, out, errOut)
		}
	}
	if p.process == nil || !p.process.Running() {
		add()
		return
	}
	p.TakesUp("users", add)
}

// Restart stops the process and starts it again.
func (p *Program) Restart() {
	p.T.Helper()
	p.Stop()
	p.Start()
}

// StopTraced stops a server that runs below strace.
func (p *Program) StopTraced() {
	p.T.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.PID()), "task", strconv.Itoa(p.PID()), "children"))
	if err != nil {
		p.T.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		p.T.Fatalf("strace's children are %q", b)
	}
	if err := syscall.Kill(child, syscall.SIGTERM); err != nil {
		p.T.Fatal(err)
	}
	<-p.Ended()
}

// Must runs a command that has to succeed, and returns what it printed.
func (p *Program) Must(args ...string) string {
	p.T.Helper()
	out, errOut, status := p.Signet("", args...)
	if status != 0 {
		p.T.Fatalf("signet %s: %d: %s%s", strings.Join(args, " "), status, out, errOut)
	}
	return out
}

// Setting is a variable of the environment, as the process sees it.
func (p *Program) Setting(name string) (value string) {
	for _, kv := range p.Env {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			value = v
		}
	}
	return value
}

// URL is where the process itself answers, past any proxy.
func (p *Program) URL() string { return "http://" + p.Setting("SIGNET_LISTEN") }

// Beside returns a second server with the settings of p, except for those that follow.
// It listens elsewhere and has the same issuer.
func (p *Program) Beside(settings ...string) *Program {
	second := &Program{T: p.T, Issuer: p.Issuer, Dir: filepath.Join(p.T.TempDir(), "data"), Args: p.Args}
	second.Env = slices.DeleteFunc(slices.Clone(p.Env), func(kv string) bool { return strings.HasPrefix(kv, "SIGNET_LISTEN=") })
	second.Env = append(second.Env, "SIGNET_LISTEN=127.0.0.1:"+FreePort(p.T), "SIGNET_DATA_DIR="+second.Dir)
	second.Env = append(second.Env, settings...)
	p.T.Cleanup(second.Kill)
	return second
}

// MustRefuse checks that a start fails, with an error that contains all of want.
func (p *Program) MustRefuse(want ...string) {
	p.T.Helper()
	_, errOut, status := p.Signet("", p.Args...)
	if status != ExitFailed {
		p.T.Errorf("exit status %d, want %d: %s", status, ExitFailed, errOut)
	}
	for _, w := range want {
		if !strings.Contains(errOut, w) {
			p.T.Errorf("%q does not say %q", errOut, w)
		}
	}
}

// WideLimits are limits that are counted like narrow ones, but refuse no request of a
// load that comes from one address and uses few grants.
const WideLimits = "SIGNET_LIMITS=authorize=1000000000,login=1000000000,register=1000000000,register_all=1000000000,tokens_grant=1000000000,tokens_client=1000000000"

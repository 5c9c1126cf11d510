package bench

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/internal/e2e"
	"signet/internal/memory"
	"signet/internal/test/process"
	"signet/mcp"
)

// bareServer is the environment variable that turns this test program into the server
// that Signet is compared with: bare handlers with the same answers.
const bareServer = "SIGNET_TEST_BARE_SERVER"

// serveBare serves bytes that were put there, with their headers, the same tools without a
// Guard, and tokens. It keeps its files in the working directory.
func serveBare(addr string) error {
	defer memory.Pace(os.Environ(), os.DirFS("/"))() // as signet serve does
	tools := mcp.NewServer("bare", "1")
	mcp.AddSampleTools(tools, func(string, ...string) {})
	mux := http.NewServeMux()
	mux.Handle("/mcp", sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return tools }, &sdk.StreamableHTTPOptions{Stateless: true, JSONResponse: true}))
	var header http.Header
	var body []byte
	mux.HandleFunc("GET /bytes", func(w http.ResponseWriter, _ *http.Request) {
		maps.Copy(w.Header(), header)
		w.Write(body)
	})
	mux.HandleFunc("POST /bytes", func(_ http.ResponseWriter, r *http.Request) {
		header, body = http.Header{}, nil
		for name, value := range r.Header {
			if name, ok := strings.CutPrefix(name, "Same-"); ok {
				header[name] = value
			}
		}
		body, _ = io.ReadAll(r.Body)
	})
	tokens, err := newBareTokens(".")
	if err != nil {
		return err
	}
	r := chi.NewRouter()
	r.Post("/token", tokens.forClient)
	r.Post("/begin", tokens.begin)
	r.Post("/refresh", tokens.refresh)
	r.Post("/hash", bareHash())
	mux.Handle("POST /proxy", bareProxy())
	r.NotFound(mux.ServeHTTP)
	// Signet limits the time of requests too: a deadline is set before each read and write.
	s := http.Server{Addr: addr, Handler: r, ReadHeaderTimeout: time.Minute, ReadTimeout: time.Minute, WriteTimeout: time.Minute, IdleTimeout: time.Minute}
	return s.ListenAndServe()
}

// BenchmarkTargets measures the built program under load: the server on one core, the
// load on another, every rotation durable before the answer; and beside each figure its bare
// primitive, in turns. It prints a table, and with -update writes it to
// docs/benchmarks.md.
func BenchmarkTargets(b *testing.B) {
	if b.N > 1 {
		return
	}
	core := []string{e2e.Need(b, "taskset"), "--cpu-list", "0"}
	if out, err := exec.Command("taskset", "--all-tasks", "--cpu-list", "--pid", "1", strconv.Itoa(os.Getpid())).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	report := &report{}
	info, err := os.Stat(e2e.Binary(b))
	if err != nil {
		b.Fatal(err)
	}
	report.row("binary", "<= 28 MiB", fmt.Sprintf("%.1f MiB", float64(info.Size())/(1<<20)), "")

	d := e2e.Start(b, []string{"SIGNET_LOG_LEVEL=info", e2e.WideLimits}, "--demo")
	d.Stop()
	uncache(b, e2e.Binary(b))
	d.Prefix, d.Log = core, filepath.Join(b.TempDir(), "log")
	d.Start()
	report.row("start to first answer", "<= 20 ms", startTime(d).String(), "an empty Go program, from start to end: "+emptyProgram(b, core).String())
	report.row("memory when idle", "<= 28 MiB", fmt.Sprintf("%.1f MiB", rss(d)), "")
	measureTokens(b, d, report)
	measureReads(b, d, report, core)
	measureLogin(b, core, report)
	report.row("memory under load", "", fmt.Sprintf("%.1f MiB", rss(d)), "")
	report.print(b)
}

// uncache makes the next start read the program from disk, as on a machine that has just started. A file
// that was written in one piece is in the page cache in large pieces too, and the kernel maps them whole:
// 6 MiB of the program are resident that nothing has touched.
func uncache(b *testing.B, program string) {
	b.Helper()
	f, err := os.Open(program)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil { // what is not on disk stays in the cache
		b.Fatal(err)
	}
	if out, err := exec.Command("dd", "if="+program, "iflag=nocache", "count=0").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
}

type report struct{ rows [][4]string }

func (r *report) row(what, target, measured, bare string) {
	r.rows = append(r.rows, [4]string{what, target, measured, bare})
}

const (
	benchmarks     = "docs/benchmarks.md"
	gatewayHeading = "\n## The gateway\n"
)

func (r *report) table() string {
	var out strings.Builder
	out.WriteString("| operation | target | measured | for comparison, in the same run |\n|---|---|---|---|\n")
	for _, row := range r.rows {
		fmt.Fprintf(&out, "| %s | %s | %s | %s |\n", row[0], row[1], row[2], row[3])
	}
	return out.String()
}

func (r *report) print(b *testing.B) {
	table := r.table()
	fmt.Println(table)
	if !*e2e.Update {
		return
	}
	text := "# Benchmarks\n\n" +
		"This document compares the throughput of one core with the targets. `make bench` measures it.\n\n" +
		"The machine: " + cpuModel() + ", " + runtime.Version() + ". The server runs on one core, the load on another, and what a grant or\n" +
		"handle is used for is on disk (`synchronous=FULL`) before its request is answered. Each figure stands beside its bare primitive, measured in turns in the same run,\n" +
		"in a server of net/http with the same kinds of time limits.\n\n" + table
	_, gateway, _ := benchmarkParts(b)
	writeBenchmarks(b, text, gateway)
}

// benchmarkParts returns the parts of docs/benchmarks.md before and after the heading of the gateway.
func benchmarkParts(b *testing.B) (targets, gateway string, found bool) {
	text, err := os.ReadFile(benchmarks)
	if err != nil {
		b.Fatal(err)
	}
	return strings.Cut(string(text), gatewayHeading)
}

func writeBenchmarks(b *testing.B, targets, gateway string) {
	if err := os.WriteFile(benchmarks, []byte(targets+gatewayHeading+gateway), 0o644); err != nil {
		b.Fatal(err)
	}
}

func cpuModel() string {
	f, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(f)) {
		if name, ok := strings.CutPrefix(line, "model name\t: "); ok {
			return strings.TrimSpace(name)
		}
	}
	return runtime.GOARCH
}

type family struct {
	client *e2e.Client
	handle string
	access string
}

func refreshOver(c *e2e.Wire, f *family) error { return refreshAt(c, "/token", f) }

// refreshAt costs the load's core little: what the load takes longer, the next commit has fewer
// requests. Handles and ids are base64url, which no form and no JSON escapes.
func refreshAt(c *e2e.Wire, path string, f *family) error {
	answer, err := c.Do("POST", path, "Content-Type: application/x-www-form-urlencoded\r\n", "grant_type=refresh_token&refresh_token="+f.handle+"&client_id="+f.client.ID)
	if err != nil {
		return err
	}
	next := textOf(answer, "refresh_token")
	if next == "" || next == f.handle {
		return fmt.Errorf("%s", answer)
	}
	f.handle, f.access = next, textOf(answer, "access_token")
	return nil
}

// textOf returns the value of a member that is a plain text, or "".
func textOf(object []byte, member string) string {
	_, rest, _ := bytes.Cut(object, []byte(`"`+member+`":"`))
	value, _, _ := bytes.Cut(rest, []byte(`"`))
	return string(value)
}

func measureTokens(b *testing.B, d *e2e.Program, r *report) {
	families := make([]*family, 64)
	for i := range families {
		client, tok := d.Login()
		families[i] = &family{client, tok.RefreshToken, tok.AccessToken}
	}
	bare := startBare(b, d.Prefix)
	ours := served{d.Issuer, d.PID()}
	least := bareFamilies(b, bare.base, len(families))
	sign := signRate(b)
	for _, c := range []struct {
		connections int
		target      string
	}{{16, "9,500/s"}, {64, "14,000/s, p99 <= 10 ms"}} {
		l, minimal := inTurns(b, 5, c.connections,
			ours, func(i int, w *e2e.Wire) error { return refreshOver(w, families[i]) },
			bare, func(i int, w *e2e.Wire) error { return refreshAt(w, "/refresh", least[i]) })
		r.row(fmt.Sprintf("refresh with rotation, %d connections", c.connections), ">= 85 % of a minimal program; >= "+c.target, l.against(minimal),
			fmt.Sprintf("one handle opened and sealed, one row, one token signed: %s; bare ecdsa.SignASN1: %.0f/s", minimal, sign))
	}
	measureCalls(b, r, ours, bare, func(i int) string { return families[i].access })
	l, minimal := inTurns(b, 5, 16, ours, tokenForItself("machine", machine(b, d)), bare, tokenForItself("machine", bareSecret))
	r.row("client_credentials, 16 connections", ">= 85 % of a minimal program", l.against(minimal), "one secret compared, one token signed: "+minimal.String())
}

// machine adds a client that gets tokens for itself, and returns its secret.
func machine(b *testing.B, d *e2e.Program) string {
	b.Helper()
	var added struct {
		Secret string `json:"client_secret"`
	}
	if err := json.Unmarshal([]byte(d.Must("client", "add", "machine", "--client-credentials", "--scope", "read", "--json")), &added); err != nil {
		b.Fatal(err)
	}
	e2e.Eventually(b, func() bool { // the server takes the file up
		c, err := e2e.Dial(d.Issuer)
		return err == nil && tokenForItself("machine", added.Secret)(0, c) == nil
	})
	return added.Secret
}

func tokenForItself(id, secret string) func(int, *e2e.Wire) error {
	body := url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}}.Encode()
	return func(_ int, c *e2e.Wire) error {
		answer, err := c.Do("POST", "/token", "Content-Type: application/x-www-form-urlencoded\r\n", body)
		if err == nil && !bytes.Contains(answer, []byte(`"access_token"`)) {
			err = fmt.Errorf("%s", answer)
		}
		return err
	}
}

// measureCalls compares calls of a tool with those of the SDK's handler without auth, in a
// protocol version with sessions and in the one without.
func measureCalls(b *testing.B, r *report, ours, bare served, token func(i int) string) {
	const headers = "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\nMCP-Protocol-Version: "
	for _, v := range []struct{ version, meta, headers string }{
		{"2025-11-25", "", ""},
		{"2026-07-28", `,"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`, "Mcp-Method: tools/call\r\nMcp-Name: echo\r\n"},
	} {
		call := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"message":"x"}` + v.meta + `}}`
		plain := headers + v.version + "\r\n" + v.headers
		guarded, without := inTurns(b, 5, 16,
			ours, func(i int, c *e2e.Wire) error {
				_, err := c.Do("POST", "/mcp", plain+"Authorization: Bearer "+token(i)+"\r\n", call)
				return err
			},
			bare, func(_ int, c *e2e.Wire) error {
				_, err := c.Do("POST", "/mcp", plain, call)
				return err
			})
		r.row("verified MCP call of "+v.version+", 16 connections", ">= 95 % of the SDK's handler", guarded.against(without), "the SDK's handler without auth: "+without.String())
	}
}

func measureReads(b *testing.B, d *e2e.Program, r *report, core []string) {
	bare := startBare(b, core)
	get := func(path string) func(int, *e2e.Wire) error {
		return func(_ int, c *e2e.Wire) error {
			_, err := c.Do("GET", path, "", "")
			return err
		}
	}
	time.Sleep(2 * time.Second) // beside requests with a credential, answers for everybody take turns
	for _, path := range []string{"/.well-known/jwks.json", "/.well-known/oauth-authorization-server"} {
		serveSame(b, d.Issuer+path, bare.base+"/bytes")
		ours, without := inTurns(b, 3, 16, served{d.Issuer, d.PID()}, get(path), bare, get("/bytes"))
		r.row("GET "+path+", 16 connections", ">= 95 % of a bare handler", ours.against(without), "bare handler: "+without.String())
	}
}

// serveSame copies the answer at from to the bare server at to.
func serveSame(b *testing.B, from, to string) {
	b.Helper()
	resp, err := http.Get(from)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	r, err := http.NewRequest("POST", to, resp.Body)
	if err != nil {
		b.Fatal(err)
	}
	for name, value := range resp.Header {
		r.Header["Same-"+name] = value
	}
	told, err := http.DefaultClient.Do(r)
	if err != nil {
		b.Fatal(err)
	}
	told.Body.Close()
}

// measureLogin measures logins of a user of the users file.
func measureLogin(b *testing.B, core []string, r *report) {
	d := e2e.Start(b, []string{"SIGNET_LOG_LEVEL=info", e2e.WideLimits})
	d.AddUser("ann", "correct horse battery staple")
	d.Stop()
	d.Prefix, d.Log = core, filepath.Join(b.TempDir(), "log")
	d.Start()
	client := e2e.Register(b, d.Issuer, e2e.RedirectURI)
	signIn := func(int, *e2e.Wire) error {
		e2e.SignIn(b, client.AuthorizationURL("s"), "ann", "correct horse battery staple")
		return nil
	}
	send := same(loginRequest(b, client.AuthorizationURL("s"), "ann", "correct horse battery staple"))
	form := func(i int, c *e2e.Wire) error {
		status, err := send(i, c)
		if err == nil && status != http.StatusSeeOther {
			err = fmt.Errorf("the login form is answered with %d", status)
		}
		return err
	}
	hash := func(_ int, c *e2e.Wire) error {
		_, err := c.Do("POST", "/hash", "", "")
		return err
	}
	bare := startBare(b, core)
	// One password is hashed, the other logins are on the way there.
	for _, login := range []struct {
		name string
		do   func(int, *e2e.Wire) error
	}{{"login form sent, 4 at a time", form}, {"whole login (4 pages), 4 at a time", signIn}} {
		ours, without := inTurns(b, 5, 4, served{d.Issuer, d.PID()}, login.do, bare, hash)
		r.row(login.name, ">= 95 % of the bare argon2id rate", ours.against(without), "bare argon2id, one at a time: "+without.String())
	}
}

func signRate(b *testing.B) float64 {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	hash := sha256.Sum256([]byte("x"))
	return rate(func() { ecdsa.SignASN1(rand.Reader, key, hash[:]) })
}

// rate is how often f runs in a second, one call after another.
func rate(f func()) float64 {
	begin, n := time.Now(), 0
	for time.Since(begin) < 2*time.Second {
		f()
		n++
	}
	return float64(n) / time.Since(begin).Seconds()
}

// startBare runs this program as the bare server, on the same core as Signet.
func startBare(b *testing.B, core []string) served {
	b.Helper()
	addr := "127.0.0.1:" + e2e.FreePort(b)
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(core[0], append(slices.Clone(core[1:]), self)...)
	cmd.Env = append(os.Environ(), bareServer+"="+addr)
	cmd.Dir, cmd.Stderr = b.TempDir(), os.Stderr
	p, err := process.Start(cmd)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.Kill)
	if err := p.Listens(b.Context(), addr); err != nil {
		b.Fatalf("the bare server: %v", err)
	}
	return served{"http://" + addr, p.PID()}
}

// startTime is the median time of several starts, from exec to the first answer.
func startTime(d *e2e.Program) time.Duration {
	var took []time.Duration
	addr := strings.TrimPrefix(d.Issuer, "http://")
	for range 9 {
		d.Stop()
		begin := time.Now()
		cmd := d.Command()
		p, err := process.Start(cmd)
		if err != nil {
			d.T.Fatal(err)
		}
		for !answers(addr) {
			time.Sleep(500 * time.Microsecond)
		}
		took = append(took, time.Since(begin))
		p.Kill()
		d.Start()
	}
	slices.Sort(took)
	return took[len(took)/2].Round(time.Millisecond)
}

// emptyProgram is the median time that a Go program takes which does nothing: what a start costs on
// this machine.
func emptyProgram(b *testing.B, core []string) time.Duration {
	b.Helper()
	dir := b.TempDir()
	source, program := filepath.Join(dir, "main.go"), filepath.Join(dir, "empty")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", program, source).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	var took []time.Duration
	for range 9 {
		begin := time.Now()
		if err := exec.Command(core[0], append(slices.Clone(core[1:]), program)...).Run(); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	return took[len(took)/2].Round(time.Millisecond)
}

func answers(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return false
	}
	defer c.Close()
	fmt.Fprintf(c, "GET /livez HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", addr)
	b, _ := io.ReadAll(c)
	return bytes.HasPrefix(b, []byte("HTTP/1.1 200"))
}

// rss is the resident memory in MiB.
func rss(d *e2e.Program) float64 {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(d.PID()), "status"))
	if err != nil {
		d.T.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.ParseFloat(strings.Fields(kb)[0], 64)
			return n / 1024
		}
	}
	return 0
}

// served is a server under load.
type served struct {
	base string
	pid  int
}

// cpu is the time that the server has had on its core.
func (s served) cpu(b *testing.B) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, err := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err := errors.Join(err, err2); err != nil {
		b.Fatal(err)
	}
	const tick = time.Second / 100 // USER_HZ, which is 100 wherever Go runs
	return time.Duration(user+system) * tick
}

// loaded is the outcome of a load.
type loaded struct {
	took []time.Duration
	over time.Duration
	cpu  time.Duration // that the server took; 0: not measured
}

func (l loaded) rate() float64 { return float64(len(l.took)) / l.over.Seconds() }

// cost is the server's time for a request.
func (l loaded) cost() time.Duration { return l.cpu / time.Duration(len(l.took)) }

func (l loaded) percentile(p int) time.Duration {
	slices.SortFunc(l.took, cmp.Compare)
	return l.took[len(l.took)*p/100].Round(10 * time.Microsecond)
}

func (l loaded) String() string {
	text := fmt.Sprintf("%.0f/s, p50 %s, p99 %s", l.rate(), l.percentile(50), l.percentile(99))
	if l.cpu != 0 {
		text += fmt.Sprintf(", %.0f µs of CPU", l.cost().Seconds()*1e6)
	}
	return text
}

// against compares the throughput, and the cost, on which other work on the machine has less
// effect.
func (l loaded) against(bare loaded) string {
	return fmt.Sprintf("%s: %.0f %% (by CPU %.0f %%)", l, 100*l.rate()/bare.rate(), 100*bare.cost().Seconds()/l.cost().Seconds())
}

// inTurns loads Signet and the bare server alternately, so that other work on the
// machine affects both.
func inTurns(b *testing.B, rounds, connections int, ours served, do func(int, *e2e.Wire) error, bare served, doBare func(int, *e2e.Wire) error) (l, without loaded) {
	for range rounds {
		l = l.plus(ours.load(b, connections, do))
		without = without.plus(bare.load(b, connections, doBare))
	}
	return l, without
}

func (s served) load(b *testing.B, connections int, do func(int, *e2e.Wire) error) loaded {
	before := s.cpu(b)
	l := load(b, s.base, connections, 2*time.Second, do)
	l.cpu = s.cpu(b) - before
	return l
}

func (l loaded) plus(m loaded) loaded {
	return loaded{append(l.took, m.took...), l.over + m.over, l.cpu + m.cpu}
}

// load runs do on a number of connections for a while.
func load(b *testing.B, base string, connections int, lasts time.Duration, do func(i int, c *e2e.Wire) error) loaded {
	b.Helper()
	var mu sync.Mutex
	var all loaded
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range connections {
		wg.Go(func() {
			c, err := e2e.Dial(base)
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			var took []time.Duration
			for time.Since(begin) < lasts {
				sent := time.Now()
				if err := do(i, c); err != nil {
					b.Errorf("under load: %v", err)
					break
				}
				took = append(took, time.Since(sent))
			}
			mu.Lock()
			defer mu.Unlock()
			all.took = append(all.took, took...)
		})
	}
	wg.Wait()
	all.over = time.Since(begin)
	if len(all.took) == 0 {
		b.Fatal("no request was answered")
	}
	return all
}

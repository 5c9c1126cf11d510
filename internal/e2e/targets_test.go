package e2e

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alexedwards/argon2id"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/mcp"
)

// bareServer is the environment variable that turns this test program into what
// Signet is compared with: handlers that do the same work and nothing else.
const bareServer = "SIGNET_TEST_BARE_SERVER"

// serveBare serves the bytes that it is given, with their headers, and the same tools
// without a Guard.
func serveBare(addr string) error {
	debug.SetGCPercent(800) // as signet serve does
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
	return http.ListenAndServe(addr, mux)
}

// BenchmarkTargets measures the built program under load: the server on one core,
// the load on another, every row durable before it is answered; and beside each
// figure its bare primitive, in turns. It prints a table, and with -update keeps it in
// docs/benchmarks.md.
func BenchmarkTargets(b *testing.B) {
	if b.N > 1 {
		return
	}
	core := []string{need(b, "taskset"), "--cpu-list", "0"}
	if out, err := exec.Command("taskset", "--all-tasks", "--cpu-list", "--pid", "1", strconv.Itoa(os.Getpid())).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	report := &report{}
	info, err := os.Stat(program(b))
	if err != nil {
		b.Fatal(err)
	}
	report.row("binary", "<= 30 MiB", fmt.Sprintf("%.1f MiB", float64(info.Size())/(1<<20)), "")

	d := startDaemon(b, []string{"SIGNET_LOG_LEVEL=info", wideLimits}, "--demo")
	d.stop()
	d.prefix = core
	d.start()
	report.row("start to first answer", "<= 50 ms", d.startTime().String(), "")
	report.row("memory when idle", "<= 30 MiB", fmt.Sprintf("%.1f MiB", d.rss()), "")
	measureTokens(b, d, report)
	measureReads(b, d, report, core)
	measureLogin(b, core, report)
	report.row("memory under load", "", fmt.Sprintf("%.1f MiB", d.rss()), "")
	report.print(b)
}

type report struct{ rows [][4]string }

func (r *report) row(what, target, measured, bare string) {
	r.rows = append(r.rows, [4]string{what, target, measured, bare})
}

// wideLimits are counted like narrow ones, and refuse nothing of a load that comes
// from one address and uses few grants.
const wideLimits = "SIGNET_LIMITS=authorize=1000000000,login=1000000000,register=1000000000,register_all=1000000000,tokens_grant=1000000000,tokens_client=1000000000"

const benchmarks = "docs/benchmarks.md"

func (r *report) print(b *testing.B) {
	var out strings.Builder
	out.WriteString("| operation | target | measured | for comparison, in the same run |\n|---|---|---|---|\n")
	for _, row := range r.rows {
		fmt.Fprintf(&out, "| %s | %s | %s | %s |\n", row[0], row[1], row[2], row[3])
	}
	fmt.Println(out.String())
	if !*update {
		return
	}
	text := "# Benchmarks\n\n" +
		"This document compares the throughput of one core with the targets. `make bench` measures it.\n\n" +
		"The machine: " + cpuModel() + ", " + runtime.Version() + ". The server runs on one core, the load on another, and each row is durable\n" +
		"(`synchronous=FULL`) before its request is answered. Each figure stands beside its bare primitive, measured in turns in the same run.\n\n" + out.String()
	if err := os.WriteFile(benchmarks, []byte(text), 0o644); err != nil {
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
	client registration
	handle string
	access string
}

func refreshOver(c *wire, f *family) error {
	body := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {f.handle}, "client_id": {f.client.ClientID}}.Encode()
	answer, err := c.do("POST", "/token", "Content-Type: application/x-www-form-urlencoded\r\n", body)
	if err != nil {
		return err
	}
	var tok tokens
	if err := json.Unmarshal(answer, &tok); err != nil || tok.RefreshToken == "" {
		return fmt.Errorf("%s", answer)
	}
	f.handle, f.access = tok.RefreshToken, tok.AccessToken
	return nil
}

func measureTokens(b *testing.B, d *daemon, r *report) {
	families := make([]*family, 64)
	for i := range families {
		client, tok := d.login()
		families[i] = &family{client, tok.RefreshToken, tok.AccessToken}
	}
	sign := signRate(b)
	for _, c := range []struct {
		connections int
		target      string
	}{{16, ">= 9,500/s"}, {64, ">= 14,000/s, p99 <= 10 ms"}} {
		l := load(b, d.issuer, c.connections, 5*time.Second, func(i int, w *wire) error { return refreshOver(w, families[i]) })
		r.row(fmt.Sprintf("refresh with rotation, %d connections", c.connections), c.target, l.String(), fmt.Sprintf("bare ecdsa.SignASN1: %.0f/s", sign))
	}
	call := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"message":"x"}}}`
	const headers = "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2025-11-25\r\n"
	bare := startBare(b, d.prefix)
	guarded, without := inTurns(b, 3, 16,
		d.issuer, func(i int, c *wire) error {
			_, err := c.do("POST", "/mcp", headers+"Authorization: Bearer "+families[i].access+"\r\n", call)
			return err
		},
		bare, func(_ int, c *wire) error {
			_, err := c.do("POST", "/mcp", headers, call)
			return err
		})
	r.row("verified MCP call, 16 connections", ">= 95 % of the SDK's handler", guarded.against(without), "the SDK's handler without auth: "+without.String())
}

func measureReads(b *testing.B, d *daemon, r *report, core []string) {
	bare := startBare(b, core)
	get := func(path string) func(int, *wire) error {
		return func(_ int, c *wire) error {
			_, err := c.do("GET", path, "", "")
			return err
		}
	}
	for _, path := range []string{"/.well-known/jwks.json", "/.well-known/oauth-authorization-server"} {
		serveSame(b, d.issuer+path, bare+"/bytes")
		ours, without := inTurns(b, 3, 16, d.issuer, get(path), bare, get("/bytes"))
		r.row("GET "+path+", 16 connections", ">= 90 % of a bare handler", ours.against(without), "bare handler: "+without.String())
	}
}

// serveSame has the bare server answer at to with what is answered at from.
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

// measureLogin signs in with a real user of the users file.
func measureLogin(b *testing.B, core []string, r *report) {
	d := startDaemon(b, []string{"SIGNET_LOG_LEVEL=info", wideLimits})
	if _, errOut, status := d.signet("correct horse battery staple\n", "user", "add", "ann", "--password-stdin"); status != 0 {
		b.Fatal(errOut)
	}
	d.stop()
	d.prefix = core
	d.start()
	const redirectURI = "http://127.0.0.1:9/callback"
	client := registerClient(b, d.issuer, redirectURI)
	const rounds = 3
	var logins, hashes float64
	for range rounds { // in turns, as elsewhere
		hashes += hashRate(b) / rounds
		logins += loginRate(b, d.issuer, client, redirectURI) / rounds
	}
	r.row("whole login (4 pages), 4 at a time", ">= 90 % of the bare argon2id rate", fmt.Sprintf("%.1f/s, %.0f %%", logins, 100*logins/hashes), fmt.Sprintf("bare argon2id: %.1f/s", hashes))
}

// loginRate is how often a second somebody is signed in.
func loginRate(b *testing.B, issuer string, client registration, redirectURI string) float64 {
	var n atomic.Int64
	var all sync.WaitGroup
	begin := time.Now()
	for range 4 { // one is hashed, the others are on the way to it
		all.Go(func() {
			for time.Since(begin) < 2*time.Second {
				signIn(b, authorizationURL(issuer, client, redirectURI, "s"), "ann", "correct horse battery staple")
				n.Add(1)
			}
		})
	}
	all.Wait()
	return float64(n.Load()) / time.Since(begin).Seconds()
}

func signRate(b *testing.B) float64 {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	hash := sha256.Sum256([]byte("x"))
	return rate(func() { ecdsa.SignASN1(rand.Reader, key, hash[:]) })
}

func hashRate(b *testing.B) float64 {
	p := argon2id.Params{Memory: 19 << 10, Iterations: 2, Parallelism: 1, SaltLength: 16, KeyLength: 32}
	return rate(func() {
		if _, err := argon2id.CreateHash("correct horse battery staple", &p); err != nil {
			b.Fatal(err)
		}
	})
}

// rate is how often f runs in a second, by one after another.
func rate(f func()) float64 {
	begin, n := time.Now(), 0
	for time.Since(begin) < 2*time.Second {
		f()
		n++
	}
	return float64(n) / time.Since(begin).Seconds()
}

// startBare runs this program as the bare server, on the same core as Signet.
func startBare(b *testing.B, core []string) (base string) {
	b.Helper()
	addr := "127.0.0.1:" + freePort(b)
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(core[0], append(slices.Clone(core[1:]), self)...)
	cmd.Env = append(os.Environ(), bareServer+"="+addr)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return "http://" + addr
		}
		if time.Now().After(deadline) {
			b.Fatal("the bare server does not start")
		}
	}
}

// startTime is the median of some starts, from exec to the first answer.
func (d *daemon) startTime() time.Duration {
	var took []time.Duration
	addr := strings.TrimPrefix(d.issuer, "http://")
	for range 9 {
		d.stop()
		begin := time.Now()
		cmd := d.command()
		if err := cmd.Start(); err != nil {
			d.t.Fatal(err)
		}
		for !answers(addr) {
			time.Sleep(500 * time.Microsecond)
		}
		took = append(took, time.Since(begin))
		cmd.Process.Kill()
		cmd.Wait()
		d.start()
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
func (d *daemon) rss() float64 {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(d.p.PID()), "status"))
	if err != nil {
		d.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.ParseFloat(strings.Fields(kb)[0], 64)
			return n / 1024
		}
	}
	return 0
}

// loaded is what a load saw.
type loaded struct {
	took []time.Duration
	over time.Duration
}

func (l loaded) rate() float64 { return float64(len(l.took)) / l.over.Seconds() }

func (l loaded) percentile(p int) time.Duration {
	slices.SortFunc(l.took, cmp.Compare)
	return l.took[len(l.took)*p/100].Round(10 * time.Microsecond)
}

func (l loaded) String() string {
	return fmt.Sprintf("%.0f/s, p50 %s, p99 %s", l.rate(), l.percentile(50), l.percentile(99))
}

func (l loaded) against(bare loaded) string {
	return fmt.Sprintf("%s: %.0f %%", l, 100*l.rate()/bare.rate())
}

// inTurns loads ours and the bare one alternately, so that what else the machine does
// falls on both.
func inTurns(b *testing.B, rounds, connections int, base string, ours func(int, *wire) error, bareBase string, bare func(int, *wire) error) (l, without loaded) {
	for range rounds {
		l = l.plus(load(b, base, connections, 2*time.Second, ours))
		without = without.plus(load(b, bareBase, connections, 2*time.Second, bare))
	}
	return l, without
}

func (l loaded) plus(m loaded) loaded {
	return loaded{append(l.took, m.took...), l.over + m.over}
}

// load runs do on so many connections for a while.
func load(b *testing.B, base string, connections int, lasts time.Duration, do func(i int, c *wire) error) loaded {
	b.Helper()
	var mu sync.Mutex
	var all loaded
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range connections {
		wg.Go(func() {
			c, err := dial(base)
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
		b.Fatal("nothing was answered")
	}
	return all
}

// wire is an HTTP/1.1 connection that costs the load's core as little as possible.
type wire struct {
	net.Conn
	r    *bufio.Reader
	host string
}

func dial(base string) (*wire, error) {
	host := strings.TrimPrefix(base, "http://")
	c, err := net.Dial("tcp", host)
	if err != nil {
		return nil, err
	}
	return &wire{c, bufio.NewReader(c), host}, nil
}

func (c *wire) do(method, path, headers, body string) ([]byte, error) {
	if _, err := fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: %s\r\n%sContent-Length: %d\r\n\r\n%s", method, path, c.host, headers, len(body), body); err != nil {
		return nil, err
	}
	status, err := c.r.ReadString('\n')
	if err != nil {
		return nil, err
	}
	// Reading a response as net/http does costs as much as serving it, and more for the
	// side that sends more headers.
	length, chunked := 0, false
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return nil, err
		}
		if len(line) == 2 {
			break
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			length, err = strconv.Atoi(string(bytes.TrimSpace(value)))
			if err != nil {
				return nil, err
			}
		}
		chunked = chunked || bytes.HasPrefix(line, []byte("Transfer-Encoding: chunked"))
	}
	b, err := c.body(length, chunked)
	if err == nil && !strings.HasPrefix(status, "HTTP/1.1 200") {
		err = fmt.Errorf("%s %s", status, b)
	}
	return b, err
}

func (c *wire) body(length int, chunked bool) ([]byte, error) {
	if chunked {
		b, err := io.ReadAll(httputil.NewChunkedReader(c.r))
		if err == nil {
			_, err = c.r.Discard(2) // the line after the last chunk
		}
		return b, err
	}
	b := make([]byte, length)
	_, err := io.ReadFull(c.r, b)
	return b, err
}

package e2e

import (
	"bytes"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// BenchmarkOverload measures the built program by the classes of docs/overload.md: the
// server on one core, the load on another; at half of what a class can do, and at ten
// times as much. It prints a table, and with -update keeps it in that document.
func BenchmarkOverload(b *testing.B) {
	if b.N > 1 {
		return
	}
	core := []string{need(b, "taskset"), "--cpu-list", "0"}
	if out, err := exec.Command("taskset", "--all-tasks", "--cpu-list", "--pid", "1", strconv.Itoa(os.Getpid())).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	d := startDaemon(b, []string{"SIGNET_LOG_LEVEL=info", "SIGNET_ACCESS_TTL=1h", "SIGNET_TRUSTED_PROXIES=127.0.0.0/8", wideLimits}, "--demo")
	if _, errOut, status := d.signet("correct horse battery staple\n", "user", "add", "ann", "--password-stdin"); status != 0 {
		b.Fatal(errOut)
	}
	d.stop()
	d.prefix = core
	d.start()
	o := newOverload(b, d)
	for _, c := range o.classes {
		o.measure(c)
	}
	o.refreshWhile("logins", o.class("login"))
	o.refreshWhile("registrations", o.class("registration"))
	o.refreshWhile("guesses of a client's secret", o.guesses())
	o.recover()
	o.print()
}

// classLoad is a kind of request and how many connections send it.
type classLoad struct {
	name        string
	connections int
	atPeak      int
	send        func(i int, c *wire) (int, error)

	peak float64
}

// crowd is how many connections an overload comes over: more than may wait.
const crowd = 1500

type overload struct {
	b        *testing.B
	d        *daemon
	classes  []*classLoad
	probes   map[string]func(int, *wire) (int, error)
	families []*refreshing
	out      strings.Builder
	after    strings.Builder // the sentences below the table
}

func newOverload(b *testing.B, d *daemon) *overload {
	o := &overload{b: b, d: d}
	host := strings.TrimPrefix(d.issuer, "http://")
	var access, spentCode string
	for range crowd {
		client, tok := d.login()
		access = tok.AccessToken
		o.families = append(o.families, &refreshing{client: client.ClientID, handle: tok.RefreshToken})
	}
	client := registerClient(b, d.issuer, "http://127.0.0.1:9/callback")
	authorize := authorizationURL(d.issuer, client, "http://127.0.0.1:9/callback", "s")
	spentCode = signIn(b, authorize, "demo_user", "demo_password").Query().Get("code")
	exchange(b, d.issuer, client, spentCode)
	_, gone := d.login()
	same := func(request []byte, fine ...int) func(int, *wire) (int, error) {
		return func(_ int, c *wire) (int, error) {
			status, body, err := c.exchange(request)
			for _, f := range fine {
				if status == f && bytes.Contains(body, []byte("invalid_grant")) {
					return http.StatusOK, err
				}
			}
			return status, err
		}
	}
	call := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"message":"x"}}}`
	registration := `{"redirect_uris":["http://127.0.0.1:9/callback"],"token_endpoint_auth_method":"none"}`
	post := func(path, contentType, headers, body string) []byte {
		return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\n%sContent-Length: %d\r\n\r\n%s", path, host, contentType, headers, len(body), body)
	}
	o.classes = []*classLoad{
		{name: "JWKS", connections: crowd, atPeak: 64, send: same(getRequest(host, "/.well-known/jwks.json"))},
		{name: "refresh", connections: crowd, atPeak: 64, send: func(i int, c *wire) (int, error) { return o.families[i].send(c) }},
		{name: "introspect", connections: crowd, atPeak: 64, send: same(formRequest(host, "/introspect", "client_id="+o.families[0].client+"&token="+access))},
		{name: "revoke", connections: crowd, atPeak: 64, send: same(formRequest(host, "/revoke", "client_id="+client.ClientID+"&token="+gone.RefreshToken))},
		{name: "code exchange", connections: crowd, atPeak: 64, send: same(formRequest(host, "/token",
			"grant_type=authorization_code&client_id="+client.ClientID+"&code_verifier="+verifier+"&code="+spentCode), http.StatusBadRequest)},
		{name: "MCP call", connections: crowd, atPeak: 64, send: same(post("/mcp", "application/json",
			"Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2025-11-25\r\nAuthorization: Bearer "+access+"\r\n", call))},
		{name: "pages", connections: crowd, atPeak: 64, send: same(getRequest(host, strings.TrimPrefix(authorize, d.issuer)))},
		{name: "login", connections: 200, atPeak: 4, send: loginFrom(b, authorize, "ann", "correct horse battery staple")},
		{name: "registration", connections: crowd, atPeak: 64, send: same(post("/register", "application/json", "", registration))},
	}
	o.probes = map[string]func(int, *wire) (int, error){
		"JWKS": same(getRequest(host, "/.well-known/jwks.json")), "metadata": same(getRequest(host, "/.well-known/oauth-authorization-server")), "health": same(getRequest(host, "/livez")),
	}
	return o
}

// loginFrom sends the form of a login page, filled in, from another address over each
// connection: many logins that begin at once from one address look like guessing.
func loginFrom(b testing.TB, authorize, name, password string) func(int, *wire) (int, error) {
	request := loginRequest(b, authorize, name, password)
	return func(i int, c *wire) (int, error) {
		from := fmt.Appendf(nil, "\r\nX-Forwarded-For: 198.51.%d.%d\r\n", i/250, i%250+1)
		status, _, err := c.exchange(bytes.Replace(request, []byte("\r\n"), from, 1))
		return status, err
	}
}

func loginRequest(b testing.TB, authorize, name, password string) []byte {
	jar, _ := cookiejar.New(nil)
	resp, err := (&http.Client{Jar: jar}).Get(authorize)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	page, _ := io.ReadAll(resp.Body)
	form := url.Values{"username": {name}, "password": {password}}
	for _, field := range hidden.FindAllSubmatch(page, -1) {
		form.Set(html.UnescapeString(string(field[1])), html.UnescapeString(string(field[2])))
	}
	body, cookies := form.Encode(), ""
	for _, c := range jar.Cookies(resp.Request.URL) {
		cookies += c.Name + "=" + c.Value + "; "
	}
	return fmt.Appendf(nil, "POST /login HTTP/1.1\r\nHost: %s\r\nContent-Type: application/x-www-form-urlencoded\r\nSec-Fetch-Site: same-origin\r\nCookie: %s\r\nContent-Length: %d\r\n\r\n%s",
		resp.Request.URL.Host, strings.TrimSuffix(cookies, "; "), len(body), body)
}

func (o *overload) class(name string) *classLoad {
	for _, c := range o.classes {
		if c.name == name {
			return c
		}
	}
	o.b.Fatalf("no class %s", name)
	return nil
}

// run loads with c, while the probes ask a few times a second.
func (o *overload) run(c *classLoad, rate float64, connections int, lasts time.Duration) (s seen, probes map[string]seen) {
	probes = map[string]seen{}
	var mu sync.Mutex
	var beside sync.WaitGroup
	for name, send := range o.probes {
		beside.Go(func() {
			p := schedule{rate: 50, connections: 4, lasts: lasts, send: send}.run(o.b, o.d.issuer)
			mu.Lock()
			defer mu.Unlock()
			probes[name] = p
		})
	}
	s = schedule{rate: rate, connections: connections, lasts: lasts, send: c.send}.run(o.b, o.d.issuer)
	beside.Wait()
	return s, probes
}

const phase = 5 * time.Second

// measure adds c's row to the table.
func (o *overload) measure(c *classLoad) {
	o.b.Helper()
	// The best that the class can do: nobody waits for a time on a schedule.
	peak := schedule{rate: 1e9, connections: c.atPeak, lasts: phase, send: c.send, closed: true}.run(o.b, o.d.issuer)
	c.peak = float64(len(peak.good)) / peak.over.Seconds()
	normal, _ := o.run(c, c.peak/2, c.atPeak, phase)
	before := o.d.cpu()
	over, probes := o.run(c, 10*c.peak, c.connections, phase)
	busy := (o.d.cpu() - before).Seconds() / over.over.Seconds()
	fmt.Printf("%s\n  peak   %v\n  normal %v\n  over   %v, cpu %.2f\n", c.name, peak, normal, over, busy)
	o.check(c.name, peak, normal, over)
	var worst time.Duration
	for name, p := range probes {
		o.check(name+" beside "+c.name, p)
		if len(p.refused) > 0 {
			o.b.Errorf("%d requests of %s are refused beside %s", len(p.refused), name, c.name)
		}
		worst = max(worst, percentile(p.late, 99))
	}
	refusals := "none"
	if n := len(over.refused); n > 0 {
		refusals = fmt.Sprintf("%.0f/s, p50 %v, p99 %v", float64(n)/over.over.Seconds(), percentile(over.refused, 50), percentile(over.refused, 99))
	}
	offered := float64(len(over.good)+len(over.refused)) / over.over.Seconds()
	goodput := float64(len(over.good)) / over.over.Seconds()
	fmt.Fprintf(&o.out, "| %s | %.0f/s | %v, %v | %.0f/s (%.1f x) | %.0f/s, %.0f %% | %v | %s | %v |\n", c.name, c.peak, percentile(normal.late, 50), percentile(normal.late, 99),
		offered, offered/c.peak, goodput, 100*goodput/c.peak, percentile(over.good, 99), refusals, worst)
}

func (o *overload) check(what string, all ...seen) {
	o.b.Helper()
	for _, s := range all {
		if s.failures > 0 {
			o.b.Errorf("%s: %d failed, the first with %v", what, s.failures, s.failed)
		}
	}
}

// refreshWhile measures refreshes at half of their capacity while another class is
// flooded.
func (o *overload) refreshWhile(what string, flood *classLoad) {
	refresh := o.class("refresh")
	var beside sync.WaitGroup
	var flooded seen
	beside.Go(func() {
		flooded = schedule{rate: 10 * flood.peak, connections: flood.connections, lasts: phase, send: flood.send}.run(o.b, o.d.issuer)
	})
	s, probes := o.run(refresh, refresh.peak/2, refresh.atPeak, phase)
	beside.Wait()
	fmt.Printf("refresh while %s flood: %v\n  flood %v\n", what, s, flooded)
	o.check("refresh", s)
	fmt.Fprintf(&o.after, "During a flood of %s at ten times the capacity (%.0f/s served, %.0f/s refused), refreshes at half of their capacity: %.0f/s answered and %.0f/s refused, p99 %v; JWKS p99 %v.\n",
		what, float64(len(flooded.good))/flooded.over.Seconds(), float64(len(flooded.refused))/flooded.over.Seconds(),
		float64(len(s.good))/s.over.Seconds(), float64(len(s.refused))/s.over.Seconds(), percentile(s.late, 99), percentile(probes["JWKS"].late, 99))
}

// guesses is a flood of requests that are over a limit of their sender's.
func (o *overload) guesses() *classLoad {
	request := formRequest(strings.TrimPrefix(o.d.issuer, "http://"), "/introspect", "client_id=demo_client&client_secret=wrong&token=x")
	return &classLoad{name: "guesses", connections: crowd, peak: 3000, send: func(_ int, c *wire) (int, error) {
		status, _, err := c.exchange(request)
		if status == http.StatusTooManyRequests || status == http.StatusUnauthorized {
			status = http.StatusServiceUnavailable // refused
		}
		return status, err
	}}
}

// recover measures how it is after an overload.
func (o *overload) recover() {
	refresh := o.class("refresh")
	o.run(refresh, 10*refresh.peak, refresh.connections, 2*phase)
	o.run(refresh, refresh.peak/2, refresh.atPeak, 4*time.Second)
	s, _ := o.run(refresh, refresh.peak/2, refresh.atPeak, 2*time.Second)
	o.check("refresh", s)
	fmt.Printf("recovered: %v\n", s)
	fmt.Fprintf(&o.after, "Five seconds after ten seconds of overload by refreshes, refreshes at half of their capacity have p50 %v and p99 %v, and %d are refused.\n",
		percentile(s.late, 50), percentile(s.late, 99), len(s.refused))
}

const (
	overloadDocument = "docs/overload.md"
	measuredBegin    = "<!-- begin of what is measured, written by go test -run '^$' -bench '^BenchmarkOverload$' -benchtime 1x ./internal/e2e -update -->\n"
	measuredEnd      = "<!-- end of what is measured -->\n"
)

func (o *overload) print() {
	text := fmt.Sprintf("Measured on %s, %s; the server on one core, the load on another.\n\n", cpuModel(), runtime.Version()) +
		"| class | capacity | latency at half of it: p50, p99 | offered in overload | served, of capacity | p99 of the served | refused | JWKS, metadata, health meanwhile: p99 |\n|---|---|---|---|---|---|---|---|\n" +
		o.out.String() + "\n" + o.after.String()
	fmt.Println(text)
	if !*update {
		return
	}
	document, err := os.ReadFile(overloadDocument)
	if err != nil {
		o.b.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(document), measuredBegin)
	_, after, ok2 := strings.Cut(rest, measuredEnd)
	if !ok || !ok2 {
		o.b.Fatalf("%s has no place for the figures", overloadDocument)
	}
	if err := os.WriteFile(overloadDocument, []byte(before+measuredBegin+text+measuredEnd+after), 0o644); err != nil {
		o.b.Fatal(err)
	}
}

// cpu is the processor time that the daemon has used.
func (d *daemon) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.p.PID()))
	if err != nil {
		d.t.Fatal(err)
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	user, _ := strconv.Atoi(string(fields[11]))
	system, _ := strconv.Atoi(string(fields[12]))
	return time.Duration(user+system) * 10 * time.Millisecond
}

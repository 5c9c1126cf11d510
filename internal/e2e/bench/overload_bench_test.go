package bench

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"signet/internal/e2e"
	"signet/internal/seal"
	"signet/internal/state"
	"signet/internal/test/person"
)

// BenchmarkOverload measures the built program by the classes of docs/overload.md: the
// server on one core, the load on another; at half of the capacity of a class, and at
// ten times as much. It prints a table, and with -update writes it to that document. Each
// row is a benchmark of its own, so -bench can select some.
func BenchmarkOverload(b *testing.B) {
	if b.N > 1 {
		return
	}
	core := []string{e2e.Need(b, "taskset"), "--cpu-list", "0"}
	if out, err := exec.Command("taskset", "--all-tasks", "--cpu-list", "--pid", "1", strconv.Itoa(os.Getpid())).CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	d := e2e.Start(b, []string{"SIGNET_LOG_LEVEL=info", "SIGNET_ACCESS_TTL=1h", "SIGNET_TRUSTED_PROXIES=127.0.0.0/8", e2e.WideLimits}, "--demo")
	d.Stop()
	addPeople(b, d, fewPeople)
	d.Prefix, d.Log = core, filepath.Join(b.TempDir(), "log")
	d.Start()
	o := newOverload(b, d)
	rows := 0
	row := func(name string, measure func()) {
		b.Run(name, func(b *testing.B) {
			o.b = b
			measure()
			rows++
		})
	}
	for _, c := range o.classes {
		row(c.name, func() { o.measure(c) })
	}
	floods := o.floods()
	for _, f := range floods {
		row("refresh beside "+f.name, func() { o.refreshWhile(f) })
	}
	row("recovery", o.recover)
	o.b = b
	o.print(rows == len(o.classes)+len(floods)+1)
}

// classLoad is a kind of request and how many connections send it.
type classLoad struct {
	name        string
	connections int
	atPeak      int
	send        func(i int, c *e2e.Wire) (int, error)

	peak float64       // requests per second without a schedule
	each time.Duration // CPU time of one of them
}

// crowd is the number of connections of an overload: more than may wait.
const crowd = 1500

type overload struct {
	b        *testing.B
	d        *e2e.Program
	classes  []*classLoad
	probes   map[string]func(int, *e2e.Wire) (int, error)
	families []*e2e.Refreshing
	minted   *minted
	out      strings.Builder
	beside   strings.Builder // rows of the table of floods
	after    strings.Builder // sentences below the tables
}

func newOverload(b *testing.B, d *e2e.Program) *overload {
	o := &overload{b: b, d: d}
	host := strings.TrimPrefix(d.Issuer, "http://")
	client := e2e.Register(b, d.Issuer, e2e.RedirectURI)
	tok := client.Exchange(b, client.Code(b, "ann", "correct horse battery staple"))
	access := tok.AccessToken
	o.minted = newMinted(b, d, client, tok)
	for range crowd {
		o.families = append(o.families, &e2e.Refreshing{Client: client.ID, Handle: o.minted.redeem(b)})
	}
	authorize := client.AuthorizationURL("s")
	gone := o.minted.redeem(b)
	call := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"message":"x"}}}`
	registration := `{"redirect_uris":["http://127.0.0.1:9/callback"],"token_endpoint_auth_method":"none"}`
	post := func(path, contentType, headers, body string) []byte {
		return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\n%sContent-Length: %d\r\n\r\n%s", path, host, contentType, headers, len(body), body)
	}
	o.classes = []*classLoad{
		{name: "JWKS", connections: crowd, atPeak: 64, send: same(e2e.GetRequest(host, "/.well-known/jwks.json"))},
		{name: "refresh", connections: crowd, atPeak: 64, send: func(i int, c *e2e.Wire) (int, error) { return o.families[i].Send(c) }},
		{name: "introspect", connections: crowd, atPeak: 64, send: same(e2e.FormRequest(host, "/introspect", "client_id="+o.families[0].Client+"&token="+access))},
		{name: "revoke", connections: crowd, atPeak: 64, send: same(e2e.FormRequest(host, "/revoke", "client_id="+client.ID+"&token="+gone))},
		{name: "code exchange", connections: crowd, atPeak: 64, send: o.minted.exchanges()},
		{name: "MCP call", connections: crowd, atPeak: 64, send: same(post("/mcp", "application/json",
			"Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2025-11-25\r\nAuthorization: Bearer "+access+"\r\n", call))},
		{name: "pages", connections: crowd, atPeak: 64, send: same(e2e.GetRequest(host, strings.TrimPrefix(authorize, d.Issuer)))},
		{name: "login", connections: 200, atPeak: 4, send: loginFrom(b, authorize, "ann", "correct horse battery staple")},
		{name: "registration", connections: crowd, atPeak: 64, send: same(post("/register", "application/json", "", registration))},
	}
	o.probes = map[string]func(int, *e2e.Wire) (int, error){
		"JWKS": same(e2e.GetRequest(host, "/.well-known/jwks.json")), "metadata": same(e2e.GetRequest(host, "/.well-known/oauth-authorization-server")), "health": same(e2e.GetRequest(host, "/livez")),
	}
	return o
}

// same sends the same request again and again.
func same(request []byte) func(int, *e2e.Wire) (int, error) {
	return func(_ int, c *e2e.Wire) (int, error) {
		status, _, err := c.Exchange(request)
		return status, err
	}
}

// loginFrom sends a filled login form, from a different address over each connection:
// many parallel logins from one address look like guessing.
func loginFrom(b testing.TB, authorize, name, password string) func(int, *e2e.Wire) (int, error) {
	request := loginRequest(b, authorize, name, password)
	return func(i int, c *e2e.Wire) (int, error) {
		from := fmt.Appendf(nil, "\r\nX-Forwarded-For: 198.51.%d.%d\r\n", i/250, i%250+1)
		status, _, err := c.Exchange(bytes.Replace(request, []byte("\r\n"), from, 1))
		return status, err
	}
}

func loginRequest(b testing.TB, authorize, name, password string) []byte {
	p := person.New(name, password)
	page, err := p.Open(authorize)
	if err != nil {
		b.Fatal(err)
	}
	r, err := p.Answer(page, p.Credentials())
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range p.Cookies {
		r.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
	}
	var wire bytes.Buffer
	if err := r.Write(&wire); err != nil {
		b.Fatal(err)
	}
	return wire.Bytes()
}

// minted makes codes with the secret of the server, as the server does after a consent.
type minted struct {
	ring   *seal.Keyring
	grant  seal.Grant
	client *e2e.Client
}

func newMinted(b *testing.B, d *e2e.Program, client *e2e.Client, tok e2e.Tokens) *minted {
	ring, err := state.Data{Dir: d.Dir}.Ring()
	if err != nil {
		b.Fatal(err)
	}
	handle, err := seal.Open[seal.Refresh](ring, tok.RefreshToken)
	if err != nil {
		b.Fatal(err)
	}
	return &minted{ring, handle.Grant, client}
}

// code returns the code of a new grant.
func (m *minted) code() (string, error) {
	now, g := time.Now(), m.grant
	g.Subject = member(rand.N(fewPeople))
	g.ID = seal.NewID(now.Add(30 * 24 * time.Hour))
	return seal.Seal(m.ring, seal.Code{Grant: g, RedirectURI: m.client.RedirectURI, Challenge: e2e.Challenge(), Expires: now.Add(time.Minute).Unix()})
}

// redeem returns the handle of a new grant.
func (m *minted) redeem(b *testing.B) string {
	code, err := m.code()
	if err != nil {
		b.Fatal(err)
	}
	return m.client.Exchange(b, code).RefreshToken
}

// exchanges sends a new code with each request.
func (m *minted) exchanges() func(int, *e2e.Wire) (int, error) {
	return func(_ int, c *e2e.Wire) (int, error) {
		code, err := m.code()
		if err != nil {
			return 0, err
		}
		status, _, err := c.Exchange(e2e.FormRequest(c.Host, "/token", "grant_type=authorization_code&client_id="+m.client.ID+"&code_verifier="+e2e.Verifier+"&code="+code))
		return status, err
	}
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

// run loads the server with c, while probes send a few requests a second.
func (o *overload) run(c *classLoad, rate float64, connections int, lasts time.Duration) (s e2e.Seen, probes map[string]e2e.Seen) {
	probes = map[string]e2e.Seen{}
	var mu sync.Mutex
	var beside sync.WaitGroup
	for name, send := range o.probes {
		beside.Go(func() {
			p := e2e.Schedule{Rate: 50, Connections: 4, Lasts: lasts, Send: send}.Run(o.b, o.d.Issuer)
			mu.Lock()
			defer mu.Unlock()
			probes[name] = p
		})
	}
	s = e2e.Schedule{Rate: rate, Connections: connections, Lasts: lasts, Send: c.send}.Run(o.b, o.d.Issuer)
	beside.Wait()
	return s, probes
}

const phase = 5 * time.Second

// measurePeak measures the capacity of a class, in requests a second: they follow one another
// without a schedule.
func (o *overload) measurePeak(c *classLoad) float64 {
	before := cpu(o.d)
	peak := e2e.Schedule{Rate: 1e9, Connections: c.atPeak, Lasts: phase, Send: c.send, Closed: true}.Run(o.b, o.d.Issuer)
	c.each = (cpu(o.d) - before) / time.Duration(max(1, len(peak.Good)))
	o.check(c.name, peak)
	if len(peak.Good) == 0 {
		o.b.Fatalf("%s: no request was served: %v", c.name, peak)
	}
	c.peak = peak.Rate()
	return c.peak
}

// measure adds the row of c to the table. Capacity and overload are measured in turns,
// because a machine may get slower within seconds.
func (o *overload) measure(c *classLoad) {
	o.b.Helper()
	capacity := o.measurePeak(c)
	normal, _ := o.run(c, c.peak/2, c.atPeak, phase)
	o.check(c.name, normal)
	fmt.Printf("%s\n  normal %v\n", c.name, normal)
	const turns = 3
	var over e2e.Seen
	probes := map[string]e2e.Seen{}
	for range turns {
		o.runOver(c, &over, probes)
		capacity += o.measurePeak(c)
	}
	c.peak = capacity / (turns + 1)
	var worst time.Duration
	for _, p := range probes {
		worst = max(worst, e2e.Percentile(p.Late, 99))
	}
	perSecond := func(n int) float64 { return float64(n) / over.Over.Seconds() }
	refusals := "none"
	if n := len(over.Refused); n > 0 {
		refusals = fmt.Sprintf("%.0f/s, p50 %v, p99 %v", perSecond(n), e2e.Percentile(over.Refused, 50), e2e.Percentile(over.Refused, 99))
	}
	offered := perSecond(len(over.Good) + len(over.Refused))
	goodput := over.Rate()
	fmt.Fprintf(&o.out, "| %s | %.0f/s | %v, %v | %.0f/s (%.1f x) | %.0f/s, %.0f %% | %v | %s | %v |\n", c.name, c.peak, e2e.Percentile(normal.Late, 50), e2e.Percentile(normal.Late, 99),
		offered, offered/c.peak, goodput, 100*goodput/c.peak, e2e.Percentile(over.Good, 99), refusals, worst)
}

// runOver loads the server with ten times the capacity of c, and adds what is seen to all and
// to probed, which has the requests beside the load.
func (o *overload) runOver(c *classLoad, all *e2e.Seen, probed map[string]e2e.Seen) {
	o.b.Helper()
	before := cpu(o.d)
	over, probes := o.run(c, 10*c.peak, c.connections, phase)
	busy := cpu(o.d) - before
	fmt.Printf("  peak   %.0f/s, CPU each %v\n  over   %v, cores %.2f, of their time %.0f %% for what was served\n", c.peak, c.each, over,
		busy.Seconds()/over.Over.Seconds(), 100*float64(len(over.Good))*c.each.Seconds()/busy.Seconds())
	o.check(c.name, over)
	for name, p := range probes {
		o.check(name+" beside "+c.name, p)
		if len(p.Refused) > 0 {
			o.b.Errorf("%d requests of %s are refused beside %s", len(p.Refused), name, c.name)
		}
		sum := probed[name]
		sum.Add(p)
		probed[name] = sum
	}
	all.Add(over)
}

func (o *overload) check(what string, s e2e.Seen) {
	o.b.Helper()
	if s.Failures > 0 {
		o.b.Errorf("%s: %d failed, the first with %v", what, s.Failures, s.Failed)
	}
}

// refreshWhile measures refreshes at half of their capacity beside a flood. The capacity is
// measured right before, so that both figures are of the same minute.
func (o *overload) refreshWhile(flood *classLoad) {
	refresh := o.class("refresh")
	o.measurePeak(refresh)
	var beside sync.WaitGroup
	var flooded e2e.Seen
	beside.Go(func() {
		flooded = e2e.Schedule{Rate: 10 * flood.peak, Connections: flood.connections, Lasts: phase, Send: flood.send}.Run(o.b, o.d.Issuer)
	})
	s, probes := o.run(refresh, refresh.peak/2, refresh.atPeak, phase)
	beside.Wait()
	fmt.Printf("refresh beside %s: %v\n  flood %v\n", flood.name, s, flooded)
	o.check("refresh", s)
	answered := s.Rate()
	fmt.Fprintf(&o.beside, "| %s | %.0f/s, %.0f/s | %.0f/s, %.0f %% | %.0f/s | %v | %v |\n",
		flood.name, flooded.Rate(), float64(len(flooded.Refused))/flooded.Over.Seconds(),
		answered, 100*answered/(refresh.peak/2), float64(len(s.Refused))/s.Over.Seconds(), e2e.Percentile(s.Late, 99), e2e.Percentile(probes["JWKS"].Late, 99))
}

// floods are requests that anybody may send.
func (o *overload) floods() []*classLoad {
	refused := func(request []byte) func(int, *e2e.Wire) (int, error) {
		return func(_ int, c *e2e.Wire) (int, error) {
			status, _, err := c.Exchange(request)
			if status >= 400 && status < 500 {
				status = http.StatusServiceUnavailable // refused
			}
			return status, err
		}
	}
	host, client := strings.TrimPrefix(o.d.Issuer, "http://"), o.minted.client.ID
	all := []*classLoad{
		{name: "logins", send: o.class("login").send, connections: 200, peak: 50},
		{name: "registrations", send: o.class("registration").send},
		{name: "authorization requests", send: o.class("pages").send},
		{name: "handles that do not open", send: refused(e2e.FormRequest(host, "/token", "grant_type=refresh_token&refresh_token=x&client_id="+client))},
		{name: "introspection of wrong tokens", send: refused(e2e.FormRequest(host, "/introspect", "token=x&client_id="+client))},
		{name: "guesses of a client's secret", send: refused(e2e.FormRequest(host, "/introspect", "client_id=demo_client&client_secret=wrong&token=x"))},
		{name: "requests for keys", send: o.class("JWKS").send},
		{name: "probes of health", send: o.probes["health"]},
		{name: "preflights of browsers", send: same([]byte("OPTIONS /token HTTP/1.1\r\nHost: " + host + "\r\nOrigin: https://app.example\r\nAccess-Control-Request-Method: POST\r\n\r\n"))},
		{name: "calls with wrong tokens", send: refused(e2e.GetRequest(host, "/mcp"))},
	}
	for _, f := range all {
		f.connections, f.peak = cmp.Or(f.connections, crowd), cmp.Or(f.peak, 20_000)
	}
	return all
}

// recover measures refreshes after an overload.
func (o *overload) recover() {
	refresh := o.class("refresh")
	o.measurePeak(refresh)
	o.run(refresh, 10*refresh.peak, refresh.connections, 2*phase)
	o.run(refresh, refresh.peak/2, refresh.atPeak, 4*time.Second)
	s, _ := o.run(refresh, refresh.peak/2, refresh.atPeak, 2*time.Second)
	o.check("refresh", s)
	fmt.Printf("recovered: %v\n", s)
	fmt.Fprintf(&o.after, "Five seconds after ten seconds of overload by refreshes, refreshes at half of their capacity have p50 %v and p99 %v, and %d are refused.\n",
		e2e.Percentile(s.Late, 50), e2e.Percentile(s.Late, 99), len(s.Refused))
}

const (
	overloadDocument = "docs/overload.md"
	measuredBegin    = "<!-- begin of what is measured, written by go test -run '^$' -bench '^BenchmarkOverload$' -benchtime 1x ./internal/e2e/bench -update -->\n"
	measuredEnd      = "<!-- end of what is measured -->\n"
)

// print prints the tables, and updates the document if they are complete.
func (o *overload) print(complete bool) {
	text := fmt.Sprintf("Measured on %s, %s; the server on one core, the load on another.\n\n", cpuModel(), runtime.Version()) +
		"| class | capacity | latency at half of it: p50, p99 | offered in overload | served, of capacity | p99 of the served | refused | JWKS, metadata, health meanwhile: p99 |\n|---|---|---|---|---|---|---|---|\n" +
		o.out.String() +
		"\n| flood, ten times what one core can do | served, refused | refreshes at half of their capacity: answered, of what was sent | refused | p99 | JWKS meanwhile: p99 |\n|---|---|---|---|---|---|\n" +
		o.beside.String() + "\n" + o.after.String()
	fmt.Println(text)
	if !*e2e.Update || !complete {
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

// cpu is the CPU time that the server has used.
func cpu(d *e2e.Program) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.PID()))
	if err != nil {
		d.T.Fatal(err)
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	user, _ := strconv.Atoi(string(fields[11]))
	system, _ := strconv.Atoi(string(fields[12]))
	return time.Duration(user+system) * 10 * time.Millisecond
}

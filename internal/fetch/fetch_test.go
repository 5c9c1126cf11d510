package fetch

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// serve answers requests on a loopback port and counts them.
func serve(t *testing.T, h http.HandlerFunc) (base string, count *atomic.Int64) {
	t.Helper()
	count = &atomic.Int64{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		count.Add(1)
		h(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, count
}

func answer(w http.ResponseWriter, body string) {
	w.Header().Set("Content-Type", "application/json")
	io.WriteString(w, body)
}

func TestURLsAreJudgedBeforeAnyNameIsResolved_I01(t *testing.T) {
	f := New(Options{})
	for _, good := range []string{
		"https://claude.ai/oauth/mcp-oauth-client-metadata", "https://chatgpt.com/oauth/client.json", "https://vscode.dev/oauth/client-metadata.json",
		"https://client.test:443/m.json", "https://client.test/m?v=1", "https://a-b.xn--nxasmq6b.example/%20m", "https://my_app.example.com/m", "https://client.test/m/",
	} {
		if err := f.Check(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"http://client.test/m.json", "HTTPS://client.test/m.json", "https://CLIENT.test/m.json", "ftp://client.test/m.json", "client.test/m.json", "//client.test/m.json", "https:client.test/m.json", "",
		"https://client.test", "https://client.test/", "https://client.test?x", "https:///m.json", "https://client.test/../x", "https://client.test/a/./x", "https://client.test/%2e%2e/x", "https://client.test/%2E/x", "https://client.test/.%2e",
		"https://client.test/m.json#", "https://client.test/m.json#f", "https://u:p@client.test/m.json", "https://@client.test/m.json", "https://client.test/m\tjson", "https://client.test/m json", "https://client.test\\m.json", "https://client.test/m\x00", "https://clïent.test/m",
		"https://10.0.0.1/m.json", "https://8.8.8.8/m.json", "https://2130706433/m.json", "https://0x7f000001/m.json", "https://0177.0.0.1/m.json", "https://127.1/m.json", "https://[::1]/m.json", "https://[::ffff:127.0.0.1]/m.json", "https://[fe80::1%25eth0]/m.json", "https://1.2.3.4.5/m.json",
		"https://client.test:22/m.json", "https://client.test:/m.json", "https://client.test:8443/m.json", "https://client.test:0443/m.json",
		"https://localhost/m.json", "https://127.0.0.1/m.json", "https://a.localhost/m.json", "https://intranet/m.json", "https://printer.local/m.json", "https://vault.internal/m.json", "https://1.0.0.127.in-addr.arpa/m.json", "https://x.onion/m.json",
		"https://client.test./m.json", "https://.client.test/m.json", "https://client..test/m.json", "https://-client.test/m.json", "https://*.client.test/m.json", "https://client.test%2f/m.json", "https://client.test%00/m.json",
		"https://client.test/" + strings.Repeat("a", maxURL),
	} {
		if err := f.Check(bad); err == nil {
			t.Errorf("%.100q is allowed", bad)
		}
	}
}

func TestLoopbackIsAskedOnlyWhereTheIssuerIsLoopback(t *testing.T) {
	base, count := serve(t, func(w http.ResponseWriter, _ *http.Request) { answer(w, "{}") })
	port := base[strings.LastIndex(base, ":"):]
	for _, u := range []string{base + "/m.json", "http://localhost" + port + "/m.json", "https://localhost/m.json", "http://[::1]" + port + "/m.json"} {
		if err := New(Options{Loopback: true}).Check(u); err != nil {
			t.Errorf("%s: %v", u, err)
		}
		if _, err := New(Options{}).JSON(t.Context(), u, 100); err == nil {
			t.Errorf("%s is fetched by a public server", u)
		}
	}
	if err := New(Options{Loopback: true}).Check("http://client.test/m.json"); err == nil {
		t.Error("http on another machine is allowed")
	}
	if n := count.Load(); n != 0 {
		t.Errorf("%d requests reached the host", n)
	}
	if _, err := New(Options{Loopback: true}).JSON(t.Context(), base+"/m.json", 100); err != nil || count.Load() != 1 {
		t.Errorf("%v, %d requests", err, count.Load())
	}
}

func TestHostsAreLimitedToTheOperatorsLists(t *testing.T) {
	for _, tt := range []struct {
		allow, deny string
		host        string
		want        bool
	}{
		{"", "", "claude.ai", true},
		{"claude.ai", "", "claude.ai", true},
		{"claude.ai", "", "evil.example.com", false},
		{"claude.ai", "", "x.claude.ai", false},
		{"*.example.com", "", "a.example.com", true},
		{"*.example.com", "", "a.b.example.com", true},
		{"*.example.com", "", "example.com", false},
		{"*.example.com", "", "aexample.com", false},
		{"", "evil.example.com", "evil.example.com", false},
		{"", "*.example.com", "a.example.com", false},
		{"", "*.example.com", "claude.ai", true},
		{"*.example.com", "a.example.com", "a.example.com", false},
	} {
		o := Options{Allow: strings.Fields(tt.allow), Deny: strings.Fields(tt.deny)}
		if err := New(o).Check("https://" + tt.host + "/m.json"); (err == nil) != tt.want {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

// An entry that could match no URL is refused, before it lets a denied host through.
func TestHostOfTheOperatorHasNoPort(t *testing.T) {
	for _, pattern := range []string{"example.com", "*.example.com", "localhost", "*.localhost", "127.0.0.1", "::1"} {
		if err := CheckHost(pattern); err != nil {
			t.Errorf("%s: %v", pattern, err)
		}
	}
	for _, pattern := range []string{"example.com:443", "example.com:", "*.example.com:443", "localhost:443", "127.0.0.1:80"} {
		if err := CheckHost(pattern); err == nil || !strings.Contains(err.Error(), "has a port") {
			t.Errorf("%s: %v, want an error that names the port", pattern, err)
		}
	}
	for _, pattern := range []string{"[::1]:443", "[::1]", "2001:db8::1", "*", "https://a.example"} {
		if err := CheckHost(pattern); err == nil {
			t.Errorf("%s is accepted", pattern)
		}
	}
}

// specialUse are addresses of every kind that is not public (RFC 6890 and the IANA
// registries), and of ways to write an IPv4 address in IPv6.
var specialUse = []string{
	"0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.170", "192.0.2.1", "192.88.99.1",
	"192.168.0.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
	"::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "100::1", "2001::1", "2001:2::1", "2001:db8::1", "2001:10::1", "2002:7f00:1::1", "3fff::1",
	"5f00::1", "fc00::1", "fd00::1", "fe80::1", "fec0::1", "ff02::1",
}

func TestOnlyPublicAddressesAreConnectedTo_I02(t *testing.T) {
	f := New(Options{})
	for _, a := range specialUse {
		addr := netip.MustParseAddr(a)
		networkName := "tcp6"
		if addr.Is4() {
			networkName = "tcp4"
		}
		if err := f.guard.Safe(networkName, netip.AddrPortFrom(addr, 443).String(), nil); err == nil {
			t.Errorf("%s may be connected to", a)
		}
	}
	for _, a := range []string{"8.8.8.8", "1.1.1.1", "2606:4700::1111", "2a00:1450:4001::1"} {
		addr := netip.MustParseAddr(a)
		if err := f.guard.Safe(network(addr), netip.AddrPortFrom(addr, 443).String(), nil); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	if err := f.guard.Safe("tcp4", "8.8.8.8:22", nil); err == nil {
		t.Error("port 22 may be connected to")
	}
}

// A name that leads here is refused when the connection is made, and that is no failure of
// a host that might end.
func TestNameOfAPrivateAddressIsRefusedOnConnecting(t *testing.T) {
	f := New(Options{})
	direct, ok := f.direct.(*http.Transport)
	if !ok {
		t.Fatal("no transport")
	}
	dial := direct.DialContext
	for _, a := range specialUse {
		direct.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dial(ctx, network, net.JoinHostPort(a, "443"))
		}
		_, err := f.JSON(t.Context(), "https://client.test/m.json", 100)
		if err == nil || errors.Is(err, ErrDown) || !strings.Contains(err.Error(), "not public") {
			t.Errorf("%s: %v", a, err)
		}
	}
	local, ok := f.local.(*http.Transport)
	if !ok {
		t.Fatal("no transport")
	}
	if c, err := local.DialContext(t.Context(), "tcp", "192.0.2.1:443"); err == nil {
		c.Close()
		t.Error("localhost as the name of another machine is connected to")
	}
}

func TestAnswersOtherThanOneSmallJSONDocumentAreRefused_I04_I05_I06(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	io.WriteString(z, `{"a":"`+strings.Repeat("x", 1<<20)+`"}`)
	z.Close()
	canary, hits := serve(t, func(w http.ResponseWriter, _ *http.Request) { answer(w, "{}") })
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Location", canary+"/m.json")
			w.WriteHeader(code)
			if code != 204 && code != 304 {
				io.WriteString(w, "{}")
			}
		}
	}
	media := func(kind string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Content-Type"] = []string{kind}
			io.WriteString(w, "{}")
		}
	}
	for name, tt := range map[string]struct {
		serve http.HandlerFunc
		down  bool
	}{
		"201": {status(201), false}, "202": {status(202), false}, "204": {status(204), false}, "206": {status(206), false}, "404": {status(404), false}, "410": {status(410), false}, "401": {status(401), false},
		"301": {status(301), false}, "302": {status(302), false}, "303": {status(303), false}, "307": {status(307), false}, "308": {status(308), false}, "304": {status(304), false},
		"403": {status(403), true}, "429": {status(429), true}, "500": {status(500), true}, "503": {status(503), true},
		"HTML": {media("text/html"), false}, "text": {media("text/plain"), false}, "no type": {media(""), false}, "image/x+json": {media("image/x+json"), false}, "JSON in name only": {media("application/jsonp"), false},
		"long": {func(w http.ResponseWriter, _ *http.Request) { answer(w, strings.Repeat(" ", 6<<10)) }, false},
		"long, chunked": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			for range 64 {
				io.WriteString(w, strings.Repeat(" ", 1<<10))
				http.NewResponseController(w).Flush()
			}
		}, false},
		"gzip": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(zipped.Bytes())
		}, false},
		"cut off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			answer(w, "{")
		}, true},
		"headers": {func(w http.ResponseWriter, _ *http.Request) {
			for i := range 10_000 {
				w.Header().Set(fmt.Sprintf("X-%d", i), "x")
			}
			answer(w, "{}")
		}, true},
	} {
		base, _ := serve(t, tt.serve)
		a, err := New(Options{Loopback: true}).JSON(t.Context(), base+"/m.json", 5<<10)
		if err == nil || errors.Is(err, ErrDown) != tt.down {
			t.Errorf("%s: %v, %v; want an error, of a host that is down: %v", name, a, err, tt.down)
		}
	}
	if n := hits.Load(); n != 0 {
		t.Errorf("%d redirects were followed", n)
	}
	base, _ := serve(t, media("application/client-metadata+json; charset=utf-8"))
	if a, err := New(Options{Loopback: true}).JSON(t.Context(), base+"/m.json", 2); err != nil || string(a.Body) != "{}" {
		t.Errorf("a good answer: %v, %v", a, err)
	}
}

func TestRequestCarriesNothingButItsURL_I09(t *testing.T) {
	base, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for _, h := range []string{"Cookie", "Authorization", "Referer", "Accept-Encoding"} {
			if v := r.Header.Get(h); v != "" {
				t.Errorf("%s: %s", h, v)
			}
		}
		if r.Method != http.MethodGet || r.UserAgent() != "Signet/1" || r.Header.Get("Accept") != "application/json" {
			t.Errorf("%s, %q, %q", r.Method, r.UserAgent(), r.Header.Get("Accept"))
		}
		http.SetCookie(w, &http.Cookie{Name: "a", Value: "b"})
		answer(w, "{}")
	})
	f := New(Options{Loopback: true, Agent: "Signet/1"})
	for range 2 {
		if _, err := f.JSON(t.Context(), base+"/m.json", 100); err != nil {
			t.Error(err)
		}
	}
}

func TestCertificateOfAnUnknownAuthorityIsRefused(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, "{}") }))
	defer s.Close()
	s.Config.ErrorLog = nil
	if a, err := New(Options{Loopback: true}).JSON(t.Context(), s.URL+"/m.json", 100); err == nil {
		t.Errorf("got %s", a.Body)
	}
}

// The operator's proxy is used, for public names only; an address that this machine can
// see to be private is refused before.
func TestProxyIsUsedAndTheRulesHold_I09(t *testing.T) {
	var asked sync.Map
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.Host, true)
		w.WriteHeader(http.StatusBadGateway)
	}))
	defer proxy.Close()
	t.Setenv("HTTPS_PROXY", proxy.URL)
	t.Setenv("NO_PROXY", "direct.test")
	f := New(Options{Loopback: true})
	for _, u := range []string{"https://client.test/m.json", "https://localhost:1/m.json", "https://direct.test/m.json", "https://vault.internal/m.json", "https://169.254.169.254/m.json"} {
		if _, err := f.JSON(t.Context(), u, 100); err == nil {
			t.Errorf("%s: no error", u)
		}
	}
	var hosts []string
	asked.Range(func(host, _ any) bool { hosts = append(hosts, host.(string)); return true })
	if fmt.Sprint(hosts) != "[client.test:443]" {
		t.Errorf("the proxy was asked for %v, want client.test alone", hosts)
	}
	for _, a := range specialUse {
		addr := netip.MustParseAddr(a)
		if f.checkAddresses([]netip.Addr{netip.MustParseAddr("8.8.8.8"), addr}) == nil {
			t.Errorf("a name with the address %s goes to the proxy", a)
		}
	}
}

// Hosts that never answer hold a bounded number of fetches, fewer for one site.
func TestFetchesAreBounded_I07(t *testing.T) {
	stuck := make(chan struct{})
	base, count := serve(t, func(http.ResponseWriter, *http.Request) { <-stuck })
	f := New(Options{Loopback: true})
	var wait sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for range maxSiteFetches {
		wait.Go(func() { f.JSON(ctx, base+"/m.json", 100) })
	}
	for count.Load() < maxSiteFetches {
		time.Sleep(time.Millisecond)
	}
	if _, err := f.JSON(t.Context(), base+"/other.json", 100); !errors.Is(err, ErrBusy) {
		t.Errorf("one more of the site: %v", err)
	}
	for i := range maxFetches - maxSiteFetches {
		if !f.begin(fmt.Sprint("site", i)) {
			t.Fatalf("fetch %d is refused", i)
		}
	}
	if f.begin("another") {
		t.Error("one more of another site is begun")
	}
	cancel()
	close(stuck)
	wait.Wait()
	for i := range maxFetches - maxSiteFetches {
		f.end(fmt.Sprint("site", i))
	}
	if f.count != 0 || len(f.sites) != 0 {
		t.Errorf("%d fetches, %v left", f.count, f.sites)
	}
}

func TestSlowHostIsGivenUp_I07(t *testing.T) {
	base, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for r.Context().Err() == nil { // a byte now and then, for ever
			io.WriteString(w, " ")
			http.NewResponseController(w).Flush()
			time.Sleep(10 * time.Millisecond)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := New(Options{Loopback: true}).JSON(ctx, base+"/m.json", 1<<20)
	if !errors.Is(err, ErrDown) || ctx.Err() != nil {
		t.Errorf("%v after a minute: %v", err, ctx.Err())
	}
}

func TestFreshnessIsReadFromTheHeaders(t *testing.T) {
	now := time.Now().UTC()
	for name, tt := range map[string]struct {
		h    map[string]string
		want time.Duration
	}{
		"none":            {nil, -1},
		"max-age":         {map[string]string{"Cache-Control": "public, max-age=600"}, 10 * time.Minute},
		"age":             {map[string]string{"Cache-Control": "max-age=600", "Age": "100"}, 500 * time.Second},
		"older":           {map[string]string{"Cache-Control": "max-age=600", "Age": "700"}, 0},
		"no-store":        {map[string]string{"Cache-Control": "max-age=600, no-store"}, 0},
		"expires":         {map[string]string{"Date": now.Format(http.TimeFormat), "Expires": now.Add(time.Hour).Format(http.TimeFormat)}, time.Hour},
		"max-age first":   {map[string]string{"Date": now.Format(http.TimeFormat), "Expires": now.Add(time.Hour).Format(http.TimeFormat), "Cache-Control": "max-age=60"}, time.Minute},
		"expired":         {map[string]string{"Date": now.Format(http.TimeFormat), "Expires": now.Add(-time.Hour).Format(http.TimeFormat)}, 0},
		"overflow":        {map[string]string{"Cache-Control": "max-age=99999999999999999999999"}, 366 * 24 * time.Hour},
		"not a number":    {map[string]string{"Cache-Control": "max-age=-5"}, -1},
		"quoted, in caps": {map[string]string{"Cache-Control": `Max-Age="60"`}, time.Minute},
	} {
		h := http.Header{}
		for k, v := range tt.h {
			h.Set(k, v)
		}
		if got := fresh(h); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func FuzzURL(f *testing.F) {
	for _, s := range []string{"https://client.test/m.json", "https://[::1]:1/x", "https://a@b/c", "https://client.test/%2e"} {
		f.Add(s)
	}
	fetcher := New(Options{})
	f.Fuzz(func(t *testing.T, raw string) {
		if fetcher.Check(raw) != nil {
			return
		}
		u, err := url.Parse(raw)
		if err != nil || u.Scheme != "https" || u.User != nil || u.Fragment != "" || u.Path == "" || net.ParseIP(u.Hostname()) != nil || !strings.Contains(u.Hostname(), ".") || !strings.HasPrefix(raw, "https://"+u.Host) {
			t.Errorf("%q is allowed", raw)
		}
	})
}

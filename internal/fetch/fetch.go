// Package fetch reads small JSON documents whose URLs strangers choose: what a client says
// about itself, and its keys. A stranger must not be able to make the server talk to
// machines that only the server can reach, nor to keep it busy.
//
// So the address is checked in the moment in which the connection is made, after the name
// was resolved; redirects are not followed; nothing but status 200 counts; length, time
// and the number of fetches are bounded, the latter for each site, too. A mandatory proxy
// and private certificates work by the usual variables HTTPS_PROXY, NO_PROXY,
// SSL_CERT_FILE and SSL_CERT_DIR.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"code.dny.dev/ssrf"
	"golang.org/x/net/http/httpproxy"
	"golang.org/x/net/publicsuffix"
)

const (
	timeout   = 5 * time.Second // for all of a fetch: name, connection, TLS, answer
	maxHeader = 16 << 10        // bytes

	maxFetches     = 16 // at once
	maxSiteFetches = 4  // at once, of one site
)

// ErrBusy is returned for a document that is not fetched because too many others are. It
// says nothing about the document.
var ErrBusy = errors.New("too many documents are being fetched")

// ErrDown is wrapped by errors of hosts that cannot be reached, or that answer that they
// will not serve the document now. It says nothing about the document.
var ErrDown = errors.New("the host of the document does not answer")

// Options say what may be fetched.
type Options struct {
	Loopback bool     // allow http and https on any port of 127.0.0.1, [::1] and localhost
	Allow    []string // hosts; "*.example.com" is each host below; none: all public hosts
	Deny     []string // hosts, in the same form, that are never asked
	Agent    string   // User-Agent of the requests
}

// Fetcher fetches documents. It is safe for concurrent use.
type Fetcher struct {
	o       Options
	guard   *ssrf.Guardian
	proxy   func(*url.URL) (*url.URL, error)
	direct  http.RoundTripper // to public addresses
	proxied http.RoundTripper // to the operator's proxy
	local   http.RoundTripper // to loopback

	mu    sync.Mutex
	count int            // of running fetches
	sites map[string]int // the same by site
}

// New returns a Fetcher. It reads the environment's proxy settings once.
func New(o Options) *Fetcher {
	f := &Fetcher{o: o, guard: ssrf.New(ssrf.WithPorts(443)), proxy: httpproxy.FromEnvironment().ProxyFunc(), sites: map[string]int{}}
	f.direct = transport(f.guard.Safe, nil)
	f.local = transport(onlyLoopback, nil)
	f.proxied = transport(nil, func(r *http.Request) (*url.URL, error) { return f.proxy(r.URL) })
	return f
}

// Check is [Options.Check] of the Fetcher's options.
func (f *Fetcher) Check(rawURL string) error { return f.o.Check(rawURL) }

// transport makes connections that control allows, each for one request. HTTP/2 is left
// out: it multiplexes what is not repeated here.
func transport(control func(network, address string, c syscall.RawConn) error, proxy func(*http.Request) (*url.URL, error)) *http.Transport {
	dialer := &net.Dialer{Timeout: timeout, Control: control}
	return &http.Transport{
		DialContext: dialer.DialContext, Proxy: proxy, DisableKeepAlives: true, DisableCompression: true,
		MaxResponseHeaderBytes: maxHeader, TLSHandshakeTimeout: timeout,
	}
}

// onlyLoopback is a dialer's control: localhost may be another machine's name.
func onlyLoopback(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil || !to.Addr().Unmap().IsLoopback() {
		return errors.New("not a loopback address")
	}
	return nil
}

// Answer is a document as its host served it.
type Answer struct {
	Body  []byte
	Fresh time.Duration // how long the host lets it be used without asking again; negative: it does not say
}

// JSON fetches the document at rawURL, which must be JSON of at most limit bytes. An error
// that is neither [ErrBusy] nor wraps [ErrDown] is about the document or its URL.
func (f *Fetcher) JSON(ctx context.Context, rawURL string, limit int) (*Answer, error) {
	if err := f.o.Check(rawURL); err != nil {
		return nil, err
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, err
	}
	site := siteOf(u.Hostname())
	if !f.begin(site) {
		return nil, ErrBusy
	}
	defer f.end(site)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	route, err := f.route(ctx, u)
	if err != nil {
		return nil, err
	}
	return f.get(ctx, route, rawURL, limit)
}

// RoundTrip sends one request to a host of which documents may be fetched, and follows no redirect.
// The caller bounds the time, the length of the answer and the number of requests.
func (f *Fetcher) RoundTrip(r *http.Request) (*http.Response, error) {
	route, err := f.mayAsk(r)
	if err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, err
	}
	resp, err := route.RoundTrip(r)
	if err != nil {
		return nil, transportError(err)
	}
	return resp, nil
}

func (f *Fetcher) mayAsk(r *http.Request) (http.RoundTripper, error) {
	if err := f.o.Check(r.URL.String()); err != nil {
		return nil, err
	}
	return f.route(r.Context(), r.URL)
}

func (f *Fetcher) begin(site string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count >= maxFetches || f.sites[site] >= maxSiteFetches {
		return false
	}
	f.count++
	f.sites[site]++
	return true
}

func (f *Fetcher) end(site string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count--
	if f.sites[site]--; f.sites[site] == 0 {
		delete(f.sites, site)
	}
}

// route returns the way to a host. Behind a proxy the proxy connects, so the addresses are
// checked here if this machine can resolve the name; often it cannot.
func (f *Fetcher) route(ctx context.Context, u *url.URL) (http.RoundTripper, error) {
	if isLoopback(u.Hostname()) {
		return f.local, nil
	}
	through, err := f.proxy(u)
	if err != nil {
		return nil, fmt.Errorf("%w: the settings of the proxy: %w", ErrDown, err)
	}
	if through == nil {
		return f.direct, nil
	}
	resolve, cancel := context.WithTimeout(ctx, timeout/5)
	defer cancel()
	addresses, _ := net.DefaultResolver.LookupNetIP(resolve, "ip", u.Hostname())
	return f.proxied, f.checkAddresses(addresses)
}

var errNotPublic = errors.New("the host has an address that is not public")

// checkAddresses refuses a host of which one address is not public.
func (f *Fetcher) checkAddresses(all []netip.Addr) error {
	for _, a := range all {
		if f.guard.Safe(network(a), netip.AddrPortFrom(a.Unmap(), 443).String(), nil) != nil {
			return errNotPublic
		}
	}
	return nil
}

func network(a netip.Addr) string {
	if a.Unmap().Is4() {
		return "tcp4"
	}
	return "tcp6"
}

func (f *Fetcher) get(ctx context.Context, route http.RoundTripper, rawURL string, limit int) (*Answer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, rawURL, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", f.o.Agent)
	resp, err := route.RoundTrip(r) // follows no redirect, keeps no cookie
	if err != nil {
		return nil, transportError(err)
	}
	defer resp.Body.Close()
	if err := checkHead(resp, limit); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	switch {
	case err != nil:
		return nil, transportError(err)
	case len(body) > limit:
		return nil, fmt.Errorf("the document is longer than %d bytes", limit)
	}
	return &Answer{Body: body, Fresh: fresh(resp.Header)}, nil
}

// transportError is the error of a connection. That the address is not public is no
// failure of the host: asking again changes nothing.
func transportError(err error) error {
	for _, prohibited := range []error{ssrf.ErrProhibitedIP, ssrf.ErrProhibitedPort, ssrf.ErrProhibitedNetwork, ssrf.ErrInvalidHostPort} {
		if errors.Is(err, prohibited) {
			return errNotPublic
		}
	}
	return fmt.Errorf("%w: %w", ErrDown, err)
}

func checkHead(resp *http.Response, limit int) error {
	switch code := resp.StatusCode; {
	case code == http.StatusTooManyRequests, code == http.StatusForbidden, code >= 500:
		return fmt.Errorf("%w: it answered %d", ErrDown, code) // a publisher may refuse all addresses of a cloud
	case code != http.StatusOK:
		return fmt.Errorf("the host answered %d, not 200", code)
	case resp.Header.Get("Content-Encoding") != "":
		return errors.New("the document is compressed")
	case resp.ContentLength > int64(limit):
		return fmt.Errorf("the document is longer than %d bytes", limit)
	}
	kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" && !(strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "+json")) {
		return errors.New("the document is not application/json")
	}
	return nil
}

// fresh returns the rest of an answer's freshness lifetime (RFC 9111 §4.2).
func fresh(h http.Header) time.Duration {
	life := time.Duration(-1)
	if expires, err := http.ParseTime(h.Get("Expires")); err == nil {
		date, err := http.ParseTime(h.Get("Date"))
		if err != nil {
			date = time.Now()
		}
		life = max(0, expires.Sub(date))
	}
	for directive := range strings.SplitSeq(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(directive)), "=")
		switch name {
		case "no-store", "no-cache":
			return 0
		case "max-age":
			life = seconds(value, life)
		}
	}
	if life < 0 {
		return life
	}
	return max(0, life-seconds(h.Get("Age"), 0))
}

// seconds reads a delta-seconds (RFC 9111 §1.2.2), at most a year. Anything else is instead.
func seconds(value string, instead time.Duration) time.Duration {
	n, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 63)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return instead
	}
	return time.Duration(min(n, 366*24*3600)) * time.Second
}

// hostOf returns the host of a URL that [Options.Check] accepts.
func hostOf(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// siteOf returns the part of a host name that its owner has to register, which is what
// a stranger pays for; names below it are free.
func siteOf(host string) string {
	if site, err := publicsuffix.EffectiveTLDPlusOne(host); err == nil {
		return site
	}
	return host
}

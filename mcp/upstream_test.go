package mcp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/jwt"
	"signet/mcp"
)

// upstream is an API that knows one valid token for each user, and the source that renews them.
// The claim of a user is "USER VERSION", and the tokens are "USER-VERSION".
type upstream struct {
	t   testing.TB
	srv *httptest.Server

	mu       sync.Mutex
	valid    map[string]int64 // version of each user's token that the API accepts
	requests []string         // "token path body" of each request
	answer   http.HandlerFunc // of requests with a valid token

	renewals atomic.Int64
	renewErr error         // if set, Renew returns it
	gate     chan struct{} // if set, Renew waits for it
	large    bool          // claims hold no token
	expired  bool          // tokens in claims have expired
	provider mcp.UpstreamProvider
}

func newUpstream(t testing.TB) *upstream {
	u := &upstream{t: t, valid: map[string]int64{"alice": 1, "bob": 1}}
	u.srv = httptest.NewServer(u)
	t.Cleanup(u.srv.Close)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	u.provider = mcp.UpstreamProvider{ID: "finance", Name: "Finance", BaseURL: u.srv.URL + "/api/", Timeout: time.Minute, Transport: transport}
	return u
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	user, _, _ := strings.Cut(token, "-")
	u.mu.Lock()
	u.requests = append(u.requests, strings.TrimSpace(token+" "+r.URL.Path+" "+string(body)))
	valid, answer := u.valid[user], u.answer
	u.mu.Unlock()
	switch {
	case token != fmt.Sprintf("%s-%d", user, valid):
		w.WriteHeader(http.StatusUnauthorized)
	case answer != nil:
		answer(w, r)
	default:
		fmt.Fprintf(w, "hello %s", user)
	}
}

func (u *upstream) Open(claims *jwt.Claims) (mcp.UpstreamToken, error) {
	var user string
	var version int64
	if _, err := fmt.Sscan(claims.Upstream, &user, &version); err != nil {
		return mcp.UpstreamToken{}, errors.New("SIGNET_UPSTREAM_KEY does not open it")
	}
	token := mcp.UpstreamToken{Provider: "finance", Access: fmt.Sprintf("%s-%d", user, version), Version: version}
	if u.large {
		token.Access = ""
	}
	if u.expired {
		token.Expires = time.Now().Add(-time.Second)
	}
	return token, nil
}

func (u *upstream) Renew(ctx context.Context, claims *jwt.Claims, accessToken string, stale int64) (mcp.UpstreamToken, error) {
	u.renewals.Add(1)
	if strings.Count(accessToken, ".") != 2 {
		u.t.Errorf("Renew got the access token %q", accessToken)
	}
	if u.gate != nil {
		<-u.gate
	}
	if u.renewErr != nil {
		return mcp.UpstreamToken{}, u.renewErr
	}
	user, _, _ := strings.Cut(claims.Upstream, " ")
	u.mu.Lock()
	defer u.mu.Unlock()
	if stale == u.valid[user] {
		u.valid[user]++
	}
	version := u.valid[user]
	return mcp.UpstreamToken{Provider: "finance", Access: fmt.Sprintf("%s-%d", user, version), Version: version}, nil
}

func (u *upstream) Provider(string) mcp.UpstreamProvider { return u.provider }

// expire makes the upstream refuse every token that was given for user.
func (u *upstream) expire(user string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.valid[user]++
}

func (u *upstream) seen() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]string(nil), u.requests...)
}

type fetchInput struct {
	URL    string `json:"url,omitempty"`
	API    string `json:"api,omitempty"`
	Body   string `json:"body,omitempty"`
	Opaque bool   `json:"opaque,omitempty"` // the body cannot be sent again
}

// fetch is a tool that calls the upstream as its users do.
func (u *upstream) fetch(ctx context.Context, _ *sdk.CallToolRequest, in fetchInput) (*sdk.CallToolResult, any, error) {
	up, err := mcp.Upstream(ctx)
	if err != nil {
		return nil, nil, err
	}
	url, method, body := in.URL, http.MethodGet, io.Reader(nil)
	if url == "" {
		url = up.Provider().BaseURL + "companies"
	}
	if in.Body != "" {
		method, body = http.MethodPost, strings.NewReader(in.Body)
	}
	if in.Opaque {
		body = io.MultiReader(body)
	}
	r, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, nil, err
	}
	var apis []string
	if in.API != "" {
		apis = append(apis, in.API)
	}
	resp, err := up.Client(apis...).Do(r)
	if no := up.Failure(resp, err); no != nil {
		return no, nil, nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, nil, err
	}
	return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: string(b)}}}, nil, nil
}

// upstreamWorld is a handler whose tool fetch calls u.
type upstreamWorld struct {
	*world
	*upstream
	h http.Handler
}

func newUpstreamWorld(t testing.TB) *upstreamWorld {
	t.Helper()
	w := &upstreamWorld{world: newWorld(t), upstream: newUpstream(t)}
	sdk.AddTool(w.options.Server, &sdk.Tool{Name: "fetch"}, w.fetch)
	w.options.Upstream = w.upstream
	w.h = w.handler(t)
	return w
}

// as returns a call of fetch by a user, whose grant has the same name.
func (w *upstreamWorld) as(t testing.TB, user string, version int, in fetchInput) *http.Request {
	t.Helper()
	arguments, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	r := w.call(t, "fetch", string(arguments))
	r.Header.Set("Authorization", "Bearer "+w.token(t, func(c *jwt.Claims) {
		c.Subject, c.GrantID, c.Upstream = "upstream:finance:"+user, user, fmt.Sprintf("%s %d", user, version)
	}))
	return r
}

// failed is the result of a tool whose request at the upstream failed.
type failed struct {
	Error      string `json:"error"`
	StatusCode int    `json:"status_code"`
}

// failure checks that a result is an error in both forms, and returns it.
func failure(t *testing.T, rw *httptest.ResponseRecorder) (f failed) {
	t.Helper()
	var answer struct {
		Result struct {
			IsError           bool
			StructuredContent failed
			Content           []struct{ Text string }
		}
	}
	if err := json.Unmarshal(rw.Body.Bytes(), &answer); err != nil {
		t.Fatalf("status %d, %s: %v", rw.Code, rw.Body, err)
	}
	r := answer.Result
	if !r.IsError || len(r.Content) != 1 {
		t.Fatalf("got %s, want an error of the tool", rw.Body)
	}
	if err := json.Unmarshal([]byte(r.Content[0].Text), &f); err != nil || f != r.StructuredContent {
		t.Errorf("the text says %q (%v), the structured content %+v", r.Content[0].Text, err, r.StructuredContent)
	}
	return f
}

func (w *upstreamWorld) hello(t *testing.T, user string, version int) {
	t.Helper()
	if got := decode(t, serve(w.h, w.as(t, user, version, fetchInput{}))); got.text() != "hello "+user || got.Result.IsError {
		t.Errorf("%s: got %+v, want hello %s", user, got, user)
	}
}

// The upstream sees each user's own token and never the access token.
func TestUpstreamSeesTheCallersOwnToken_Row37(t *testing.T) {
	w := newUpstreamWorld(t)
	var calls sync.WaitGroup
	for range 50 {
		for _, user := range []string{"alice", "bob"} {
			calls.Go(func() { w.hello(t, user, 1) })
		}
	}
	calls.Wait()
	count := map[string]int{}
	for _, r := range w.seen() {
		count[r]++
	}
	if len(count) != 2 || count["alice-1 /api/companies"] != 50 || count["bob-1 /api/companies"] != 50 {
		t.Errorf("the upstream saw %v", count)
	}
	if n := w.renewals.Load(); n != 0 {
		t.Errorf("%d renewals, want none", n)
	}
}

// The token goes to the upstream and nowhere else.
func TestUpstreamTokenIsSentToItsOriginsOnly_Row37(t *testing.T) {
	w := newUpstreamWorld(t)
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	for _, in := range []fetchInput{
		{URL: other.URL + "/api/companies"},
		{URL: strings.Replace(w.srv.URL, "http://", "https://", 1)},
		{URL: "http://127.0.0.1/"},
		{URL: strings.Replace(w.srv.URL, "127.0.0.1", "localhost", 1)},
		{URL: "http://api.example/", API: "http://api.example"}, // not https
	} {
		f := failure(t, serve(w.h, w.as(t, "alice", 1, in)))
		if !strings.Contains(f.Error, "not sent there") {
			t.Errorf("%+v: %+v, want a refusal to send the token there", in, f)
		}
	}
	if n := elsewhere.Load(); n != 0 || len(w.seen()) != 0 {
		t.Errorf("%d requests elsewhere and %q at the upstream, want none", n, w.seen())
	}
	got := decode(t, serve(w.h, w.as(t, "alice", 1, fetchInput{URL: strings.Replace(w.srv.URL, "http://", "HTTP://", 1) + "/x"})))
	if got.text() != "hello alice" {
		t.Errorf("another spelling of the origin: %+v", got)
	}
	if got := decode(t, serve(w.h, w.as(t, "alice", 1, fetchInput{URL: other.URL, API: other.URL + "/v1/"}))); got.Result.IsError || elsewhere.Load() != 1 {
		t.Errorf("an origin that the tool names: %+v", got)
	}
	w.provider.BaseURL = ""
	if f := failure(t, serve(w.h, w.as(t, "alice", 1, fetchInput{URL: w.srv.URL}))); !strings.Contains(f.Error, "base URL of Finance is not known") {
		t.Errorf("without a base URL: %+v", f)
	}
}

// A redirect to the same origin has the token; another one is not followed.
func TestRedirectsDoNotCarryTheTokenAway_Row37(t *testing.T) {
	w := newUpstreamWorld(t)
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	w.answer = func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/away":
			http.Redirect(rw, r, other.URL, http.StatusFound)
		case "/near":
			http.Redirect(rw, r, "/there", http.StatusFound)
		case "/loop":
			http.Redirect(rw, r, "/loop", http.StatusFound)
		default:
			io.WriteString(rw, "arrived")
		}
	}
	if got := decode(t, serve(w.h, w.as(t, "alice", 1, fetchInput{URL: w.srv.URL + "/near"}))); got.text() != "arrived" {
		t.Errorf("same origin: %+v", got)
	}
	if f := failure(t, serve(w.h, w.as(t, "alice", 1, fetchInput{URL: w.srv.URL + "/away"}))); f.StatusCode != 302 || elsewhere.Load() != 0 {
		t.Errorf("other origin: %+v, and %d requests there", f, elsewhere.Load())
	}
	if f := failure(t, serve(w.h, w.as(t, "alice", 1, fetchInput{URL: w.srv.URL + "/loop"}))); f.Error == "" || len(w.seen()) > 20 {
		t.Errorf("a loop: %+v after %d requests", f, len(w.seen()))
	}
}

// Ten calls with a token that has ended at the upstream ask the issuer once, and all succeed.
// Later calls with the same access token do not ask again.
func TestDeadTokenIsRenewedOnce_Row39(t *testing.T) {
	w := newUpstreamWorld(t)
	w.expire("alice")
	w.gate = make(chan struct{})
	var calls sync.WaitGroup
	for range 10 {
		calls.Go(func() { w.hello(t, "alice", 1) })
	}
	until(t, "ten refusals of the upstream", func() bool { return len(w.seen()) == 10 })
	close(w.gate)
	calls.Wait()
	if n := w.renewals.Load(); n != 1 {
		t.Errorf("%d renewals, want 1", n)
	}
	for range 3 {
		w.hello(t, "alice", 1)
	}
	w.hello(t, "bob", 1)
	if n, requests := w.renewals.Load(), len(w.seen()); n != 1 || requests != 24 {
		t.Errorf("%d renewals and %d requests, want 1 and 24", n, requests)
	}
	w.valid["alice"] = 7 // a login elsewhere, and an access token of it
	w.hello(t, "alice", 7)
	if n := w.renewals.Load(); n != 1 {
		t.Errorf("%d renewals after an access token with a newer token, want 1", n)
	}
}

func until(t *testing.T, want string, fact func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !fact(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %s", want)
		}
	}
}

// A request is repeated with its body. One whose body is gone is not, but the next call works.
func TestRequestIsRepeatedWithItsBody_Row39(t *testing.T) {
	w := newUpstreamWorld(t)
	w.expire("alice")
	got := decode(t, serve(w.h, w.as(t, "alice", 1, fetchInput{Body: "invoice"})))
	if want := "alice-1 /api/companies invoice, alice-2 /api/companies invoice"; got.text() != "hello alice" || strings.Join(w.seen(), ", ") != want {
		t.Errorf("%+v after %q, want %s", got, w.seen(), want)
	}
	w.expire("bob")
	if f := failure(t, serve(w.h, w.as(t, "bob", 1, fetchInput{Body: "invoice", Opaque: true}))); f.StatusCode != 401 || !strings.Contains(f.Error, "Please try again") {
		t.Errorf("a body that cannot be sent again: %+v", f)
	}
	w.hello(t, "bob", 1)
	if n := w.renewals.Load(); n != 2 {
		t.Errorf("%d renewals, want 2", n)
	}
}

// An upstream that refuses fresh tokens too does not cause a renewal for each call.
func TestRefusedFreshTokenIsNotRenewedForEachCall_Row39(t *testing.T) {
	w := newUpstreamWorld(t)
	w.answer = func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusUnauthorized) }
	for range 5 {
		if f := failure(t, serve(w.h, w.as(t, "alice", 1, fetchInput{}))); f.StatusCode != 401 || !strings.Contains(f.Error, "sign in again") {
			t.Errorf("got %+v", f)
		}
	}
	if n := w.renewals.Load(); n != 1 {
		t.Errorf("%d renewals, want 1", n)
	}
	w.answer = nil
	w.hello(t, "alice", 1)
}

// When the upstream has ended a session, the tool says so, and the next request is refused so
// that the client logs in again. Other grants go on.
func TestEndedSessionMakesTheClientSignInAgain_Row39(t *testing.T) {
	w := newUpstreamWorld(t)
	w.expire("alice")
	w.renewErr = fmt.Errorf("asking: %w", mcp.ErrUpstreamEnded)
	f := failure(t, serve(w.h, w.as(t, "alice", 1, fetchInput{})))
	if f.StatusCode != 401 || !strings.Contains(f.Error, "Your Finance session expired. Please sign in again") {
		t.Errorf("got %+v", f)
	}
	for _, r := range []*http.Request{w.as(t, "alice", 1, fetchInput{}), w.as(t, "alice", 9, fetchInput{})} {
		rw := serve(w.h, r)
		if got := challenge(t, rw); rw.Code != 401 || got["error"] != "invalid_token" {
			t.Errorf("next request: %d, %v; want a challenge with invalid_token", rw.Code, got)
		}
	}
	guarded := w.as(t, "alice", 1, fetchInput{})
	if rw := serve(mcp.Guard(w.options, http.NotFoundHandler()), guarded); rw.Code != 404 {
		t.Errorf("a Guard that has not asked: %d", rw.Code)
	}
	w.hello(t, "bob", 1)
	if n := w.renewals.Load(); n != 1 {
		t.Errorf("%d renewals, want 1", n)
	}
}

// No verdict ends nothing.
func TestRenewalWithoutVerdictEndsNothing_Row38(t *testing.T) {
	w := newUpstreamWorld(t)
	w.expire("alice")
	w.renewErr = errors.New("the issuer does not answer")
	if f := failure(t, serve(w.h, w.as(t, "alice", 1, fetchInput{}))); f.StatusCode != 0 || !strings.Contains(f.Error, "could not be renewed just now") || strings.Contains(f.Error, "issuer") {
		t.Errorf("got %+v", f)
	}
	w.renewErr = nil
	w.hello(t, "alice", 1)
}

// A token that is not in the claim, and one that has expired, is fetched when the tool asks.
func TestMissingTokenIsFetchedWhenAsked(t *testing.T) {
	w := newUpstreamWorld(t)
	w.large = true
	w.hello(t, "alice", 1)
	w.hello(t, "alice", 1)
	w.large, w.expired = false, true
	w.hello(t, "bob", 1)
	if got := strings.Join(w.seen(), ", "); w.renewals.Load() != 2 || got != "alice-1 /api/companies, alice-1 /api/companies, bob-2 /api/companies" {
		t.Errorf("%d renewals, and the upstream saw %s", w.renewals.Load(), got)
	}
}

// Each failure of the upstream has its text, its status if there is one, and isError.
func TestUpstreamFailuresAreResults_Row40(t *testing.T) {
	w := newUpstreamWorld(t)
	status, body := 0, ""
	w.answer = func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(status)
		io.WriteString(rw, body)
	}
	for _, tt := range []struct {
		status     int
		body, want string
	}{
		{403, "", "Access forbidden. Check your account permissions."},
		{404, `{"detail":"x"}`, "Resource not found"},
		{429, "", "Rate limit exceeded. Please try again later."},
		{400, `{"detail":"amount is missing"}`, "Request failed: Finance answered 400 Bad Request: amount is missing"},
		{500, "<html>", "Request failed: Finance answered 500 Internal Server Error"},
		{502, `{"detail":"` + strings.Repeat("x", 400) + `"}`, "Request failed: Finance answered 502 Bad Gateway: " + strings.Repeat("x", 300) + "…"},
		{422, `{"detail":"a\u001b[31m\u202eb"}`, "Request failed: Finance answered 422 Unprocessable Entity: a [31m b"},
		{599, `{"detail":1}`, "Request failed: Finance answered 599"},
	} {
		status, body = tt.status, tt.body
		if f := failure(t, serve(w.h, w.as(t, "alice", 1, fetchInput{}))); f != (failed{tt.want, tt.status}) {
			t.Errorf("%d: got %+v, want %s", tt.status, f, tt.want)
		}
	}
}

// Without an answer there is no status.
func TestUpstreamWithoutAnswerIsAResult_Row40(t *testing.T) {
	w := newUpstreamWorld(t)
	release := make(chan struct{})
	w.answer = func(http.ResponseWriter, *http.Request) { <-release }
	w.provider.Timeout = time.Millisecond
	if f := failure(t, serve(w.h, w.as(t, "alice", 1, fetchInput{}))); f != (failed{Error: "Request timed out. Please try again later."}) {
		t.Errorf("slow: %+v", f)
	}
	close(release)
	w.provider.Timeout = 0
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	w.provider.BaseURL = "http://" + l.Addr().String() + "/"
	if f := failure(t, serve(w.h, w.as(t, "alice", 1, fetchInput{}))); f != (failed{Error: "Connection error. Please check your network connection."}) {
		t.Errorf("down: %+v", f)
	}
}

// A tool learns why there is no token.
func TestUpstreamSaysWhyThereIsNone(t *testing.T) {
	w := newUpstreamWorld(t)
	if got := decode(t, serve(w.h, w.call(t, "fetch", "{}"))); !got.Result.IsError || got.text() != mcp.ErrNoUpstream.Error() {
		t.Errorf("a user who signed in here: %+v", got)
	}
	r := w.as(t, "alice", 1, fetchInput{})
	r.Header.Set("Authorization", "Bearer "+w.token(t, func(c *jwt.Claims) { c.Upstream = "damaged" }))
	if got := decode(t, serve(w.h, r)); !got.Result.IsError || !strings.Contains(got.text(), "SIGNET_UPSTREAM_KEY") {
		t.Errorf("a claim that does not open: %+v", got)
	}
	w.options.Upstream = nil
	if got := decode(t, serve(w.handler(t), w.as(t, "alice", 1, fetchInput{}))); !got.Result.IsError || !strings.Contains(got.text(), "without a source") {
		t.Errorf("no source: %+v", got)
	}
	if _, err := mcp.Upstream(t.Context()); err == nil || !strings.Contains(err.Error(), "without an access token") {
		t.Errorf("no caller: %v", err)
	}
}

// A library with a client of its own takes the token itself.
func TestUpstreamTokenForALibrary(t *testing.T) {
	w := newUpstreamWorld(t)
	var token, shown string
	sdk.AddTool(w.options.Server, &sdk.Tool{Name: "token"}, func(ctx context.Context, req *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, any, error) {
		up, err := mcp.Upstream(ctx)
		if err != nil {
			return nil, nil, err
		}
		token, err = up.Token(ctx)
		if got := req.Extra.Header.Get("Authorization"); strings.Count(got, ".") != 2 {
			t.Errorf("the tool's request has the Authorization header %q", got)
		}
		shown = fmt.Sprintf("%v %+v %#v", req.Extra.TokenInfo, req.Extra.TokenInfo.Extra, up)
		slog.New(slog.NewJSONHandler(w.world.log, nil)).Info("shown", "info", req.Extra.TokenInfo, "upstream", up, "token", mcp.UpstreamToken{Access: token})
		return nil, nil, err
	})
	r := w.as(t, "alice", 1, fetchInput{})
	accessToken := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	r.Header.Set("Mcp-Name", "token")
	setBody(r, body("token", "{}"))
	if got := decode(t, serve(w.h, r)); got.Result.IsError || token != "alice-1" {
		t.Errorf("token %q, %+v", token, got)
	}
	for _, text := range []string{shown, w.world.log.String()} {
		if strings.Contains(text, accessToken) || strings.Contains(text, "alice-1") || text == "" {
			t.Errorf("a token is shown: %s", text)
		}
	}
}

// The sample tools show by which upstream the caller came, and read from it.
func TestSampleToolsShowTheUpstream(t *testing.T) {
	w := newUpstreamWorld(t)
	mcp.AddUpstreamSample(w.options.Server)
	w.provider.SamplePath = "v1/companies/"
	run := func(tool string, change func(*jwt.Claims)) *httptest.ResponseRecorder {
		r := w.call(t, tool, "{}")
		r.Header.Set("Authorization", "Bearer "+w.token(t, func(c *jwt.Claims) {
			c.Subject, c.GrantID, c.Upstream = "upstream:finance:alice", "alice", "alice 1"
			change(c)
		}))
		return serve(w.h, r)
	}
	same := func(*jwt.Claims) {}
	if got := decode(t, run("upstream_get", same)); got.Result.IsError || got.text() != "hello alice" || strings.Join(w.seen(), "") != "alice-1 /api/v1/companies/" {
		t.Errorf("upstream_get: %+v, and the upstream saw %q", got, w.seen())
	}
	for _, tt := range []struct {
		change func(*jwt.Claims)
		want   string
	}{
		{same, `"upstream":"finance","upstream_token":true`},
		{func(c *jwt.Claims) { c.Upstream = "" }, `"upstream":"finance","upstream_token":false`},
		{func(c *jwt.Claims) { c.Upstream = "damaged" }, `"upstream":"finance","upstream_token":false`},
		{func(c *jwt.Claims) { c.Subject, c.Upstream = "alice", "" }, `"sub":"alice"}`},
	} {
		if got := decode(t, run("whoami", tt.change)); got.Result.IsError || !strings.HasSuffix(strings.TrimSuffix(got.text(), "}"), strings.TrimSuffix(tt.want, "}")) {
			t.Errorf("whoami: %s, want %s", got.text(), tt.want)
		}
	}
	w.answer = func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "\xff"+strings.Repeat("x", 70<<10)) }
	if got := decode(t, run("upstream_get", same)).text(); len(got) > 65<<10 || !strings.HasPrefix(got, "\uFFFDxx") || !strings.HasSuffix(got, "[the rest is cut off]") {
		t.Errorf("a long answer: %d bytes", len(got))
	}
	w.answer = func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusForbidden) }
	if f := failure(t, run("upstream_get", same)); f.StatusCode != 403 {
		t.Errorf("403: %+v", f)
	}
	w.provider.SamplePath = ""
	if got := decode(t, run("upstream_get", same)); !got.Result.IsError || !strings.Contains(got.text(), "no sample_path is configured for Finance") {
		t.Errorf("without a path: %+v", got)
	}
	if got := decode(t, run("upstream_get", func(c *jwt.Claims) { c.Subject, c.Upstream = "alice", "" })); !got.Result.IsError || got.text() != mcp.ErrNoUpstream.Error() {
		t.Errorf("a user who signed in here: %+v", got)
	}
}

// A server without a Guard, as over stdin and stdout, has one caller.
func TestCallerOfAServerWithoutGuard(t *testing.T) {
	u := newUpstream(t)
	server := mcp.NewServer("test", "1")
	sdk.AddTool(server, &sdk.Tool{Name: "fetch"}, u.fetch)
	sdk.AddTool(server, &sdk.Tool{Name: "who"}, func(ctx context.Context, _ *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, any, error) {
		c, ok := mcp.Caller(ctx)
		return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: fmt.Sprint(c.Subject, ok)}}}, nil, nil
	})
	ctx := mcp.WithCaller(t.Context(), jwt.Claims{Subject: "alice", Upstream: "alice 1"}, u)
	session := connectWith(t, ctx, server)
	for tool, want := range map[string]string{"fetch": "hello alice", "who": "alicetrue"} {
		res, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: tool, Arguments: map[string]any{}})
		if err != nil || res.IsError || res.Content[0].(*sdk.TextContent).Text != want {
			t.Errorf("%s: %+v, %v; want %s", tool, res, err, want)
		}
	}
}

// The memory is bounded, and what is forgotten is asked for again.
func TestMemoryOfNewerTokensIsBounded(t *testing.T) {
	r := mcp.Recent{}
	for i := range 100_000 {
		r.Put(fmt.Sprint(i), i)
		if got, ok := r.Get(fmt.Sprint(i)); !ok || got != i {
			t.Fatalf("%d: got %d, %v", i, got, ok)
		}
		r.Put("always", i)
	}
	if _, ok := r.Get("0"); ok || r.Len() > 2*4096 {
		t.Errorf("%d entries, the first among them: %v", r.Len(), ok)
	}
	if got, _ := r.Get("always"); got != 99_999 {
		t.Errorf("an entry that is put often: %d", got)
	}
}

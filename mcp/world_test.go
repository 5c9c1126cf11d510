package mcp_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"
	"go.uber.org/goleak"

	"signet/jwt"
	"signet/mcp"
)

const (
	issuer      = "https://auth.example"
	resource    = "https://mcp.example/mcp"
	metadataURL = "https://mcp.example/.well-known/oauth-protected-resource/mcp"
)

// TestMain looks for goroutines that are still running, as goleak.VerifyTestMain does, and
// waits for those that end late on a busy machine.
func TestMain(m *testing.M) {
	status := m.Run()
	if status == 0 {
		err := goleak.Find()
		for deadline := time.Now().Add(30 * time.Second); err != nil && time.Now().Before(deadline); {
			err = goleak.Find()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}
	os.Exit(status)
}

// published is a KeySource over a fixed set of keys.
type published map[string]*ecdsa.PublicKey

func (p published) Key(_ context.Context, kid string) (*ecdsa.PublicKey, error) {
	if p == nil {
		return nil, jwt.ErrKeysUnavailable
	}
	if key, ok := p[kid]; ok {
		return key, nil
	}
	return nil, jwt.ErrUnknownKey
}

// world is an issuer, and the options of a resource server that trusts it.
type world struct {
	signer  *jwt.Signer
	keys    published
	options mcp.Options
	log     *lockedBuffer
	revoked map[string]bool
}

func newWorld(t testing.TB) *world {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{log: new(lockedBuffer), keys: published{"k1": &private.PublicKey}, revoked: map[string]bool{}}
	w.signer = jwt.NewSigner(func(time.Time) (jwt.SigningKey, error) {
		return jwt.SigningKey{ID: "k1", Private: private}, nil
	})
	server := mcp.NewServer("test", "1")
	access := new(mcp.Access)
	mcp.AddSampleTools(server, access.Require)
	w.options = mcp.Options{
		Resource:  resource,
		Issuer:    issuer,
		Name:      "Test",
		Verifier:  w.verifier(t, resource),
		Required:  []string{"read"},
		Challenge: []string{"read", "offline_access"},
		Scopes:    []string{"read", "write", "offline_access"},
		Origins:   []string{"https://app.example"},
		Access:    access,
		Server:    server,
		Log:       slog.New(slog.NewTextHandler(w.log, nil)),
	}
	return w
}

func (w *world) verifier(t testing.TB, audiences ...string) *jwt.Verifier {
	t.Helper()
	v, err := jwt.NewVerifier(jwt.VerifierOptions{
		Issuer: issuer, Audiences: audiences, Keys: w.keys,
		Revoked: func(gid string) bool { return w.revoked[gid] },
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// token mints a good token, changed by edit.
func (w *world) token(t testing.TB, edit func(*jwt.Claims)) string {
	t.Helper()
	now := time.Now()
	c := jwt.Claims{
		Issuer: issuer, Subject: "alice", Audience: resource, ClientID: "c1", Scope: "read",
		IssuedAt: now.Unix(), ExpiresAt: now.Add(5 * time.Minute).Unix(), GrantID: "g1",
	}
	if edit != nil {
		edit(&c)
	}
	token, err := w.signer.Sign(c, now)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (w *world) handler(t testing.TB) http.Handler {
	t.Helper()
	return w.endpoint(t)
}

const protocol = "2026-07-28"

// meta is in every request of the sessionless protocol.
const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`

// body returns a tools/call of the sessionless protocol.
func body(tool, arguments string) string {
	return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"` + tool + `","arguments":` + arguments + `,` + meta + `}}`
}

// call returns a good request for a tool.
func (w *world) call(t testing.TB, tool, arguments string) *http.Request {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, resource, strings.NewReader(body(tool, arguments)))
	r.Header.Set("Authorization", "Bearer "+w.token(t, nil))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json, text/event-stream")
	r.Header.Set("Mcp-Protocol-Version", protocol)
	r.Header.Set("Mcp-Method", "tools/call")
	r.Header.Set("Mcp-Name", tool)
	return r
}

// legacy makes r a request of the protocol with sessions.
func legacy(r *http.Request) {
	r.Header.Set("Mcp-Protocol-Version", "2025-11-25")
	r.Header.Del("Mcp-Method")
	r.Header.Del("Mcp-Name")
	setBody(r, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"message":"hi"}}}`)
}

func setBody(r *http.Request, body string) {
	r.Body = io.NopCloser(strings.NewReader(body))
	r.ContentLength = int64(len(body))
}

func serve(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// reply is the part of a JSON-RPC response, or of an OAuth error, that tests check.
type reply struct {
	Result struct {
		Content []struct{ Text string }
		IsError bool
	}
	// Error is an object in JSON-RPC and a string in OAuth.
	Error       json.RawMessage
	Description string `json:"error_description"`
}

func (r reply) code(t testing.TB) (code int) {
	t.Helper()
	var e struct{ Code int }
	if len(r.Error) == 0 {
		return 0
	}
	if err := json.Unmarshal(r.Error, &e); err != nil {
		t.Fatalf("error is %s: %v", r.Error, err)
	}
	return e.Code
}

func (r reply) text() string {
	if len(r.Result.Content) == 0 {
		return ""
	}
	return r.Result.Content[0].Text
}

func decode(t testing.TB, w *httptest.ResponseRecorder) reply {
	t.Helper()
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type %q, want application/json; body %s", got, w.Body)
	}
	var r reply
	if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil {
		t.Fatalf("status %d, body %q: %v", w.Code, w.Body, err)
	}
	return r
}

// challenge reads WWW-Authenticate with the SDK's parser.
func challenge(t testing.TB, w *httptest.ResponseRecorder) map[string]string {
	t.Helper()
	lines := w.Header().Values("WWW-Authenticate")
	challenges, err := oauthex.ParseWWWAuthenticate(lines)
	if err != nil {
		t.Fatalf("%q: %v", lines, err)
	}
	if len(challenges) != 1 || challenges[0].Scheme != "bearer" {
		t.Fatalf("status %d: challenges %q, want one of scheme Bearer", w.Code, lines)
	}
	return challenges[0].Params
}

// subscribe opens a stream of events at url.
func (w *world) subscribe(t *testing.T, url, token string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(
		`{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},`+meta+`}}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "mcp.example"
	r.Header = w.call(t, "echo", "{}").Header
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Mcp-Method", "subscriptions/listen")
	r.Header.Del("Mcp-Name")
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	res, err := (&http.Client{Transport: transport, Timeout: time.Minute}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}

// connectInMemory opens a session over a transport without tokens.
func connectInMemory(t *testing.T, server *sdk.Server) *sdk.ClientSession {
	t.Helper()
	return connectWith(t, t.Context(), server)
}

// connectWith is connectInMemory with a context for the server.
func connectWith(t *testing.T, ctx context.Context, server *sdk.Server) *sdk.ClientSession {
	t.Helper()
	here, there := sdk.NewInMemoryTransports()
	ss, err := server.Connect(ctx, here, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ss.Wait() })
	session, err := sdk.NewClient(&sdk.Implementation{Name: "c", Version: "1"}, nil).Connect(t.Context(), there, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	return session
}

// connect opens a session with the SDK's own client.
func connect(t *testing.T, h http.Handler, token, version string) *sdk.ClientSession {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client := sdk.NewClient(&sdk.Implementation{Name: "client", Version: "1"}, nil)
	session, err := client.Connect(t.Context(), &sdk.StreamableClientTransport{
		Endpoint:   srv.URL,
		HTTPClient: &http.Client{Transport: withToken{transport, token}},
	}, &sdk.ClientSessionOptions{ProtocolVersion: version})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	return session
}

type withToken struct {
	next  http.RoundTripper
	token string
}

func (t withToken) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+t.token)
	return t.next.RoundTrip(r)
}

// lockedBuffer is a log that several goroutines write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// tokenFor returns a good token for an audience.
func (w *world) tokenFor(t testing.TB, audience string) string {
	t.Helper()
	return w.token(t, func(c *jwt.Claims) { c.Audience = audience })
}

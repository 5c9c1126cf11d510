package backends

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// Options say what an [MCP] server is like.
type Options struct {
	Address string // HOST:PORT; default: a free port of 127.0.0.1
	Path    string // of the endpoint; default: /mcp
	Name    string // of the server; default: backend
	Legacy  bool   // only the protocol versions with sessions

	// Accept says which bearer tokens are accepted, also for lists; nil: none is needed.
	Accept func(token string) bool

	// Issuer, if set, is the authorization server that the metadata of the server names, to which the
	// answers without an accepted token lead (RFC 9728).
	Issuer string

	// Hold, if set, is what the tool slow waits for after its progress notifications.
	Hold <-chan struct{}
}

// Switches change what an [MCP] server does from now on.
type Switches struct {
	Status     int    // calls of tools are answered with this status
	Times      int    // how many calls; 0: all until Status is 0 again
	RetryAfter string // header of these answers
	Challenge  string // WWW-Authenticate of these answers
	Unhealthy  int    // every request is answered with this status
}

// MCP is a server on the go-sdk with these tools:
//   - echo returns its arguments, byte for byte. It is marked as read-only.
//   - write is echo without the mark.
//   - whoami returns the bearer token of the request.
//   - slow sends progress notifications, the number of which is its argument steps.
//
// It also has the resource file:///notes.txt, the template file:///notes/{name}, and the prompt
// greet, whose argument name is completed.
type MCP struct {
	*Server
	SDK *sdk.Server

	o  Options
	mu sync.Mutex
	s  Switches
}

// New starts a server, which ends with the test.
func New(t testing.TB, o Options) *MCP {
	t.Helper()
	m, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Down)
	return m
}

// Start starts a server. Down ends it.
func Start(o Options) (*MCP, error) {
	if o.Path == "" {
		o.Path = "/mcp"
	}
	if o.Name == "" {
		o.Name = "backend"
	}
	m := &MCP{o: o, SDK: newSDKServer(o)}
	endpoint := sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return m.SDK }, &sdk.StreamableHTTPOptions{
		Stateless: !o.Legacy, PropagateRequestCancellation: true,
	})
	mux := http.NewServeMux()
	mux.Handle(o.Path, m.guard(endpoint))
	mux.HandleFunc(wellKnown+o.Path, m.metadata)
	var err error
	m.Server, err = listen(o.Address, mux)
	return m, err
}

// Endpoint is the URL of the MCP endpoint.
func (m *MCP) Endpoint() string { return m.URL() + m.o.Path }

// Switch changes the switches.
func (m *MCP) Switch(change func(s *Switches)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.s)
}

// guard refuses requests without an accepted token, and fails as the switches say.
func (m *MCP) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if m.o.Accept != nil && !m.o.Accept(token) {
			w.Header().Set("WWW-Authenticate", m.challenge())
			http.Error(w, "unauthorized", http.StatusUnauthorized)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, "the body cannot be read", http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		if status, s := m.failure(bytes.Contains(body, []byte(`"tools/call"`))); status != 0 {
			if s.RetryAfter != "" {
				w.Header().Set("Retry-After", s.RetryAfter)
			}
			if s.Challenge != "" {
				w.Header().Set("WWW-Authenticate", s.Challenge)
			}
			http.Error(w, "switched off", status)
			return
		}
		next.ServeHTTP(w, r)
	})
}

const wellKnown = "/.well-known/oauth-protected-resource"

// challenge is what an answer without an accepted token says.
func (m *MCP) challenge() string {
	if m.o.Issuer == "" {
		return `Bearer error="invalid_token"`
	}
	return `Bearer error="invalid_token", scope="openid offline_access", resource_metadata="` + m.URL() + wellKnown + m.o.Path + `"`
}

// metadata serves the metadata of the protected resource (RFC 9728 §3).
func (m *MCP) metadata(w http.ResponseWriter, r *http.Request) {
	if m.o.Issuer == "" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"resource": m.Endpoint(), "authorization_servers": []string{m.o.Issuer}})
}

// failure is the status that the switches demand for the next answer, or 0, and the switches with its
// headers.
func (m *MCP) failure(call bool) (status int, headers Switches) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.s.Unhealthy != 0 || !call || m.s.Status == 0 {
		return m.s.Unhealthy, Switches{}
	}
	status, headers = m.s.Status, m.s
	if m.s.Times > 0 {
		if m.s.Times--; m.s.Times == 0 {
			m.s.Status = 0
		}
	}
	return status, headers
}

func newSDKServer(o Options) *sdk.Server {
	so := &sdk.ServerOptions{
		CompletionHandler:  complete,
		SubscribeHandler:   func(context.Context, *sdk.SubscribeRequest) error { return nil },
		UnsubscribeHandler: func(context.Context, *sdk.UnsubscribeRequest) error { return nil },
	}
	if o.Legacy {
		so.SupportedProtocolVersions = []string{"2025-11-25", "2025-06-18", "2025-03-26"}
	}
	s := sdk.NewServer(&sdk.Implementation{Name: o.Name, Version: "1"}, so)
	echoed := json.RawMessage(EchoSchema)
	s.AddTool(&sdk.Tool{Name: "echo", Description: "Returns its arguments", InputSchema: echoed, Annotations: &sdk.ToolAnnotations{ReadOnlyHint: true}}, echo)
	s.AddTool(&sdk.Tool{Name: "write", Description: "Returns its arguments", InputSchema: echoed}, echo)
	s.AddTool(&sdk.Tool{Name: "whoami", Description: "Says which token it saw", InputSchema: json.RawMessage(`{"type":"object"}`)}, whoami)
	sdk.AddTool(s, &sdk.Tool{Name: "slow", Description: "Tells its progress"}, slow(o.Hold))
	s.AddResource(&sdk.Resource{URI: "file:///notes.txt", Name: "notes", MIMEType: "text/plain"}, readNote)
	s.AddResourceTemplate(&sdk.ResourceTemplate{URITemplate: "file:///notes/{name}", Name: "note"}, readNote)
	s.AddPrompt(&sdk.Prompt{Name: "greet", Arguments: []*sdk.PromptArgument{{Name: "name", Required: true}}}, greet)
	return s
}

// EchoSchema is the input schema of the tool echo. It has members that programs are tempted to
// lose or to write anew.
const EchoSchema = `{"type":"object","properties":{"message":{"type":"string","description":"A text, <b>whole</b> \u00e9"},"n":{"type":"integer","default":10000000000000001}},"additionalProperties":true,"x-own":{"order":["b","a"]}}`

func textResult(text string) *sdk.CallToolResult {
	return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: text}}}
}

func echo(_ context.Context, r *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
	return textResult(string(r.Params.Arguments)), nil
}

func whoami(_ context.Context, r *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
	var h http.Header
	if r.Extra != nil {
		h = r.Extra.Header
	}
	token, _ := strings.CutPrefix(h.Get("Authorization"), "Bearer ")
	return textResult(token), nil
}

type slowInput struct {
	Steps int `json:"steps" jsonschema:"number of progress notifications"`
}

func slow(hold <-chan struct{}) sdk.ToolHandlerFor[slowInput, any] {
	return func(ctx context.Context, r *sdk.CallToolRequest, in slowInput) (*sdk.CallToolResult, any, error) {
		token := r.Params.GetProgressToken()
		for i := range in.Steps {
			if token == nil {
				break
			}
			p := &sdk.ProgressNotificationParams{ProgressToken: token, Progress: float64(i + 1), Total: float64(in.Steps), Message: "step"}
			if err := r.Session.NotifyProgress(ctx, p); err != nil {
				return nil, nil, err
			}
		}
		if hold != nil {
			select {
			case <-hold:
			case <-ctx.Done():
				return nil, nil, ctx.Err()
			}
		}
		return textResult("done"), nil, nil
	}
}

func readNote(_ context.Context, r *sdk.ReadResourceRequest) (*sdk.ReadResourceResult, error) {
	return &sdk.ReadResourceResult{Contents: []*sdk.ResourceContents{{URI: r.Params.URI, MIMEType: "text/plain", Text: "note of " + r.Params.URI}}}, nil
}

func greet(_ context.Context, r *sdk.GetPromptRequest) (*sdk.GetPromptResult, error) {
	text := "Greet " + r.Params.Arguments["name"]
	return &sdk.GetPromptResult{Messages: []*sdk.PromptMessage{{Role: "user", Content: &sdk.TextContent{Text: text}}}}, nil
}

func complete(_ context.Context, r *sdk.CompleteRequest) (*sdk.CompleteResult, error) {
	return &sdk.CompleteResult{Completion: sdk.CompletionResultDetails{Values: []string{r.Params.Argument.Value + "-completed"}, Total: 1}}, nil
}

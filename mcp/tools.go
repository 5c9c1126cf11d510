package mcp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// AddSampleTools adds the tools whoami, echo, greet, get_time, get_secret and admin_action,
// which show that login, tokens, scopes and calls work. None of them changes anything, and
// the secret is not secret.
//
// It calls require, which is or calls [Access.Require], so that get_secret needs the scope
// read and admin_action the scope admin.
func AddSampleTools(s *sdk.Server, require func(tool string, scopes ...string)) {
	require("get_secret", "read")
	require("admin_action", "admin")
	sdk.AddTool(s, &sdk.Tool{
		Name:        "whoami",
		Title:       "Who am I?",
		Description: "Tells which user and which client the access token of this call was issued to, what it allows and when it expires.",
		Annotations: readOnly(),
	}, whoami)
	sdk.AddTool(s, &sdk.Tool{
		Name:        "echo",
		Title:       "Echo",
		Description: "Returns the given message, to check that a call and its arguments arrive unchanged.",
		Annotations: readOnly(),
	}, echo)
	sdk.AddTool(s, &sdk.Tool{
		Name:        "greet",
		Title:       "Greet",
		Description: "Returns a greeting for the given name, or for the world if there is none.",
		Annotations: readOnly(),
	}, greet)
	sdk.AddTool(s, &sdk.Tool{
		Name:        "get_time",
		Title:       "Current time",
		Description: "Returns the server's current time in RFC 3339 format, in UTC or in the given time zone.",
		Annotations: readOnly(),
	}, getTime)
	sdk.AddTool(s, &sdk.Tool{
		Name:        "get_secret",
		Title:       "Sample secret",
		Description: "Returns the sample secret that is kept under the given key, to show a tool that needs the scope read.",
		Annotations: readOnly(),
	}, getSecret)
	sdk.AddTool(s, &sdk.Tool{
		Name:        "admin_action",
		Title:       "Sample admin action",
		Description: "Says who asked for it and does nothing else, to show a tool that needs the scope admin.",
		Annotations: readOnly(),
	}, adminAction)
}

func readOnly() *sdk.ToolAnnotations {
	closed := false
	return &sdk.ToolAnnotations{ReadOnlyHint: true, IdempotentHint: true, OpenWorldHint: &closed}
}

type identity struct {
	Subject  string    `json:"sub" jsonschema:"the user, or the client itself if it acts on its own behalf"`
	ClientID string    `json:"client_id" jsonschema:"the client that was given the token"`
	Scope    string    `json:"scope" jsonschema:"what the token allows, separated by spaces"`
	Expires  time.Time `json:"expires,omitzero" jsonschema:"when the token expires; absent if there is none"`

	Upstream      string `json:"upstream,omitempty" jsonschema:"the upstream by which the user signed in; absent if the user signed in here"`
	UpstreamToken *bool  `json:"upstream_token,omitempty" jsonschema:"whether the user's own token for that upstream is at hand"`
}

func whoami(ctx context.Context, _ *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, identity, error) {
	c, ok := Caller(ctx)
	if !ok {
		return nil, identity{}, errors.New("this call came without an access token")
	}
	who := identity{Subject: c.Subject, ClientID: c.ClientID, Scope: c.Scope}
	if c.ExpiresAt != 0 {
		who.Expires = c.Expires().UTC()
	}
	if id, ok := upstreamOf(c.Subject); ok {
		_, err := upstreamToken(ctx)
		has := err == nil
		who.Upstream, who.UpstreamToken = id, &has
	}
	return nil, who, nil
}

// upstreamOf returns the upstream of a subject, which is upstream:ID:USER. No other subject
// begins so.
func upstreamOf(subject string) (id string, ok bool) {
	rest, ok := strings.CutPrefix(subject, "upstream:")
	id, _, colon := strings.Cut(rest, ":")
	return id, ok && colon
}

func upstreamToken(ctx context.Context) (string, error) {
	up, err := Upstream(ctx)
	if err != nil {
		return "", err
	}
	return up.Token(ctx)
}

type echoInput struct {
	Message string `json:"message" jsonschema:"the text to return"`
}

func echo(_ context.Context, _ *sdk.CallToolRequest, in echoInput) (*sdk.CallToolResult, any, error) {
	return text("Echo: " + in.Message), nil, nil
}

type greetInput struct {
	Name string `json:"name,omitempty" jsonschema:"whom to greet; World if absent"`
}

func greet(_ context.Context, _ *sdk.CallToolRequest, in greetInput) (*sdk.CallToolResult, any, error) {
	if in.Name == "" {
		in.Name = "World"
	}
	return text("Hello, " + in.Name + "!"), nil, nil
}

type timeInput struct {
	Timezone string `json:"timezone,omitempty" jsonschema:"IANA name of a time zone, like Europe/Berlin; UTC if absent"`
}

func getTime(_ context.Context, _ *sdk.CallToolRequest, in timeInput) (*sdk.CallToolResult, any, error) {
	zone, err := time.LoadLocation(in.Timezone)
	if err != nil || in.Timezone == "Local" { // Local would reveal where the server is
		return nil, nil, fmt.Errorf("unknown time zone %q", in.Timezone)
	}
	return text(time.Now().In(zone).Format(time.RFC3339)), nil, nil
}

type secretInput struct {
	Key string `json:"key" jsonschema:"api_key or database"`
}

func getSecret(_ context.Context, _ *sdk.CallToolRequest, in secretInput) (*sdk.CallToolResult, any, error) {
	switch in.Key {
	case "api_key":
		return text("sk-secret-key-12345"), nil, nil
	case "database":
		return text("postgresql://user:pass@localhost/db"), nil, nil
	}
	return text("Secret not found"), nil, nil
}

func adminAction(ctx context.Context, _ *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, any, error) {
	c, ok := Caller(ctx)
	if !ok {
		return nil, nil, errors.New("this call came without an access token")
	}
	return text("Admin action done for " + c.Subject), nil, nil
}

// AddUpstreamSample adds the tool upstream_get, which reads the sample path of the upstream by
// which the caller signed in, with the caller's own token: it shows that the whole way works.
func AddUpstreamSample(s *sdk.Server) {
	open := true
	sdk.AddTool(s, &sdk.Tool{
		Name:        "upstream_get",
		Title:       "Read from the upstream",
		Description: "Reads a sample from the service where the user has an account, with the user's own token, and returns it.",
		Annotations: &sdk.ToolAnnotations{ReadOnlyHint: true, IdempotentHint: true, OpenWorldHint: &open},
	}, upstreamGet)
}

// maxSample is the length of the longest answer that upstream_get returns, in bytes.
const maxSample = 64 << 10

func upstreamGet(ctx context.Context, _ *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, any, error) {
	up, err := Upstream(ctx)
	if err != nil {
		return nil, nil, err
	}
	p := up.Provider()
	if p.SamplePath == "" {
		return nil, nil, fmt.Errorf("no sample_path is configured for %s", p.Name)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.BaseURL+p.SamplePath, nil)
	if err != nil {
		return nil, nil, err
	}
	resp, err := up.Client().Do(r)
	if no := up.Failure(resp, err); no != nil {
		return no, nil, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxSample+1))
	if err != nil {
		return up.Failure(nil, err), nil, nil
	}
	if len(body) > maxSample {
		body = append(body[:maxSample], "\n[the rest is cut off]"...)
	}
	return text(strings.ToValidUTF8(string(body), "\uFFFD")), nil, nil
}

func text(s string) *sdk.CallToolResult {
	return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: s}}}
}

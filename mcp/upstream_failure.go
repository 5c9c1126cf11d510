package mcp

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// endedError is ErrUpstreamEnded with a text for the user.
type endedError struct {
	name  string
	cause error
}

func (e *endedError) Error() string { return sessionExpired(e.name) }
func (e *endedError) Unwrap() error { return e.cause }

// noVerdictError says that a token could not be renewed just now.
type noVerdictError struct {
	name  string
	cause error
}

func (e *noVerdictError) Error() string {
	return "Your " + e.name + " session could not be renewed just now. Please try again later."
}
func (e *noVerdictError) Unwrap() error { return e.cause }

// renewedError says that a token was renewed, and that the request with the old one could not be
// repeated.
type renewedError struct{ name string }

func (e *renewedError) Error() string {
	return "Your " + e.name + " session was renewed. Please try again."
}

func sessionExpired(name string) string {
	return "Your " + name + " session expired. Please sign in again: disconnect and reconnect this connector in your AI client to re-authenticate."
}

// failed is the structured content of a failure.
type failed struct {
	Error      string `json:"error"`
	StatusCode int    `json:"status_code,omitempty"` // of the upstream's answer; absent: there was none
}

// Failure returns the result of a tool whose request at the upstream has failed, and nil if
// it has not: then the tool reads resp and closes its body. A result is an error of the tool
// (isError) whose structured content, and text as JSON, has the members error, for the user
// and the model, and status_code, if the upstream has answered.
//
// Return it from a tool whose output type is any: the SDK replaces the structured content of
// a tool that has an output type.
func (c *UpstreamCaller) Failure(resp *http.Response, err error) *sdk.CallToolResult {
	if err != nil {
		text, code := c.errorText(err)
		return failure(text, code)
	}
	if resp == nil {
		return failure("Request failed: there is no answer", 0)
	}
	if code := resp.StatusCode; code >= 200 && code < 300 || code == http.StatusNotModified {
		return nil
	}
	defer resp.Body.Close()
	return failure(c.statusText(resp), resp.StatusCode)
}

func failure(text string, code int) *sdk.CallToolResult {
	f := failed{text, code}
	b, err := json.Marshal(f)
	if err != nil {
		b = []byte(text)
	}
	return &sdk.CallToolResult{IsError: true, StructuredContent: f, Content: []sdk.Content{&sdk.TextContent{Text: string(b)}}}
}

// errorText returns the text for a request without an answer, and the status for it.
func (c *UpstreamCaller) errorText(err error) (text string, code int) {
	var own *originError
	var noVerdict *noVerdictError
	var renewed *renewedError
	switch {
	case errors.Is(err, ErrUpstreamEnded):
		return sessionExpired(c.name()), http.StatusUnauthorized
	case errors.As(err, &own):
		return "Request failed: " + own.text, 0
	case errors.As(err, &renewed):
		return renewed.Error(), http.StatusUnauthorized
	case timedOut(err):
		return "Request timed out. Please try again later.", 0
	case errors.As(err, &noVerdict):
		return noVerdict.Error(), 0
	}
	return "Connection error. Please check your network connection.", 0
}

func (c *UpstreamCaller) statusText(resp *http.Response) string {
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		return sessionExpired(c.name())
	case http.StatusForbidden:
		return "Access forbidden. Check your account permissions."
	case http.StatusNotFound:
		return "Resource not found"
	case http.StatusTooManyRequests:
		return "Rate limit exceeded. Please try again later."
	}
	text := fmt.Sprintf("Request failed: %s answered %d %s", c.name(), resp.StatusCode, http.StatusText(resp.StatusCode))
	if d := detail(resp.Body); d != "" {
		text += ": " + d
	}
	return strings.TrimSpace(text)
}

// maxDetail is the length of an upstream's explanation, in characters.
const maxDetail = 300

// detail returns the member detail of a JSON body, cut and without control characters.
func detail(body io.Reader) string {
	var answer struct {
		Detail string `json:"detail"`
	}
	b, err := io.ReadAll(io.LimitReader(body, 64<<10))
	if err != nil || json.Unmarshal(b, &answer) != nil {
		return ""
	}
	text := []rune(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(answer.Detail, "")))
	if len(text) > maxDetail {
		text = append(text[:maxDetail], '…')
	}
	return string(text)
}

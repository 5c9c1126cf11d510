// Package backend speaks to the MCP servers behind the gateway: over streamable HTTP in the
// protocol versions with and without sessions, over stdio, and in the REST shape of older
// gateways. It shares messages out among the instances of a server, repeats what may be repeated,
// and keeps away from an instance that fails.
//
// What a server answers is passed on as it came, after a check that it is an answer to the
// message. Nothing here knows callers: a message has the headers with the credential.
package backend

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Message is one JSON-RPC request or notification for a server.
type Message struct {
	Method string
	Params json.RawMessage // an object in which names are the server's; nil: none
	Name   string          // of the tool or prompt, or URI of the resource; otherwise empty

	Modern  bool   // Params has the _meta of the protocol without sessions (2026-07-28)
	Safe    bool   // may be sent again if its outcome is not known
	Session string // whose session it belongs to, at a server that keeps sessions; empty: the gateway's own

	// Header has the credential for the server, trace context and Mcp-Param-* headers. Nothing
	// else is sent of the caller's request.
	Header http.Header
}

// Answer is what a server answered to a request. Exactly one member is set, with the bytes that
// the server sent.
type Answer struct {
	Result json.RawMessage // an object
	Error  json.RawMessage // a JSON-RPC error object
}

// Notify is called with each notification that a server sends while it works on a message, such
// as progress, in their order: the whole of its JSON.
type Notify func(method string, message json.RawMessage)

// Kinds of errors.
const (
	Unauthorized = "unauthorized" // 401 or 403: the server refuses the credential
	Open         = "open"         // the circuit breaker is open, nothing was sent
	Busy         = "busy"         // too many messages at once, nothing was sent
	Down         = "down"         // no answer: refused, reset, timed out, a status that says so
	Malformed    = "malformed"    // an answer that is none: HTML, too long, a wrong id, a redirect
	Disabled     = "disabled"     // the operator has disabled the server
)

// Error is the failure of a message. Its text names the server and contains nothing that the
// server sent, and no secret.
type Error struct {
	Server     string // id
	Kind       string
	What       string
	Status     int           // HTTP status of the server; 0: there is none
	Challenge  string        // Unauthorized: WWW-Authenticate of the server
	RetryAfter time.Duration // Open, Busy, Down: when to try again; 0: not known

	unsent bool // nothing of the message has reached the server
	gone   bool // the server does not know the session, or so it seems
	single bool // it comes of this message, and says nothing of the instance
}

func (e *Error) Error() string { return fmt.Sprintf("server %s: %s", e.Server, e.What) }

// State is what operators see of one server.
type State struct {
	ID       string          `json:"id"`
	Status   string          `json:"status"` // running, error, disabled; empty: not known yet
	Problem  string          `json:"problem,omitempty"`
	Era      string          `json:"protocol,omitempty"` // protocol version, "rest", or empty if not known yet
	Since    time.Time       `json:"since"`              // of Status
	Instance []InstanceState `json:"instances"`

	// LeftOut says what of the server is not served: names without prefix that a server before it
	// has ("tool search: it is that of the server notes"), and lists that cannot be read ("its
	// tools cannot be listed: it answered HTTP 500").
	LeftOut []string `json:"left_out,omitempty"`
}

// InstanceState is what operators see of one instance.
type InstanceState struct {
	Address string `json:"address"` // URL without user information and query, or the program
	Status  string `json:"status"`  // as in State
	Breaker string `json:"breaker"` // closed, open, half-open
}

package mcp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/internal/rawjson"
)

// message is the part of a JSON-RPC message that is needed before it runs.
type message struct {
	id     json.RawMessage // as it was sent; nil: there is none
	method string          // empty for a response
	name   string          // name of the tool or prompt, or URI of the resource; otherwise empty
	modern bool            // _meta names a protocol version, as those without sessions demand

	standard     bool   // it names the version of JSON-RPC
	params       []byte // nil: there are none
	ordinary     bool   // params have no other members than name, arguments and _meta
	rawName      []byte // name in params, as it was sent; nil: there is none
	version      string // in _meta
	events       bool   // the client accepts events
	capabilities []byte // of the client, in _meta

	idAt     int  // position of the id in the body
	replaced bool // the SDK sees standIn in place of the id
}

// refusal is the answer to an HTTP request that is not passed to the SDK.
type refusal struct {
	status int
	id     json.RawMessage
	reason jsonrpc.Error
}

func refused(status int, code int64, format string, args ...any) *refusal {
	return &refusal{status: status, reason: jsonrpc.Error{Code: code, Message: fmt.Sprintf(format, args...)}}
}

func badMessage(format string, args ...any) *refusal {
	return refused(http.StatusBadRequest, jsonrpc.CodeInvalidRequest, format, args...)
}

// write answers with a JSON-RPC error. It has no id if none was read before the refusal.
func (e *refusal) write(w http.ResponseWriter) {
	body, err := json.Marshal(struct {
		Version string          `json:"jsonrpc"`
		ID      json.RawMessage `json:"id,omitempty"`
		Error   *jsonrpc.Error  `json:"error"`
	}{"2.0", e.id, &e.reason})
	if err != nil { // cannot happen: its parts are constants or were decoded from JSON
		http.Error(w, http.StatusText(e.status), e.status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(e.status)
	w.Write(body)
}

// maxMembers is the largest number of members of an inspected JSON object. It keeps the
// search for duplicates cheap.
const maxMembers = 256

// inspect reads the parts of the JSON-RPC message in body that authorization needs.
//
// The code that decides about a message and the code that runs it must read the same
// message. JSON parsers differ: of two equal keys the SDK takes the last, a proxy maybe the
// first; the SDK distinguishes method from Method, most Go programs do not; the SDK ignores
// bytes after the first value. So a body that two parsers could read differently is
// refused, and so is a batch, which no supported version has.
func inspect(body []byte) (message, *refusal) {
	if !utf8.Valid(body) || !json.Valid(body) {
		return message{}, refused(http.StatusBadRequest, jsonrpc.CodeParseError, "the body is not one JSON value in UTF-8")
	}
	top, err := members(body, "message", "jsonrpc", "id", "method", "params", "result", "error")
	if err != nil {
		return message{}, err
	}
	var m message
	if raw, ok := top.get("id"); ok && raw[0] != 'n' { // null is not an id
		if err := checkID(raw); err != nil {
			return message{}, err
		}
		m.id, m.idAt = raw, cap(body)-cap(raw) // raw is a part of body
	}
	if err := m.read(top); err != nil {
		err.id = m.id
		return message{}, err
	}
	return m, nil
}

// read takes method and name from the members of a message.
func (m *message) read(top object) *refusal {
	rawMethod, isRequest := top.get("method")
	if !isRequest {
		return nil
	}
	if _, both := top.get("result"); both {
		return badMessage("a message has a method or a result, not both")
	}
	if _, both := top.get("error"); both {
		return badMessage("a message has a method or an error, not both")
	}
	version, _ := top.get("jsonrpc")
	m.standard = string(version) == `"2.0"`
	var ok bool
	if m.method, ok = rawjson.String(rawMethod); !ok {
		return badMessage("method is not a string")
	}
	rawParams, ok := top.get("params")
	if !ok || string(rawParams) == "null" {
		return nil
	}
	m.params = rawParams
	key := nameKey(m.method)
	params, err := members(rawParams, "params", "_meta", "arguments", "ref", key)
	if err != nil {
		return err
	}
	m.ordinary = !slices.ContainsFunc(params, func(p member) bool { return p.key != "name" && p.key != "arguments" && p.key != "_meta" })
	if meta, ok := params.get("_meta"); ok && meta[0] == '{' {
		names, err := members(meta, "_meta")
		if err != nil {
			return err
		}
		var version []byte
		version, m.modern = names.get(sdk.MetaKeyProtocolVersion)
		m.version, _ = rawjson.String(version)
		m.capabilities, _ = names.get(sdk.MetaKeyClientCapabilities)
	}
	if m.method == complete {
		return m.readReference(params)
	}
	if rawName, found := params.get(key); key != "" && found {
		if m.name, ok = rawjson.String(rawName); !ok {
			return refused(http.StatusBadRequest, jsonrpc.CodeInvalidParams, "%s is not a string", key)
		}
		m.rawName = rawName
	}
	return nil
}

// complete is the method whose name is that of a prompt or a template of resources.
const complete = "completion/complete"

// readReference takes the name from the parameters of complete.
func (m *message) readReference(params object) *refusal {
	raw, ok := params.get("ref")
	if !ok {
		return nil
	}
	ref, err := members(raw, "ref", "type", "name", "uri")
	if err != nil {
		return err
	}
	for _, key := range []string{"name", "uri"} {
		if rawName, found := ref.get(key); found {
			if m.name, ok = rawjson.String(rawName); !ok {
				return refused(http.StatusBadRequest, jsonrpc.CodeInvalidParams, "%s is not a string", key)
			}
			m.rawName = rawName
			return nil
		}
	}
	return nil
}

// nameKey returns the member of params that names the object of method.
func nameKey(method string) string {
	switch method {
	case "tools/call", "prompts/get":
		return "name"
	case "resources/read", "resources/subscribe", "resources/unsubscribe":
		return "uri"
	}
	return ""
}

func checkID(raw []byte) *refusal {
	switch c := raw[0]; {
	case c == '"':
	case c == '-' || '0' <= c && c <= '9':
		if _, err := strconv.ParseFloat(string(raw), 64); err != nil {
			return badMessage("id is out of range")
		}
	default:
		return badMessage("id is neither a string nor a number")
	}
	return nil
}

// keeps reports whether the SDK returns an id as it was sent. It reads numbers as float64
// and keeps their integer part, and half a surrogate pair in a string becomes U+FFFD.
func keeps(id []byte) bool {
	if id[0] == '"' {
		return bytes.IndexByte(id, '\\') < 0
	}
	const exact = 1 << 53
	n, err := strconv.ParseInt(string(id), 10, 64)
	return err == nil && -exact <= n && n <= exact && strconv.FormatInt(n, 10) == string(id)
}

// forSDK returns the body for the SDK, and notes in m if it has another id.
func (m *message) forSDK(body []byte) []byte {
	if m.id == nil || keeps(m.id) {
		return body
	}
	m.replaced = true
	return slices.Concat(body[:m.idAt], []byte(standIn), body[m.idAt+len(m.id):])
}

// object is a JSON object with undecoded values.
type object []member

type member struct {
	key   string
	value []byte
}

func (o object) get(key string) ([]byte, bool) {
	for _, m := range o {
		if m.key == key {
			return m.value, true
		}
	}
	return nil, false
}

// members splits a JSON object; data must be valid JSON. It refuses an object in which two
// keys are equal or differ only in letter case, or a key differs so from a known one.
func members(data []byte, what string, known ...string) (object, *refusal) {
	s := rawjson.Scanner{Data: data}
	if s.Peek() != '{' {
		return nil, badMessage("%s is not a JSON object", what)
	}
	s.Pos++
	o := make(object, 0, 8)
	for s.Peek() != '}' {
		if s.Data[s.Pos] == ',' {
			s.Pos++
			s.Peek()
		}
		key, ok := rawjson.String(s.Value())
		if !ok {
			return nil, badMessage("%s has a malformed key", what)
		}
		s.Peek()
		s.Pos++ // the colon
		s.Peek()
		m := member{key: key, value: s.Value()}
		if slices.ContainsFunc(o, func(other member) bool { return strings.EqualFold(other.key, key) }) {
			return nil, badMessage("%s has the key %q twice", what, key)
		}
		for _, k := range known {
			if key != k && strings.EqualFold(key, k) {
				return nil, badMessage("%s has the key %q, which must be written %q", what, key, k)
			}
		}
		if len(o) == maxMembers {
			return nil, badMessage("%s has more than %d members", what, maxMembers)
		}
		o = append(o, m)
	}
	return o, nil
}

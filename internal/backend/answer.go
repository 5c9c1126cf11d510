package backend

import (
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"unicode/utf8"

	"signet/internal/rawjson"
)

// heard is one JSON-RPC message of a server, in parts of its text.
type heard struct {
	id, result, err json.RawMessage // nil: there is none
	method          string          // empty: a response
	whole           json.RawMessage
}

// hear reads a JSON-RPC message. The second value says what is wrong with it, or is empty.
func hear(data []byte) (heard, string) {
	if !utf8.Valid(data) || !json.Valid(data) {
		return heard{}, "it is not one JSON value in UTF-8"
	}
	h := heard{whole: data}
	seen := 0 // bits of the members so far
	for key, value := range rawjson.Members(data) {
		bit := 0
		switch key {
		case "id":
			bit, h.id = 1, value
		case "result":
			bit, h.result = 2, value
		case "error":
			bit, h.err = 4, value
		case "method":
			bit = 8
			if h.method, _ = rawjson.String(value); h.method == "" {
				return heard{}, "its method is not a string"
			}
		}
		if seen&bit != 0 {
			return heard{}, "it has a member twice"
		}
		seen |= bit
	}
	if h.method == "" && (h.result == nil) == (h.err == nil) {
		return heard{}, "it has no result and no error, or both"
	}
	return h, ""
}

// answers returns the answer to the request with an id, to a method. The second value says what is
// wrong with it, or is empty.
func (h heard) answers(id uint64, method string) (Answer, string) {
	if string(h.id) != strconv.FormatUint(id, 10) {
		return Answer{}, "it has the id of another request"
	}
	if h.err != nil {
		if h.err[0] != '{' || !isCode(rawjson.Get(h.err, "code")) {
			return Answer{}, "its error is not one of JSON-RPC"
		}
		return Answer{Error: h.err}, ""
	}
	if !hasShape(method, h.result) {
		return Answer{}, "its result has the wrong shape"
	}
	return Answer{Result: h.result}, ""
}

// An id is found at both ends of a text that is not JSON as a whole.
var (
	idFirst = regexp.MustCompile(`^\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"id"\s*:\s*([0-9]{1,18})\s*[,}]`)
	idLast  = regexp.MustCompile(`,\s*"id"\s*:\s*([0-9]{1,18})\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*$`)
)

// idsOf returns the ids at the ends of a text.
func idsOf(start, end []byte) (ids []string) {
	for _, match := range [][][]byte{idFirst.FindSubmatch(start[:min(len(start), 128)]), idLast.FindSubmatch(end[max(0, len(end)-tailSize):])} {
		if match != nil {
			ids = append(ids, string(match[1]))
		}
	}
	return ids
}

// hasID reports whether text has an id at one of its ends.
func hasID(text []byte, id uint64) bool {
	return slices.Contains(idsOf(text, text), strconv.FormatUint(id, 10))
}

// ofMessage reports whether text, which is not the answer to the request with an id, comes of that
// request alone: it has the id, as when one tool writes NaN, or it says that the request cannot be
// read, for which an error has no id (JSON-RPC 2.0 §5). An instance that answers otherwise, such as
// with the id of another request, is ill. If it answers nothing well, the health check finds out.
func ofMessage(text []byte, h heard, id uint64) bool {
	if hasID(text, id) {
		return true
	}
	code := errorCode(h.err)
	return (h.id == nil || string(h.id) == "null") && (code == codeParse || code == codeInvalidRequest)
}

func isCode(raw []byte) bool {
	_, err := strconv.ParseInt(string(raw), 10, 64)
	return err == nil
}

// hasShape reports whether the result of a method is an object in which the member that the method
// is about, if it is there, is an array or object. A result that asks for input has none, or null.
func hasShape(method string, result []byte) bool {
	if result[0] != '{' {
		return false
	}
	key, first := "", byte('[')
	switch method {
	case "tools/call":
		key = "content"
	case "tools/list":
		key = "tools"
	case "resources/read":
		key = "contents"
	case "resources/list":
		key = "resources"
	case "resources/templates/list":
		key = "resourceTemplates"
	case "prompts/get":
		key = "messages"
	case "prompts/list":
		key = "prompts"
	case "completion/complete":
		key, first = "completion", '{'
	default:
		return true
	}
	for k, value := range rawjson.Members(result) {
		if k == key && value[0] != first && !(string(value) == "null" && wantsInput(result)) {
			return false
		}
	}
	return true
}

// wantsInput reports whether a result asks the client for input (MCP 2026-07-28, Multi Round-Trip
// Requests).
func wantsInput(result []byte) bool {
	kind, _ := rawjson.String(rawjson.Get(result, "resultType"))
	return kind == "input_required"
}

// errorCode is the code of a JSON-RPC error object, or 0.
func errorCode(err json.RawMessage) int64 {
	code, _ := strconv.ParseInt(string(rawjson.Get(err, "code")), 10, 64)
	return code
}

// The codes that are understood here.
const (
	codeServer             = -32000
	codeParse              = -32700
	codeInvalidRequest     = -32600
	codeMethodNotFound     = -32601
	codeUnsupportedVersion = -32022
)

package mcp

import (
	"bytes"
	"net/http"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
)

// standIn is the id that the SDK sees in place of one that it would not return as it was
// sent. There is one message per request, so it cannot be mistaken for another id.
const standIn = `"0"`

// answer passes the SDK's answer to a message on. An answer that a client could not read is
// kept back until finish, which corrects it: a refusal in plain text, and one with the
// standIn.
type answer struct {
	http.ResponseWriter
	m      message
	status int // of the answer that is kept back; 0: none is
	kept   bytes.Buffer
}

// Unwrap is for [http.ResponseController].
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) WriteHeader(status int) {
	if a.m.replaced || a.plain() {
		a.status = status
		return
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	if a.m.replaced && a.status == 0 {
		a.status = http.StatusOK
	}
	if a.status != 0 {
		return a.kept.Write(p)
	}
	return a.ResponseWriter.Write(p)
}

func (a *answer) plain() bool { return strings.HasPrefix(a.Header().Get("Content-Type"), "text/plain") }

// finish writes the answer that was kept back. The caller calls it when the SDK has
// returned.
func (a *answer) finish() {
	switch {
	case a.status == 0:
	case a.plain():
		a.translate()
	default:
		const begin = `{"jsonrpc":"2.0","id":` // as the SDK writes a response
		body := a.kept.Bytes()
		if rest, ok := bytes.CutPrefix(body, []byte(begin+standIn)); ok {
			body = append(append([]byte(begin), a.m.id...), rest...)
		}
		a.ResponseWriter.WriteHeader(a.status)
		a.ResponseWriter.Write(body)
	}
}

// translate answers with a JSON-RPC error in place of the SDK's text. In the protocol
// versions with sessions, the SDK has nothing else for a message that it cannot run.
func (a *answer) translate() {
	text := strings.TrimSpace(a.kept.String())
	code := int64(jsonrpc.CodeInvalidRequest)
	switch {
	case strings.HasPrefix(text, "JSON RPC not handled") && a.m.id == nil:
		// A notification is not answered, also one that is unknown (JSON-RPC 2.0 §4.1).
		a.Header().Del("Content-Type")
		a.ResponseWriter.WriteHeader(http.StatusAccepted)
		return
	case strings.HasPrefix(text, "JSON RPC not handled"):
		// Clients of these versions read the error only from an answer that is 200.
		a.status, code, text = http.StatusOK, jsonrpc.CodeMethodNotFound, "method not found"
	case a.status >= http.StatusInternalServerError:
		code = jsonrpc.CodeInternalError
	}
	no := refused(a.status, code, "%s", text)
	no.id = a.m.id
	no.write(a.ResponseWriter)
}

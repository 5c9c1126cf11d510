package mcp

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"signet/internal/admission"
)

// standIn is the id that the SDK sees in place of one that it would not return as it was
// sent. There is one message per request, so it cannot be mistaken for another id.
const standIn = `"0"`

// answer keeps the SDK's answer to a message. It is written after the SDK has returned: a
// client that reads slowly holds neither a slot nor the memory of the call, which is several
// times that of the answer. What a client could not read is corrected before: a refusal in
// plain text, and one with the standIn.
type answer struct {
	header http.Header
	status int // 0: there is no answer
	body   bytes.Buffer
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

func (a *answer) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(p)
}

func (a *answer) plain() bool { return strings.HasPrefix(a.header.Get("Content-Type"), "text/plain") }

// send writes the answer to m. The load gets its bytes; if there is no room for them, the
// client gets an error instead, which must not look like a refusal: the message has run.
func (a *answer) send(w http.ResponseWriter, m message, load *admission.Load) {
	if a.status == 0 {
		return
	}
	if a.plain() {
		a.translate(w, m)
		return
	}
	body := a.body.Bytes()
	if rest, ok := bytes.CutPrefix(body, []byte(beginOfResponse+standIn)); ok && m.replaced {
		body = append(append([]byte(beginOfResponse), m.id...), rest...)
	}
	if err := load.Take(int64(len(body))); err != nil {
		no := refused(http.StatusOK, jsonrpc.CodeInternalError, "%s", unread)
		no.id = m.id
		no.write(w)
		return
	}
	if len(body) > 0 {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(a.status)
	_ = admission.Send(w, body) // fails if the client is gone
}

const unread = "the message was run, but its answer is too large now: read the earlier answers first"

// translate answers with a JSON-RPC error in place of the SDK's text. In the protocol
// versions with sessions, the SDK has nothing else for a message that it cannot run.
func (a *answer) translate(w http.ResponseWriter, m message) {
	text := strings.TrimSpace(a.body.String())
	code, status := int64(jsonrpc.CodeInvalidRequest), a.status
	switch {
	case strings.HasPrefix(text, "JSON RPC not handled") && m.id == nil:
		// A notification is not answered, also one that is unknown (JSON-RPC 2.0 §4.1).
		w.Header().Del("Content-Type")
		w.WriteHeader(http.StatusAccepted)
		return
	case strings.HasPrefix(text, "JSON RPC not handled"):
		// Clients of these versions read the error only from an answer that is 200.
		status, code, text = http.StatusOK, jsonrpc.CodeMethodNotFound, "method not found"
	case a.status >= http.StatusInternalServerError:
		code = jsonrpc.CodeInternalError
	}
	no := refused(status, code, "%s", text)
	no.id = m.id
	no.write(w)
}

// events is an answer that is a stream. It may be silent for as long as it likes, but what
// it writes must be read.
type events struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (e *events) Write(p []byte) (int, error) {
	admission.ExpectProgress(e.control)
	defer expectNothing(e.control)
	return e.ResponseWriter.Write(p)
}

// FlushError is for [http.ResponseController].
func (e *events) FlushError() error {
	admission.ExpectProgress(e.control)
	defer expectNothing(e.control)
	return e.control.Flush()
}

// passAtOnce asks nginx, and proxies that have it from there, not to hold events back until there is
// a buffer full of them.
func passAtOnce(h http.Header) { h.Set("X-Accel-Buffering", "no") }

// expectNothing removes the write deadline while nothing is written.
func expectNothing(control *http.ResponseController) {
	_ = control.SetWriteDeadline(time.Time{}) // fails without a connection, as in tests
}

// Package journal is the memory of a test that breaks servers on purpose: what its
// clients were about to ask, and what they were answered. From that alone a
// [Checker] says whether the servers kept their promises.
//
// A line is on disk before its request is sent, and another one after the whole
// answer was read. The order of the lines is therefore an order in time: what was
// answered before something else was sent was known by then. A request without an
// answer may have happened or not.
//
// A journal holds tokens in clear: keep it where only the test reads it.
package journal

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"
)

// Op is what a client asks for.
type Op string

// The questions of which something is promised.
const (
	Code       Op = "code"       // exchange an authorization code
	Refresh    Op = "refresh"    // exchange a refresh handle
	Revoke     Op = "revoke"     // end the grant
	Introspect Op = "introspect" // ask about a refresh handle or an access token
	Call       Op = "call"       // call the MCP endpoint with an access token
)

// Request is what is about to be sent.
type Request struct {
	Op       Op     `json:"op"`
	Family   string `json:"family"`           // names the grant for the test
	Artefact string `json:"sent"`             // code, handle or access token
	Flawed   bool   `json:"flawed,omitempty"` // wrong on purpose: it must be refused, and change nothing

	Consent *Consent `json:"consent,omitempty"` // with Code: what the user agreed to
}

// Consent is what every access token of a grant must say, and no more than that.
type Consent struct {
	Issuer   string   `json:"iss"`
	Audience string   `json:"aud"`
	Subject  string   `json:"sub"`
	ClientID string   `json:"client_id"`
	Scope    []string `json:"scope"`
}

// Answer is what came back. Status 0: the connection broke, or time ran out.
type Answer struct {
	Status int    `json:"status"`
	Error  string `json:"error,omitempty"`
	Handle string `json:"handle,omitempty"`
	Access string `json:"access,omitempty"`
	Active bool   `json:"active,omitempty"` // of an introspection
}

// line is one line: a request, or its answer under the same number.
type line struct {
	N  int64 `json:"n"`
	At int64 `json:"at"` // Unix milliseconds
	*Request
	*Answer
}

// Journal is a file that is written. It is safe for concurrent use.
type Journal struct {
	mu      sync.Mutex
	f       *os.File
	n       int64 // requests
	written int64 // lines

	syncing sync.Mutex
	synced  int64 // lines
}

// Create begins a journal; a file of that name must not be there.
func Create(path string) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return &Journal{f: f}, nil
}

// Intend notes a request before it is sent and returns its number.
func (j *Journal) Intend(r Request) (n int64, err error) {
	return j.write(line{Request: &r})
}

// Answered notes the answer to request n.
func (j *Journal) Answered(n int64, a Answer) error {
	_, err := j.write(line{N: n, Answer: &a})
	return err
}

// Close ends the journal.
func (j *Journal) Close() error { return j.f.Close() }

// write returns when the line is on disk. Lines that were written meanwhile share
// the sync.
func (j *Journal) write(l line) (n int64, err error) {
	mine, err := j.append(&l)
	if err != nil {
		return 0, err
	}
	j.syncing.Lock()
	defer j.syncing.Unlock()
	if j.synced >= mine {
		return l.N, nil
	}
	j.mu.Lock()
	last := j.written
	j.mu.Unlock()
	if err := j.f.Sync(); err != nil {
		return 0, err
	}
	j.synced = last
	return l.N, nil
}

func (j *Journal) append(l *line) (mine int64, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if l.Request != nil {
		j.n++
		l.N = j.n
	}
	l.At = time.Now().UnixMilli()
	b, err := json.Marshal(l)
	if err != nil {
		return 0, fmt.Errorf("journal: %w", err)
	}
	if _, err := j.f.Write(append(b, '\n')); err != nil {
		return 0, err
	}
	j.written++
	return j.written, nil
}

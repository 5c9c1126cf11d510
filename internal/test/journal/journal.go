// Package journal records the requests and answers of a test that breaks servers on
// purpose. From that alone a [Checker] finds whether the servers kept their promises.
//
// A line is on disk before its request is sent, and another one after the whole answer
// was read. So the order of the lines is an order in time: an answer above a request
// was known when that request was sent. A request without an answer may have happened
// or not.
//
// A journal contains tokens in clear: only the test may be able to read it.
package journal

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"
)

// Op is a kind of request.
type Op string

// The kinds of requests about which there are promises.
const (
	Code       Op = "code"       // exchange an authorization code
	Refresh    Op = "refresh"    // exchange a refresh handle
	Revoke     Op = "revoke"     // end the grant
	Introspect Op = "introspect" // introspect a refresh handle or an access token
	Call       Op = "call"       // call the MCP endpoint with an access token
)

// Request is a request before it is sent.
type Request struct {
	Op       Op     `json:"op"`
	Family   string `json:"family"`           // names the grant for the test
	Artefact string `json:"sent"`             // code, handle or access token
	Flawed   bool   `json:"flawed,omitempty"` // invalid on purpose: it must be refused and change nothing

	Consent *Consent `json:"consent,omitempty"` // with Code: the user's consent
}

// Consent is the content that every access token of a grant must have. Scopes may be
// fewer.
type Consent struct {
	Issuer   string   `json:"iss"`
	Audience string   `json:"aud"`
	Subject  string   `json:"sub"`
	ClientID string   `json:"client_id"`
	Scope    []string `json:"scope"`
}

// Answer is an answer. Status 0 means none: the connection broke, or the time ran out.
type Answer struct {
	Status int    `json:"status"`
	Error  string `json:"error,omitempty"`
	Handle string `json:"handle,omitempty"`
	Access string `json:"access,omitempty"`
	Active bool   `json:"active,omitempty"` // active, in the answer of an introspection
}

// line is a line of the journal: a request, or its answer under the same number.
type line struct {
	N  int64 `json:"n"`
	At int64 `json:"at"` // Unix milliseconds
	*Request
	*Answer
}

// Journal writes a journal file. It is safe for concurrent use.
type Journal struct {
	mu      sync.Mutex
	f       *os.File
	n       int64 // number of requests
	written int64 // lines written

	syncing sync.Mutex
	synced  int64 // lines on disk
}

// Create creates a journal. The file must not exist.
func Create(path string) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return &Journal{f: f}, nil
}

// Intend records a request before it is sent and returns its number.
func (j *Journal) Intend(r Request) (n int64, err error) {
	return j.write(line{Request: &r})
}

// Answered records the answer to request n.
func (j *Journal) Answered(n int64, a Answer) error {
	_, err := j.write(line{N: n, Answer: &a})
	return err
}

// Close closes the journal.
func (j *Journal) Close() error { return j.f.Close() }

// write returns when the line is on disk. Lines that are written at the same time share
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

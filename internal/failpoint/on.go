//go:build failpoint

// Package failpoint breaks the program at named points, for tests.
//
// SIGNET_TEST_FAILPOINT names a file. If the file says "POINT ACTION N", the Nth pass of
// the point performs the action, once, and removes the file. The actions are exit (by
// SIGKILL, so that nothing is tidied up), error, and sleep=DURATION.
package failpoint

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The points, in the order in which a request passes them.
const (
	Begin     = "begin"     // before BEGIN
	Statement = "statement" // before every statement, BEGIN and COMMIT included
	Commit    = "commit"    // before the COMMIT of a transaction that has written
	Committed = "committed" // after COMMIT, before any other code learns of it
	Signed    = "signed"    // before the first byte of an answer
	Half      = "half"      // after half of its body
)

// Err is the error of the action error.
var Err = errors.New("injected")

var mu sync.Mutex // of the file

// At passes a point.
func At(point string) error {
	action := armed(point)
	pause, sleeps := strings.CutPrefix(action, "sleep=")
	switch {
	case action == "exit":
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case action == "error":
		return Err
	case sleeps:
		d, err := time.ParseDuration(pause)
		if err != nil {
			return err
		}
		time.Sleep(d)
	}
	return nil
}

// armed counts a pass of point, and returns the action to perform now.
func armed(point string) string {
	path := os.Getenv("SIGNET_TEST_FAILPOINT")
	if path == "" {
		return ""
	}
	mu.Lock()
	defer mu.Unlock()
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	var at, action string
	var n int
	if _, err := fmt.Sscan(string(b), &at, &action, &n); err != nil || at != point {
		return ""
	}
	if n > 1 {
		if err := os.WriteFile(path, fmt.Appendln(nil, at, action, n-1), 0o600); err != nil {
			panic(err)
		}
		return ""
	}
	if err := os.Remove(path); err != nil {
		panic(err)
	}
	return action
}

// Handler lets the answers of h to forms pass Signed and Half.
func Handler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.Header.Get("Content-Type") == "application/x-www-form-urlencoded" {
			w = &answer{ResponseWriter: w}
		}
		h.ServeHTTP(w, r)
	})
}

type answer struct {
	http.ResponseWriter
	begun bool
}

func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) WriteHeader(status int) {
	a.begun = true
	At(Signed)
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	if !a.begun {
		a.WriteHeader(http.StatusOK)
	}
	half := len(b) / 2
	n, err := a.ResponseWriter.Write(b[:half])
	if err != nil {
		return n, err
	}
	if err := http.NewResponseController(a.ResponseWriter).Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return n, err
	}
	At(Half)
	m, err := a.ResponseWriter.Write(b[half:])
	return n + m, err
}

//go:build !failpoint

// Package failpoint breaks the program at named points, for tests. Only a build with the
// tag failpoint can do so: in all others its functions do nothing, and the compiler removes
// them.
package failpoint

import "net/http"

// Handler returns h. In a build for tests, answers to forms pass two points.
func Handler(h http.Handler) http.Handler { return h }

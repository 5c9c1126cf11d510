//go:build !failpoint

// Package failpoint breaks the program at named points, for tests. Only a build with
// the tag failpoint can: in any other its functions do nothing, and are not there
// once the compiler has seen so.
package failpoint

import "net/http"

// Handler returns h. In a build for tests, answers to forms pass two points.
func Handler(h http.Handler) http.Handler { return h }

package server

import (
	"io/fs"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"signet/users"
)

// AskAgain sets how long after a start the issuer is asked again.
func (o *Options) AskAgain(d time.Duration) { o.askAgain = d }

// Alone makes the server not ask its issuer: a demo on this machine may have the issuer of
// the tests.
func (o Options) Alone() Options {
	o.alone = true
	return o
}

// CheckMemory is the check of the start, in another file system.
func CheckMemory(root fs.FS, hashes users.Stats) error { return checkMemory(root, hashes) }

// Callers returns a function that finds the addresses of callers behind trusted proxies.
func Callers(log *slog.Logger, trusted ...netip.Prefix) func(*http.Request) (address netip.Addr, own bool) {
	return newAddresses(trusted, log).of
}

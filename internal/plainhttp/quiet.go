package plainhttp

import (
	"net"
	"syscall"
)

// quiet returns a function that reports whether a connection is open and there is nothing to read.
func quiet(c net.Conn) func() bool {
	with, ok := c.(syscall.Conn)
	if !ok {
		return never
	}
	raw, err := with.SyscallConn()
	if err != nil {
		return never
	}
	var waits bool
	look := func(fd uintptr) bool {
		var b [1]byte
		_, err := syscall.Read(int(fd), b[:])
		waits = err == syscall.EAGAIN
		return true
	}
	return func() bool { return raw.Read(look) == nil && waits }
}

// never has a connection used once only.
func never() bool { return false }

package server

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// noSYN is a packet filter for a listening TCP socket. It drops packets that ask for a new
// connection (byte 13 of the header has the flags, SYN is 2), and no others.
var noSYN = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13},
	{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: 2, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 18},
}

// settle keeps new connections from l until half-open connections are open, which takes up
// to handshake, and all open ones are accepted. A listener that is closed before resets the
// connections in its queue, with the requests that were sent on them. Clients that connect
// meanwhile retry after a second and are then refused.
func settle(l net.Listener, handshake time.Duration) {
	c, ok := l.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	filter := unix.SockFprog{Len: uint16(len(noSYN)), Filter: &noSYN[0]}
	closed := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &filter)
	})
	if closed != nil || err != nil {
		return // by the program, or not TCP, or the system forbids it: a few connections may be lost
	}
	time.Sleep(handshake)
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		var info *unix.TCPInfo
		closed = raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
		if closed != nil || err != nil || info.Unacked == 0 { // for a listener, the length of its queue
			return
		}
	}
}

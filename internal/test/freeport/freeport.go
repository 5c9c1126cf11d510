// Package freeport finds ports for the programs that tests start, also if tests of
// several packages run at the same time.
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// The kernel takes higher ports for listeners on any port and for outgoing connections.
// So a port of this range stays free until its program listens, and while the program
// is restarted.
const (
	first = 10_000
	last  = 32_000
)

// held keeps the locks until the process ends.
var held struct {
	sync.Mutex
	files []*os.File
}

// New returns a TCP port of 127.0.0.1 on which no process listens. It is not returned
// again, in any process, as long as this process runs. New is safe for concurrent use.
func New() (int, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("signet-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	for range 1000 {
		port := first + rand.IntN(last-first)
		if taken, err := lock(filepath.Join(dir, fmt.Sprint(port))); err != nil {
			return 0, err
		} else if taken {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		return port, l.Close()
	}
	return 0, errors.New("no free port")
}

func lock(path string) (taken bool, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return true, nil
		}
		return false, err
	}
	held.Lock()
	defer held.Unlock()
	held.files = append(held.files, f)
	return false, nil
}

package store

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lock is the lock file. A server holds it, and so does a command that makes or
// replaces the store. The kernel releases it when the process ends, however it ends.
type lock struct{ f *os.File }

func takeLock(path string) (*lock, error) {
	path += ".lock"
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return &lock{f}, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("%w: %s is locked (one server per SQLite file; with PostgreSQL there can be many)", ErrLocked, path)
	}
	return nil, fmt.Errorf("locking %s: %w", path, err)
}

func (l *lock) release() { l.f.Close() }

// checkWritable refuses a file that SQLite would open for reading only, without an
// error. It does not open the file (see inspectFile).
func checkWritable(path string) error {
	const forWriting = 2
	if err := syscall.Access(path, forWriting); err != nil {
		return fmt.Errorf("%s cannot be written: %w", path, err)
	}
	return nil
}

package store

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"signet/internal/durable"
)

// takeLock takes the lock of the store at path. A server holds it, and so does a command
// that makes or replaces the store.
func takeLock(path string) (release func(), err error) {
	release, err = durable.Lock(context.Background(), path+".lock", 0)
	if errors.Is(err, durable.ErrLocked) {
		return nil, fmt.Errorf("%w: %s is locked (one server per SQLite file; with PostgreSQL there can be many)", ErrLocked, path+".lock")
	}
	return release, err
}

// checkWritable refuses a file that SQLite would open for reading only, without an
// error. It does not open the file (see inspectFile).
func checkWritable(path string) error {
	const forWriting = 2
	if err := syscall.Access(path, forWriting); err != nil {
		return fmt.Errorf("%s cannot be written: %w", path, err)
	}
	return nil
}

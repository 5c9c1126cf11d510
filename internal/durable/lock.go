package durable

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/gofrs/flock"
)

// ErrLocked says that another holder of a lock did not give it back in time.
var ErrLocked = errors.New("locked by another process")

// tryEvery is how long a waiting [Lock] sleeps between two attempts.
const tryEvery = 10 * time.Millisecond

// Lock locks the file at path, which it makes if it is missing. It waits up to patience
// for another holder, of this process or another one; with none it tries once. The kernel
// releases the lock when the process ends, however it ends.
//
// A file that is replaced cannot be its own lock: it has one beside it.
func Lock(ctx context.Context, path string, patience time.Duration) (unlock func(), err error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		f, err := New(path)
		if err != nil && !errors.Is(err, fs.ErrExist) { // another process may have made it meanwhile
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		f.Close()
	}
	return lock(ctx, flock.New(path, flock.SetFlag(os.O_RDWR|syscall.O_NOFOLLOW)), patience)
}

// LockFolder locks the folder dir, as [Lock] locks a file.
func LockFolder(ctx context.Context, dir string, patience time.Duration) (unlock func(), err error) {
	return lock(ctx, flock.New(dir, flock.SetFlag(os.O_RDONLY|syscall.O_DIRECTORY)), patience)
}

func lock(ctx context.Context, l *flock.Flock, patience time.Duration) (unlock func(), err error) {
	locked, err := l.TryLock()
	if !locked && err == nil && patience > 0 {
		waiting, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		locked, err = l.TryLockContext(waiting, tryEvery)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			err = nil
		}
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("locking %s: %w", l.Path(), err)
	case !locked:
		return nil, fmt.Errorf("%s: %w", l.Path(), ErrLocked)
	}
	return func() { l.Unlock() }, nil
}

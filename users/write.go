package users

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// lock takes the lock file at path for this call alone, also among processes. The
// users file itself cannot be the lock: every edit replaces it.
func lock(ctx context.Context, path string, wait time.Duration) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	giveToOwner(file, filepath.Dir(path))
	for end := time.Now().Add(wait); ; {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil // which unlocks
		}
		if err != syscall.EWOULDBLOCK && err != syscall.EINTR {
			return nil, errors.Join(err, file.Close())
		}
		if time.Now().After(end) {
			return nil, errors.Join(errLocked, file.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), file.Close())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// replace puts content in the place of the file at path: a reader sees the old file
// or the new one, and after a crash one of them is there.
func replace(path string, content []byte) error {
	dir := filepath.Dir(path)
	file, err := os.CreateTemp(dir, "."+filepath.Base(path)+".") // with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // nothing is there after the rename
	like := path
	if _, err := os.Stat(path); err != nil {
		like = dir
	}
	giveToOwner(file, like)
	_, err = file.Write(content)
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// giveToOwner gives a file that root made to the owner of like, so that the server,
// which does not run as root, can still read it. For others it does nothing.
func giveToOwner(file *os.File, like string) {
	info, err := os.Stat(like)
	if err != nil || os.Geteuid() != 0 {
		return
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		file.Chown(int(st.Uid), int(st.Gid)) // at worst the server says that it cannot read
	}
}

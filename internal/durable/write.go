package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Staged is a file that is being written beside its place.
type Staged struct {
	*os.File
	path string
}

// Stage makes an empty file, readable by its owner alone, that is to take the place of
// the file at path. Its name begins with a dot.
func Stage(path string) (*Staged, error) {
	RemoveLeftovers(path)
	f, err := os.CreateTemp(filepath.Dir(path), stagedPrefix(path)) // O_EXCL, mode 0600
	if err != nil {
		var at *fs.PathError
		if errors.As(err, &at) {
			at.Path = filepath.Dir(path) // nobody knows the file's name
		}
		return nil, err
	}
	return &Staged{f, path}, nil
}

// Discard removes what was not placed. After [Staged.Replace] and [Staged.Create] it does
// nothing.
func (s *Staged) Discard() {
	s.Close()
	os.Remove(s.Name())
}

// Replace puts the file in its place, durably. The mode and, for root, the owner of a file
// that was there stay; a new file has mode 0600. A symbolic link is replaced, not followed.
func (s *Staged) Replace() error {
	like, mode := filepath.Dir(s.path), fs.FileMode(0o600)
	if info, err := os.Lstat(s.path); err == nil && info.Mode().IsRegular() {
		like, mode = s.path, info.Mode().Perm()
	}
	if err := s.finish(like, mode); err != nil {
		return err
	}
	if err := os.Rename(s.Name(), s.path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(s.path))
}

// Create puts the file in its place, durably, unless something is there: [fs.ErrExist].
func (s *Staged) Create() error {
	if err := s.finish(filepath.Dir(s.path), 0o600); err != nil {
		return err
	}
	if err := os.Link(s.Name(), s.path); err != nil {
		return err
	}
	return errors.Join(os.Remove(s.Name()), SyncDir(filepath.Dir(s.path)))
}

func (s *Staged) finish(like string, mode fs.FileMode) error {
	err := giveToOwner(s.File, like)
	if err == nil && mode != 0o600 {
		err = s.Chmod(mode)
	}
	if err == nil {
		err = s.Sync()
	}
	return errors.Join(err, s.Close())
}

// Replace puts content in the place of the file at path, as [Staged.Replace] does.
func Replace(path string, content []byte) error { return place(path, content, (*Staged).Replace) }

// Create makes a file that must not be there, as [Staged.Create] does.
func Create(path string, content []byte) error { return place(path, content, (*Staged).Create) }

func place(path string, content []byte, put func(*Staged) error) error {
	s, err := Stage(path)
	if err != nil {
		return err
	}
	defer s.Discard()
	if _, err := s.Write(content); err != nil {
		return err
	}
	return put(s)
}

// New makes an empty file, readable by its owner alone, that must not be there. It is for
// files that are written in place, such as those of a database.
func New(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := giveToOwner(f, filepath.Dir(path)); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	return f, nil
}

// MakeDir makes the folder dir, and those above it that are missing, with mode 0700.
func MakeDir(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	above := filepath.Dir(filepath.Clean(dir))
	if above != dir {
		if err := MakeDir(above); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		if info, statErr := os.Stat(dir); statErr == nil && info.IsDir() {
			return nil // made by another process meanwhile
		}
		return err
	}
	d, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	return errors.Join(giveToOwner(d, above), d.Close())
}

// SyncDir makes the names in a folder durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// giveToOwner gives a file that root has just made to the owner of like, so that the
// server, which does not run as root, can read it. For other users it does nothing.
func giveToOwner(f *os.File, like string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(like)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Uid == 0 && int(st.Gid) == os.Getegid() {
		return nil
	}
	return f.Chown(int(st.Uid), int(st.Gid))
}

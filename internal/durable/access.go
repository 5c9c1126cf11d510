package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Access is the rule for files that hold secrets or decide who may do what: the root
// secret, users, clients, signing keys and the store.
//
// A file is refused that others can read or write, or that belongs to another user than
// root and the one that Signet runs as. To root, who works on the files of a service, the
// owner of the folder is as good. A folder is refused in which others can replace files:
// one that others can write to, unless it is sticky, or that belongs to another user.
// Where files are made, sticky is not enough ([WritableFolder]). A symbolic link of root or
// of the user that Signet runs as stands for the file that it leads to; then both folders
// count. A link of another user is refused: it could lead root anywhere.
//
// A refusal is [fs.ErrPermission], and names the command that mends it.
type Access struct {
	GroupRead bool // files may be readable by their group, as mounted secrets are
	Public    bool // files hold no secret: everybody may read them
}

// refusal is an error of the rule.
type refusal string

func (r refusal) Error() string        { return string(r) }
func (r refusal) Is(target error) bool { return target == fs.ErrPermission }

func refuse(format string, args ...any) error { return refusal(fmt.Sprintf(format, args...)) }

// Open opens the file at path for reading, if the rule allows it.
func (a Access) Open(path string) (*os.File, error) {
	f, err := openTarget(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = a.Check(path, info)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// openTarget opens a file for reading, and follows the links that [Access] allows.
func openTarget(path string) (*os.File, error) {
	real, err := target(path)
	if err != nil {
		return nil, err
	}
	return os.OpenFile(real, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0) // a pipe would block
}

// ReadFile returns the content of a regular file that holds no secret, of at most limit
// bytes. Of the rule of [Access] only what concerns links applies.
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := openTarget(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = refuse("%s is not a regular file", path)
	}
	if err != nil {
		return nil, err
	}
	return readAll(f, path, limit)
}

// Read returns the content of the file at path, if the rule allows it and it has at most
// limit bytes.
func (a Access) Read(path string, limit int64) ([]byte, error) {
	f, err := a.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, path, limit)
}

func readAll(f *os.File, path string, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if int64(len(b)) > limit {
		return nil, tooLong(path, limit)
	}
	return b, nil
}

func tooLong(path string, limit int64) error {
	return fmt.Errorf("%s is longer than %d bytes", path, limit)
}

// Check applies the rule to the file at path. info is that of the file, not of a link.
func (a Access) Check(path string, info fs.FileInfo) error {
	others, right := fs.FileMode(0o077), fs.FileMode(0o600)
	switch {
	case a.Public:
		others, right = 0o022, 0o644
	case a.GroupRead:
		others, right = 0o037, 0o640
	}
	return check(path, info, others, right)
}

func check(path string, info fs.FileInfo, others, right fs.FileMode) error {
	if !info.Mode().IsRegular() {
		return refuse("%s is not a regular file", path)
	}
	if mode := info.Mode().Perm(); mode&others != 0 {
		return refuse("%s has mode %04o, so others have access to it: chmod %04o %s", path, mode, right, path)
	}
	real, err := target(path)
	if err != nil {
		return err
	}
	folder, err := os.Stat(filepath.Dir(real))
	if err != nil {
		return err
	}
	if err := checkOwner(path, ownerOf(info), ownerOf(folder)); err != nil {
		return err
	}
	if err := Folder(filepath.Dir(path)); err != nil {
		return err
	}
	return Folder(filepath.Dir(real))
}

// checkOwner takes the owner of the folder for as good as the user that Signet runs as if
// that is root.
func checkOwner(path string, owner, folder int) error {
	right := os.Geteuid()
	if right == 0 {
		right = folder
	}
	if owner == 0 || owner == right {
		return nil
	}
	return refuse("%s belongs to another user (%d): chown %d %s", path, owner, right, path)
}

// Folder refuses a folder in which others can replace files.
func Folder(dir string) error { return checkFolder(dir, true) }

// WritableFolder refuses a folder in which others can make or replace files: what Signet
// looks for there, and finds missing, they could make.
func WritableFolder(dir string) error { return checkFolder(dir, false) }

func checkFolder(dir string, stickyIsEnough bool) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return refuse("%s is not a directory", dir)
	}
	owner := ownerOf(info)
	if err := checkOwner(dir, owner, owner); err != nil {
		return err
	}
	sticky := info.Mode()&fs.ModeSticky != 0
	if mode := info.Mode().Perm(); mode&0o022 != 0 && !(sticky && stickyIsEnough) {
		return refuse("%s has mode %04o, so others can replace its files: chmod 0700 %s", dir, mode, dir)
	}
	return nil
}

// ownerOf is the user that a file belongs to.
func ownerOf(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return os.Geteuid()
}

// target returns the file that path stands for. A link counts if root or the user that
// Signet runs as made it: others could lead root anywhere.
func target(path string) (string, error) {
	const most = 40 // links in a row, as in Linux
	for range most {
		info, err := os.Lstat(path)
		if err != nil {
			return "", err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			return path, nil
		}
		if owner := ownerOf(info); owner != 0 && owner != os.Geteuid() {
			return "", refuse("%s is a symbolic link of user %d, which is not followed: name the file that it leads to", path, owner)
		}
		to, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		if filepath.IsAbs(to) {
			path = to
			continue
		}
		folder, err := filepath.EvalSymlinks(filepath.Dir(path)) // for a link that begins with ..
		if err != nil {
			return "", err
		}
		path = filepath.Join(folder, to)
	}
	return "", fmt.Errorf("%s: %w", path, syscall.ELOOP)
}

// writeTarget is where a new content of the file at path goes. A link that leads to no file
// is replaced.
func writeTarget(path string) (string, error) {
	real, err := target(path)
	if errors.Is(err, fs.ErrNotExist) {
		return path, nil
	}
	return real, err
}

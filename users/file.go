package users

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/alexedwards/argon2id"
)

// recheck is how often the file on disk is looked at, at most.
const recheck = time.Second

// File is the users file. It is safe for concurrent use, and runs about one hash a
// core at a time.
//
// Every line is a user as a JSON object, blank, or a comment that begins with #:
//
//	{"name":"alice","hash":"$argon2id$v=19$…","scopes":["read"],"version":"…"}
//
// A hash is argon2id's, or bcrypt's from another system until its user signs in.
type File struct {
	path   string
	others fs.FileMode     // what others may not do with it
	params argon2id.Params // of the hashes we make
	dummy  string
	limit  *limiter

	live  atomic.Pointer[table]
	stale atomic.Pointer[error]

	mu       sync.Mutex // of what follows
	looked   time.Time
	seen     fs.FileInfo // of the last file read, good or bad; nil: read again
	readAt   time.Time
	existed  bool
	readOnly atomic.Bool // a rehash could not be written
}

// OpenFile reads the users file; none means no users. It is read again when it
// changes, which is noticed at use. A file that others can read, or with a line that
// is wrong, is an error here; later the users read before stay, and [File.Stale]
// says why.
func OpenFile(path string) (*File, error) { return open(path, 0o077) }

// OpenMounted is [OpenFile] for a file that its group may read too, as a mounted
// secret is, which belongs to root.
func OpenMounted(path string) (*File, error) { return open(path, 0o037) }

func open(path string, others fs.FileMode) (*File, error) {
	f := &File{path: path, others: others, limit: newLimiter(runtime.GOMAXPROCS(0))}
	f.useParams(defaultParams())
	f.live.Store(&table{})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reload(time.Now())
	if err := f.stale.Load(); err != nil {
		return nil, *err
	}
	return f, nil
}

func (f *File) useParams(p argon2id.Params) {
	f.params, f.dummy = p, dummyHash(p)
}

// Check returns the user that name and password belong to, else [ErrInvalid],
// [ErrPasswordTooLong] or [ErrBusy]. A name that is unknown or disabled costs the same
// as a wrong password. The password is compared byte by byte.
//
// A user with a bcrypt hash from elsewhere costs what that hash costs, so until its
// first login, which replaces the hash, its time may tell that the name exists.
func (f *File) Check(ctx context.Context, name, password string) (User, error) {
	if len(password) > MaxPassword {
		return User{}, ErrPasswordTooLong
	}
	r, hash := f.lookup(name), f.dummy
	if r != nil {
		hash = r.Hash
	}
	var (
		match bool
		err   error
		fresh string // what to keep in place of bcrypt or a hash made with other parameters
	)
	if busy := f.limit.do(ctx, func() {
		match, err = compare(password, hash)
		match = match && r != nil && !r.Disabled
		if err == nil && match && r.params != f.params && !f.readOnly.Load() {
			fresh, err = f.hash(password)
		}
	}); busy != nil {
		return User{}, busy
	}
	if err != nil {
		return User{}, fmt.Errorf("checking a password: %w", err)
	}
	if !match {
		return User{}, ErrInvalid
	}
	if fresh != "" {
		f.rehash(ctx, r, fresh)
	}
	return r.user(), nil
}

// hash makes a hash with the current parameters, in the caller's slot of the limiter.
func (f *File) hash(password string) (string, error) {
	return argon2id.CreateHash(password, &f.params)
}

// Lookup returns the user of that subject, or [ErrUnknown] if there is none any more
// or it is disabled.
func (f *File) Lookup(_ context.Context, subject string) (User, error) {
	r := f.current(time.Now()).find(subject)
	if r == nil || r.Disabled {
		return User{}, ErrUnknown
	}
	return r.user(), nil
}

func (f *File) lookup(name string) *record {
	name, err := Normalize(name)
	if err != nil {
		return nil
	}
	return f.current(time.Now()).find(name)
}

// Stale returns why the file on disk is not the one in use, or nil. It looks at the
// disk like any other use.
func (f *File) Stale() error {
	f.current(time.Now())
	if err := f.stale.Load(); err != nil {
		return *err
	}
	return nil
}

// RestAfter leaves the cores to others for a while after each hash, as long as rest says
// of one that took so long, half a second at most. Call it before the first Check.
func (f *File) RestAfter(rest func(took time.Duration) time.Duration) { f.limit.rest = rest }

// Stats are counters and gauges of the hashing.
type Stats struct {
	Hashes  uint64 // checks that were begun, also those for unknown names
	Busy    uint64 // calls that were turned away with [ErrBusy]
	Running int    // hashes at this instant, at most Limit
	Waiting int    // calls in the queue at this instant, at most 8 × Limit
	Limit   int
	Most    int   // calls that are taken at once: those running and those waiting
	Memory  int64 // bytes that one hash takes at most, with the parameters in the file
}

// Stats returns the numbers of this instant.
func (f *File) Stats() Stats {
	return Stats{
		Hashes: f.limit.hashes.Load(), Busy: f.limit.busy.Load(),
		Running: len(f.limit.slots), Waiting: int(f.limit.waiting.Load()), Limit: cap(f.limit.slots), Most: (1 + queuePerSlot) * cap(f.limit.slots),
		Memory: int64(max(f.params.Memory, f.live.Load().memory)) << 10,
	}
}

// LogValue keeps the users out of logs.
func (f *File) LogValue() slog.Value { return slog.StringValue(f.path) }

// current returns the users in use, after a look at the disk if it is time for one.
// Nobody waits for somebody else's look.
func (f *File) current(now time.Time) *table {
	if f.mu.TryLock() {
		if now.Sub(f.looked) >= recheck {
			f.reload(now)
		}
		f.mu.Unlock()
	}
	return f.live.Load()
}

// reload reads the file if it differs from the one read last. It needs f.mu.
func (f *File) reload(now time.Time) {
	f.looked = now
	info, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) && !f.existed {
		return
	}
	if err != nil {
		// An editor may be at work, or a disk away: doubt is no reason to forget users.
		f.seen = nil
		f.fail(err)
		return
	}
	if f.seen != nil && sameFile(f.seen, info) && info.ModTime().Sub(f.readAt).Abs() > 2*time.Second {
		return // a change within a tick of the file's clock would not show: look twice
	}
	f.seen, f.readAt, f.existed = info, now, true
	t, err := read(f.path, info, f.others)
	if err != nil {
		f.fail(err)
		return
	}
	f.live.Store(t)
	f.stale.Store(nil)
	f.readOnly.Store(false)
}

func (f *File) fail(err error) { f.stale.Store(&err) }

func sameFile(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.Mode() == b.Mode() && a.ModTime().Equal(b.ModTime())
}

// read returns what the file says. Its errors name the file, and the line if one is wrong.
func read(path string, info fs.FileInfo, others fs.FileMode) (*table, error) {
	private := checkPrivate(path, info, others)
	if !info.Mode().IsRegular() {
		return nil, private
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s is larger than %d MiB", path, maxFile>>20)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, errors.Join(private, err)
	}
	t, err := parse(b)
	if err != nil {
		err = fmt.Errorf("%s:%w", path, err)
	}
	if err := errors.Join(private, err); err != nil {
		return nil, err
	}
	return t, nil
}

// checkPrivate refuses a file that others can read or replace. Hashes can be guessed
// at leisure by whoever has them.
func checkPrivate(path string, info fs.FileInfo, others fs.FileMode) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	if info.Mode().Perm()&others != 0 {
		return fmt.Errorf("%s has mode %04o, so others can read it: chmod 0600 %s", path, info.Mode().Perm(), path)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() && os.Geteuid() != 0 {
		return fmt.Errorf("%s belongs to another user: chown it to the one Signet runs as", path)
	}
	dir := filepath.Dir(path)
	parent, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if parent.Mode().Perm()&0o022 != 0 && parent.Mode()&fs.ModeSticky == 0 {
		return fmt.Errorf("%s has mode %04o, so others can replace %s: chmod 0700 %s", dir, parent.Mode().Perm(), path, dir)
	}
	return nil
}

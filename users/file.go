package users

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/alexedwards/argon2id"

	"signet/internal/durable"
)

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
	access durable.Access
	params argon2id.Params // of new hashes
	dummy  string
	limit  *limiter

	live     *durable.Live[*table]
	readOnly atomic.Pointer[table] // for these users a new hash could not be written
}

// OpenFile reads the users file; none means no users. It is read again when it
// changes, which is noticed at use. A file that other users can read, or that has a wrong
// line, is an error here; later the users read before stay in use, and [File.Stale]
// returns the error.
func OpenFile(path string) (*File, error) { return open(path, durable.Access{}) }

// OpenMounted is [OpenFile] for a file that its group may read too, such as a mounted
// secret that belongs to root.
func OpenMounted(path string) (*File, error) { return open(path, durable.Access{GroupRead: true}) }

func open(path string, access durable.Access) (f *File, err error) {
	f = &File{path: path, access: access, limit: newLimiter(runtime.GOMAXPROCS(0))}
	f.useParams(defaultParams())
	f.live, err = durable.Follow(path, access, maxFile, &table{}, func(text []byte) (*table, error) { return parseNamed(path, text) })
	if err != nil {
		return nil, errors.Join(err, alsoWrong(path, err))
	}
	return f, nil
}

// alsoWrong returns what is wrong with the content of a file whose mode or owner is
// refused: a file of passwords in clear is seldom private.
func alsoWrong(path string, refused error) error {
	if info, err := os.Stat(path); !errors.Is(refused, fs.ErrPermission) || err != nil || !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil
	}
	text, err := durable.ReadFile(path, maxFile)
	if errors.Is(err, fs.ErrPermission) {
		return nil // refused says so
	}
	if err == nil {
		_, err = parseNamed(path, text)
	}
	return err
}

// parseNamed is parse with errors that name the file.
func parseNamed(path string, text []byte) (*table, error) {
	t, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s:%w", path, err)
	}
	return t, nil
}

func (f *File) useParams(p argon2id.Params) {
	f.params, f.dummy = p, dummyHash(p)
}

// Check returns the user of that name and password, or else [ErrInvalid],
// [ErrPasswordTooLong] or [ErrBusy]. A name that is unknown or disabled costs the same
// as a wrong password. The password is compared byte by byte.
//
// A user with a bcrypt hash from another system costs what that hash costs. Until the
// user's first login, which replaces the hash, the time may show that the name exists.
func (f *File) Check(ctx context.Context, name, password string) (User, error) {
	if len(password) > MaxPassword {
		return User{}, ErrPasswordTooLong
	}
	all := f.live.Get()
	r, hash := all.lookup(name), f.dummy
	if r != nil {
		hash = r.Hash
	}
	var (
		match bool
		err   error
		fresh string // hash that replaces bcrypt, or a hash made with other parameters
	)
	if busy := f.limit.do(ctx, func() {
		match, err = compare(password, hash)
		match = match && r != nil && !r.Disabled
		if err == nil && match && r.params != f.params && f.readOnly.Load() != all {
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
		f.rehash(ctx, all, r, fresh)
	}
	return r.user(), nil
}

// hash makes a hash with the current parameters. The caller has a slot of the limiter.
func (f *File) hash(password string) (string, error) {
	return argon2id.CreateHash(password, &f.params)
}

// Lookup returns the user of that subject, or [ErrUnknown] if there is none or the user
// is disabled.
func (f *File) Lookup(_ context.Context, subject string) (User, error) {
	r := f.live.Get().find(subject)
	if r == nil || r.Disabled {
		return User{}, ErrUnknown
	}
	return r.user(), nil
}

func (f *File) lookup(name string) *record { return f.live.Get().lookup(name) }

func (t *table) lookup(name string) *record {
	name, err := Normalize(name)
	if err != nil {
		return nil
	}
	return t.find(name)
}

// Empty reports whether there is no user.
func (f *File) Empty() bool { return len(f.live.Get().byName) == 0 }

// Stale returns why the file on disk is not the one in use, or nil. It may read the
// file, like any other use.
func (f *File) Stale() error { return f.live.Stale() }

// Reload looks at the file now. Otherwise a file is looked at once a second at most.
func (f *File) Reload() { f.live.Reload() }

// Generation returns a number that grows when other users come into use.
func (f *File) Generation() uint64 { return f.live.Generation() }

// RestAfter keeps a core free of hashes for a while after each hash. rest returns for how
// long after a hash that took that time; half a second is the most. Call it before the
// first Check.
func (f *File) RestAfter(rest func(took time.Duration) time.Duration) { f.limit.rest = rest }

// Stats are counters and gauges of the hashing.
type Stats struct {
	Hashes  uint64 // checks that began, also those for unknown names
	Busy    uint64 // calls that were refused with [ErrBusy]
	Running int    // hashes at this instant, at most Limit
	Waiting int    // calls in the queue at this instant, at most 8 × Limit
	Limit   int
	Memory  int64 // the most bytes that one hash takes, with the parameters in the file
}

// Stats returns the numbers of this instant.
func (f *File) Stats() Stats {
	return Stats{
		Hashes: f.limit.hashes.Load(), Busy: f.limit.busy.Load(),
		Running: len(f.limit.slots), Waiting: int(f.limit.waiting.Load()), Limit: cap(f.limit.slots),
		Memory: int64(max(f.params.Memory, f.live.Get().memory)) << 10,
	}
}

// LogValue keeps the users out of logs.
func (f *File) LogValue() slog.Value { return slog.StringValue(f.path) }

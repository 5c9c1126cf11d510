package users

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"signet/internal/durable"
)

// lockWait is how long an edit waits for another one to end.
const lockWait = 10 * time.Second

// Account is a user as an administrator sees it.
type Account struct {
	User
	Disabled bool
}

// List returns all users in the order of the file.
func (f *File) List() []Account {
	var list []Account
	for _, l := range f.live.Get().lines {
		if r := l.user; r != nil {
			list = append(list, Account{r.user(), r.Disabled})
		}
	}
	return list
}

// Find returns the user of that name, disabled or not.
func (f *File) Find(name string) (Account, bool) {
	r := f.lookup(name)
	if r == nil {
		return Account{}, false
	}
	return Account{r.user(), r.Disabled}, true
}

// Add writes a new user: its name, e-mail, display name and scopes come from u. It
// returns the user as it can sign in from now on. The caller asks [CheckPassword] before.
func (f *File) Add(ctx context.Context, u User, password string) (User, error) {
	name, err := CheckName(u.Name)
	if err != nil {
		return User{}, err
	}
	if f.live.Get().find(name) != nil { // before the hash; again under the lock
		return User{}, alreadyThere(name)
	}
	hash, err := f.hashNew(ctx, password)
	if err != nil {
		return User{}, err
	}
	r := &record{Name: name, Hash: hash, Email: u.Email, DisplayName: u.DisplayName, Scopes: u.Scopes, Version: newVersion()}
	err = f.edit(ctx, lockWait, func(t *table) error {
		if t.find(name) != nil {
			return alreadyThere(name)
		}
		return t.put(r)
	})
	return r.user(), err
}

func alreadyThere(name string) error { return fmt.Errorf("there is a user %s already", name) }

// Passwd sets another password for an administrator. The caller asks [CheckPassword]
// before. Sessions and grants that began with the old password end.
func (f *File) Passwd(ctx context.Context, name, password string) error {
	if f.lookup(name) == nil {
		return fmt.Errorf("%w: %q", ErrUnknown, name)
	}
	hash, err := f.hashNew(ctx, password)
	if err != nil {
		return err
	}
	return f.change(ctx, name, func(r *record) error {
		r.Hash, r.Version = hash, newVersion()
		return nil
	})
}

// ChangePassword sets another password for the user of that subject, who has to know
// the current password. It returns the user with the version that the user's sessions
// must have from now on. words are for [CheckPassword], besides those in the file.
//
// It returns [ErrInvalid] when old is wrong, a [PasswordError] when next is refused,
// [ErrUnknown], [ErrBusy], or [ErrReadOnly] when the file cannot be written.
func (f *File) ChangePassword(ctx context.Context, subject, old, next string, words ...string) (User, error) {
	if len(old) > MaxPassword {
		return User{}, ErrPasswordTooLong
	}
	r := f.live.Get().find(subject)
	if r == nil || r.Disabled {
		return User{}, ErrUnknown
	}
	if err := CheckPassword(next, append(words, r.Name, r.Email, r.DisplayName)...); err != nil {
		return User{}, err
	}
	hash, err := f.hashInstead(ctx, r, old, next)
	if err != nil {
		return User{}, err
	}
	var changed User
	err = f.change(ctx, subject, func(now *record) error {
		if now.Version != r.Version { // it was changed or disabled meanwhile
			return ErrInvalid
		}
		now.Hash, now.Version = hash, newVersion()
		changed = now.user()
		return nil
	})
	if err != nil {
		return User{}, readOnly(err)
	}
	return changed, nil
}

// readOnly adds [ErrReadOnly] to an error that says that the file cannot be written.
func readOnly(err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	}
	return err
}

// SignOut ends every session and grant of the user of that subject; the password stays.
// It returns [ErrUnknown], or [ErrReadOnly] when the file cannot be written.
func (f *File) SignOut(ctx context.Context, subject string) error {
	return readOnly(f.change(ctx, subject, func(r *record) error {
		r.Version = newVersion()
		return nil
	}))
}

// hashInstead returns a hash of next if old is the password of r. Both run in one turn of
// the limiter.
func (f *File) hashInstead(ctx context.Context, r *record, old, next string) (hash string, err error) {
	busy := f.limit.do(ctx, func() {
		var match bool
		switch match, err = compare(old, r.Hash); {
		case err != nil:
		case !match:
			err = ErrInvalid
		case old == next:
			err = PasswordError("that is the current password")
		default:
			hash, err = f.hash(next)
		}
	})
	return hash, errors.Join(busy, err)
}

// SetDisabled disables a user and ends its sessions and grants, or enables it again.
func (f *File) SetDisabled(ctx context.Context, name string, disabled bool) error {
	return f.change(ctx, name, func(r *record) error {
		if r.Disabled == disabled {
			return errUnchanged
		}
		r.Disabled, r.Version = disabled, newVersion()
		return nil
	})
}

// Remove removes a user from the file. A user added later under the same name has none of
// the sessions and grants of the removed one.
func (f *File) Remove(ctx context.Context, name string) error {
	key, err := Normalize(name)
	if err != nil {
		return err
	}
	return f.edit(ctx, lockWait, func(t *table) error {
		if t.find(key) == nil {
			return fmt.Errorf("%w: %q", ErrUnknown, name)
		}
		t.remove(key)
		return nil
	})
}

func (f *File) hashNew(ctx context.Context, password string) (hash string, err error) {
	if password == "" {
		return "", errors.New("the password is empty")
	}
	if len(password) > MaxPassword {
		return "", ErrPasswordTooLong
	}
	busy := f.limit.do(ctx, func() { hash, err = f.hash(password) })
	return hash, errors.Join(busy, err)
}

// rehash replaces the hash that r has, unless it was replaced meanwhile. The version
// stays: it is the same password. The login succeeded already, so a failure is no error;
// a file that cannot be written is not tried again until it changes.
func (f *File) rehash(ctx context.Context, all *table, r *record, hash string) {
	err := f.edit(ctx, 0, func(t *table) error {
		now := t.find(r.Name)
		if now == nil || now.Hash != r.Hash {
			return errUnchanged
		}
		changed := *now
		changed.Hash = hash
		return t.put(&changed)
	})
	if err != nil && !errors.Is(err, durable.ErrLocked) {
		f.readOnly.Store(all)
	}
}

func (f *File) change(ctx context.Context, name string, fn func(*record) error) error {
	key, err := Normalize(name)
	if err != nil {
		return err
	}
	return f.edit(ctx, lockWait, func(t *table) error {
		r := t.find(key)
		if r == nil {
			return fmt.Errorf("%w: %q", ErrUnknown, name)
		}
		changed := *r
		if err := fn(&changed); err != nil {
			return err
		}
		return t.put(&changed)
	})
}

var errUnchanged = errors.New("nothing to change") // of an edit: nothing is written

// edit applies fn to the file as it is now and writes the result whole. Other edits,
// also of other processes, come before or after, never between.
func (f *File) edit(ctx context.Context, wait time.Duration, fn func(*table) error) error {
	err := f.access.Edit(ctx, f.path, maxFile, wait, func(old []byte) ([]byte, error) {
		t, err := parseNamed(f.path, old)
		if err != nil {
			return nil, err
		}
		if err := fn(t); err != nil {
			return nil, err
		}
		return t.encode(), nil
	})
	if errors.Is(err, errUnchanged) {
		return nil
	}
	if err == nil {
		f.live.Reload()
	}
	return err
}

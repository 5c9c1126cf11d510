// Package users knows the resource owners: who may sign in, with which password,
// and whether they still may when their grant is refreshed.
//
// There are two sources. [File] is a file of argon2id hashes, one user a line, that
// the command line edits and the server reads again when it changes. [CheckFunc] is
// a program's own check. Both keep to the same rule: no list of users never means
// that everybody may sign in.
package users

import (
	"context"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// MaxPassword is the longest password that is looked at, in bytes. Whatever is longer
// costs no hash (OAuth 2.1 §7.11 leaves the number to us).
const MaxPassword = 1024

// maxName is the longest normalised name, in bytes.
const maxName = 128

// What a caller branches on.
var (
	// ErrInvalid says that name and password do not belong together, without saying
	// which of them is wrong.
	ErrInvalid = errors.New("invalid name or password")

	// ErrBusy says that too many logins wait already: the answer is 503, later.
	ErrBusy = errors.New("too many logins at once")

	// ErrPasswordTooLong says that the password exceeds [MaxPassword].
	ErrPasswordTooLong error = PasswordError("the password is longer than 1024 bytes")

	// ErrUnknown says that there is no such user any more, or that it is disabled.
	ErrUnknown = errors.New("no such user")

	// ErrReadOnly says that the program may not write the users file.
	ErrReadOnly = errors.New("the users file cannot be written")
)

// User is a resource owner.
type User struct {
	Subject     string   // the sub of tokens; in the file it is the name
	Name        string   // what the user signs in with
	Email       string   // may be empty
	DisplayName string   // may be empty
	Scopes      []string // the user's own; nil means the server's defaults
	Version     string   // moves with the password and with disabling; empty when the source has none
}

// CheckFunc is a program's own check of a name and a password. It returns
// [ErrInvalid] when they are wrong; any other error means that it could not tell.
// It may be called by many requests at once and limits itself.
type CheckFunc func(ctx context.Context, name, password string) (User, error)

// Check calls f. A user without a subject is an error, not a login.
func (f CheckFunc) Check(ctx context.Context, name, password string) (User, error) {
	if len(password) > MaxPassword {
		return User{}, ErrPasswordTooLong
	}
	u, err := f(ctx, name, password)
	if err != nil {
		return User{}, err
	}
	if u.Subject == "" {
		return User{}, errors.New("the user check returned a user without a subject")
	}
	if u.Name == "" {
		u.Name = name
	}
	u.Version = "" // Lookup could not tell it
	return u, nil
}

// Lookup believes the subject and knows no more: a function that checks passwords
// cannot be asked whether a user is still there, nor under which name.
func (f CheckFunc) Lookup(_ context.Context, subject string) (User, error) {
	return User{Subject: subject}, nil
}

// Normalize returns the form of a login name under which it is looked up, counted
// and used as a subject: trimmed, in lower case, NFC. An error says what makes it no
// name at all.
func Normalize(name string) (string, error) {
	switch {
	case len(name) > 8*maxName: // not worth normalising
		return "", errors.New("the name is longer than 128 bytes")
	case !utf8.ValidString(name):
		return "", errors.New("the name is not UTF-8")
	}
	// Lower case may compose anew, so NFC comes last too.
	name = norm.NFC.String(strings.ToLower(norm.NFC.String(strings.TrimSpace(name))))
	switch {
	case name == "":
		return "", errors.New("the name is empty")
	case len(name) > maxName:
		return "", errors.New("the name is longer than 128 bytes")
	case strings.ContainsFunc(name, invisible):
		return "", errors.New("the name has control or invisible characters")
	}
	return name, nil
}

// invisible reports whether r shows as nothing, or changes how its neighbours show.
func invisible(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
}

// Package users knows the resource owners: it checks their passwords at login, and
// whether they may still use the server when a grant is refreshed.
//
// There are two sources. [File] is a file of argon2id hashes, one user a line, that
// the command line edits and the server reads again when it changes. [CheckFunc] is
// a program's own check. The same rule holds for both: without a list of users no user
// may sign in.
package users

import (
	"context"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// MaxPassword is the longest password that is checked, in bytes. A longer one costs no
// hash (OAuth 2.1 §7.11 leaves the number to the server).
const MaxPassword = 1024

// maxName is the longest normalised name, in bytes.
const maxName = 128

// UpstreamPrefix begins the subjects of users who sign in by a provider elsewhere. No other user
// has such a subject.
const UpstreamPrefix = "upstream:"

// GatewayPrefix begins the subjects of credentials that the gateway has for itself. No user has
// such a subject.
const GatewayPrefix = "gateway:"

// Errors that a caller branches on.
var (
	// ErrInvalid says that the name or the password is wrong, without saying which.
	ErrInvalid = errors.New("invalid name or password")

	// ErrBusy says that too many logins are waiting: the caller may try again later (503).
	ErrBusy = errors.New("too many logins at once")

	// ErrPasswordTooLong says that the password exceeds [MaxPassword].
	ErrPasswordTooLong error = PasswordError("the password is longer than 1024 bytes")

	// ErrUnknown says that there is no such user, or that the user is disabled.
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
	Picture     string   // an https URL; may be empty
	Scopes      []string // that the user may grant; nil means the server's defaults; an empty list, which only users of upstreams have, means none
	Updated     int64    // when the account was last changed, in Unix seconds; 0 if that is not known
	Version     string   // changes with the password and with disabling; empty if the source has no versions
}

// CheckFunc is a program's own check of a name and a password. It returns
// [ErrInvalid] when they are wrong; any other error means that the check failed. It may
// be called by many requests at once, and limits its own work.
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
	if why := reserved(u.Subject); why != "" {
		return User{}, errors.New("the user check returned a subject that begins with " + why)
	}
	if u.Name == "" {
		u.Name = name
	}
	u.Version = "" // Lookup does not know versions
	if len(u.Scopes) == 0 {
		u.Scopes = nil
	}
	return u, nil
}

// Lookup returns a user of that subject in any case: a function that checks passwords
// does not tell whether a user still exists, or under which name.
func (f CheckFunc) Lookup(_ context.Context, subject string) (User, error) {
	return User{Subject: subject}, nil
}

// Normalize returns the form of a login name that is used for looking it up, for
// counting failed logins and as the subject: trimmed, in lower case, NFC. An error says
// why the text is not a name.
func Normalize(name string) (string, error) {
	switch {
	case len(name) > 8*maxName: // not worth normalising
		return "", errors.New("the name is longer than 128 bytes")
	case !utf8.ValidString(name):
		return "", errors.New("the name is not UTF-8")
	}
	// Lower case may need composing again, so NFC is also the last step.
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

// reserved says of a subject that only others may have what it begins with, or returns "".
func reserved(subject string) string {
	switch {
	case strings.HasPrefix(subject, UpstreamPrefix):
		return UpstreamPrefix + ", which is reserved for users who sign in by a provider"
	case strings.HasPrefix(subject, GatewayPrefix):
		return GatewayPrefix + ", which is reserved for the gateway"
	}
	return ""
}

// CheckName is [Normalize] for a name of the users file, which must not be reserved either.
func CheckName(name string) (string, error) {
	name, err := Normalize(name)
	if why := reserved(name); err == nil && why != "" {
		return "", errors.New("the name begins with " + why)
	}
	return name, err
}

// invisible reports whether r is not displayed, or changes how other characters are.
func invisible(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
}

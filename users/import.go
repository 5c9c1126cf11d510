package users

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"
)

const (
	maxImport = 64 << 20 // bytes
	maxFaults = 10       // that one error names
)

// ImportOptions say what [File.Import] does with the users it reads.
type ImportOptions struct {
	Plaintext    bool     // lines may have passwords in clear; else only hashes are taken
	Scopes       []string // of each user; nil means the server's defaults
	SkipExisting bool     // leave a user that exists as it is; else it is an error
	Words        []string // for [CheckPassword], besides the name

	Refuse func(name string) error // optional: says why a name must not become a user's

	// Begin is called, if it is not nil, once all lines are understood and before anything
	// is hashed or written, with the numbers of passwords in clear and of hashes to add.
	Begin func(passwords, hashes int)
}

// Imported is a user that [File.Import] read.
type Imported struct {
	User
	Disabled bool
	Skipped  bool   // a user of that name existed, and is unchanged
	Clear    bool   // the file has the password in clear
	Hash     string // bcrypt or argon2id; a hash of the file is kept until the first login
	Weak     error  // why [CheckPassword] refuses the password; nil for a hash
}

// Import adds the users of another system: lines of name:hash, as in an htpasswd file, with
// hashes of bcrypt or argon2id, a users file of Authelia with such hashes, or lines of
// name:password in clear if the options say so. Either all users are added or none is. An
// error names the wrong lines of the file, which is called from, and holds nothing of a
// password.
//
// What looks like the hash of another program is never taken for a password. Weak passwords
// are accepted, because their users must be able to sign in.
func (f *File) Import(ctx context.Context, from string, r io.Reader, o ImportOptions) ([]Imported, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxImport+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", from, err)
	}
	if len(text) > maxImport {
		return nil, fmt.Errorf("%s is larger than %d MiB", from, maxImport>>20)
	}
	entries, wrong := parseImport(text, o.Plaintext)
	wrong = append(wrong, meet(entries, f.lookup, o)...) // before the hashes; again under the lock
	if len(wrong) > 0 {
		return nil, wrong.of(from)
	}
	if o.Begin != nil {
		o.Begin(count(entries))
	}
	if err := f.hashImport(ctx, entries, o); err != nil {
		return nil, err
	}
	if err := f.edit(ctx, lockWait, func(t *table) error { return t.putImport(entries, from, o) }); err != nil {
		return nil, err
	}
	all := make([]Imported, len(entries))
	for i, e := range entries {
		all[i] = e.Imported
	}
	return all, nil
}

// count counts the users that will be added.
func count(entries []*entry) (passwords, hashes int) {
	for _, e := range entries {
		switch {
		case e.Skipped:
		case e.Clear:
			passwords++
		default:
			hashes++
		}
	}
	return passwords, hashes
}

// entry is a user of a file to import, with a password or a hash.
type entry struct {
	Imported
	line           int
	password, hash string
}

// faults are the faults of the lines of a file.
type faults []lineError

func (f faults) of(file string) error {
	var all []error
	for _, e := range f[:min(len(f), maxFaults)] {
		all = append(all, fmt.Errorf("%s:%w", file, e))
	}
	if more := len(f) - len(all); more > 0 {
		all = append(all, fmt.Errorf("and %d more", more))
	}
	return errors.Join(all...)
}

// parseImport reads a file to import.
func parseImport(text []byte, plaintext bool) (entries []*entry, wrong faults) {
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	var all []parsed
	if isYAML(text) {
		all = parseYAML(text)
	} else {
		all = parseLines(text, plaintext)
	}
	first := map[string]int{}
	for _, p := range all {
		if p.err == nil && first[p.Name] > 0 {
			p.err = fmt.Errorf("the same user as in line %d", first[p.Name])
		}
		if p.err != nil {
			wrong = append(wrong, lineError{p.line, p.err})
			continue
		}
		first[p.Name] = p.line
		entries = append(entries, p.entry)
	}
	return entries, wrong
}

// parsed is what one line holds: a user, or a fault.
type parsed struct {
	*entry
	line int
	err  error
}

// parseLines reads lines that end with LF, CRLF or CR. A line that is blank or begins with
// # is ignored, as htpasswd does.
func parseLines(text []byte, plaintext bool) (all []parsed) {
	n := 0
	for len(text) > 0 {
		n++
		end := bytes.IndexAny(text, "\r\n")
		line, rest := text, []byte(nil)
		if end >= 0 {
			line, rest = text[:end], text[end+1:]
			if text[end] == '\r' && len(rest) > 0 && rest[0] == '\n' {
				rest = rest[1:]
			}
		}
		text = rest
		if len(bytes.TrimSpace(line)) == 0 || line[0] == '#' {
			continue
		}
		e, err := parseEntry(line, plaintext)
		if err == nil {
			e.line = n
		}
		all = append(all, parsed{e, n, err})
	}
	return all
}

func parseEntry(line []byte, plaintext bool) (*entry, error) {
	switch {
	case line[0] == '{':
		return nil, errors.New("not name:password; a users file of Signet needs no import")
	case !utf8.Valid(line):
		return nil, errors.New("not UTF-8; convert the file first, for example with iconv")
	}
	name, secret, ok := strings.Cut(string(line), ":")
	switch {
	case strings.ContainsAny(name[:min(len(name), 1)], "\"'`") || strings.HasPrefix(name, "- "):
		return nil, errors.New("a quote or a dash before the name; lines are name:password, without quotes")
	case !ok:
		return nil, errors.New("no colon, as in name:password")
	case notUser(name, secret):
		return nil, errors.New("a heading, or a line of LDIF or YAML; lines are name:password")
	}
	name, err := CheckName(name)
	if err != nil {
		return nil, err
	}
	e := &entry{Imported: Imported{User: User{Subject: name, Name: name}}}
	known, err := e.takeHash(unquoted(secret))
	if known || err != nil {
		return e, err
	}
	return e, e.takePassword(secret, plaintext)
}

// notUser reports a line of another format that has the form name:password.
func notUser(name, secret string) bool {
	name, secret = strings.ToLower(strings.TrimSpace(name)), strings.ToLower(strings.TrimSpace(secret))
	switch name {
	case "dn", "objectclass", "userpassword", "changetype", "version", "services", "users", "authentication_backend":
		return true
	case "user", "username", "name", "login":
		return slices.Contains([]string{"password", "pass", "passwd", "hash", "password_hash", "password hash", "pwd"}, secret)
	}
	return false
}

// unquoted returns text without quotes around it.
func unquoted(text string) string {
	if n := len(text); n >= 2 && text[0] == text[n-1] && strings.ContainsAny(text[:1], "\"'`") {
		return text[1 : n-1]
	}
	return text
}

// takeHash keeps a hash that logins can check.
func (e *entry) takeHash(hash string) (known bool, err error) {
	switch {
	case isBcrypt(hash):
		e.hash, e.Hash = hash, "bcrypt"
		return true, checkBcrypt(hash)
	case argonForm.MatchString(hash):
		e.hash, e.Hash = hash, "argon2id"
		_, err := parseHash(hash)
		return true, err
	}
	if kind := foreignHash(unquoted(strings.TrimSpace(hash))); kind != "" {
		return false, fmt.Errorf("this looks like %s; only bcrypt and argon2id hashes can be imported, such as those of htpasswd -B (if it is the password itself, use `signet user add`)", kind)
	}
	return false, nil
}

func (e *entry) takePassword(secret string, plaintext bool) error {
	switch {
	case secret == "":
		return errors.New("the password is empty")
	case !plaintext:
		return errors.New("no hash of bcrypt or argon2id; if the file has passwords in clear, import it with --plaintext")
	case unquoted(secret) != secret:
		return errors.New("the password is in quotes; remove them, or use `signet user add` if they belong to it")
	case strings.ContainsFunc(secret, func(r rune) bool {
		return r != '\t' && unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp) || r == '\ufeff'
	}):
		return errors.New("the password has control characters")
	case len(secret) > MaxPassword:
		return ErrPasswordTooLong
	}
	e.password, e.Clear, e.Hash = secret, true, "argon2id"
	return nil
}

// meet notes which of the users exist already.
func meet(entries []*entry, find func(string) *record, o ImportOptions) (wrong faults) {
	for _, e := range entries {
		var refused error
		if o.Refuse != nil {
			refused = o.Refuse(e.Name)
		}
		switch {
		case refused != nil:
			wrong = append(wrong, lineError{e.line, refused})
		case find(e.Name) == nil:
		case o.SkipExisting:
			e.Skipped = true
		default:
			wrong = append(wrong, lineError{e.line, alreadyThere(e.Name)})
		}
	}
	return wrong
}

// hashImport hashes the passwords, as many at once as the limiter allows.
func (f *File) hashImport(ctx context.Context, entries []*entry, o ImportOptions) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(cap(f.limit.slots))
	for _, e := range entries {
		if e.Skipped || !e.Clear {
			continue
		}
		g.Go(func() (err error) {
			e.Weak = CheckPassword(e.password, append([]string{e.Name}, o.Words...)...)
			e.hash, err = f.hashNew(ctx, e.password)
			return err
		})
	}
	return g.Wait()
}

func (t *table) putImport(entries []*entry, from string, o ImportOptions) error {
	if wrong := meet(entries, t.find, o); len(wrong) > 0 {
		return wrong.of(from)
	}
	err := errUnchanged
	for _, e := range entries {
		if e.Skipped {
			continue
		}
		e.Scopes, e.Version = o.Scopes, newVersion()
		r := &record{Name: e.Name, Hash: e.hash, Email: e.Email, DisplayName: e.DisplayName, Scopes: e.Scopes, Disabled: e.Disabled, Version: e.Version}
		if wrong := t.put(r); wrong != nil {
			return wrong
		}
		err = nil
	}
	return err
}

package users

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"regexp"
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
	Scopes       []string // of each user; nil means the server's defaults
	SkipExisting bool     // leave a user that exists as it is; else it is an error
	Words        []string // for [CheckPassword], besides the name
}

// Imported is a user that [File.Import] read.
type Imported struct {
	User
	Skipped bool  // a user of that name existed, and is unchanged
	Bcrypt  bool  // the hash was kept; the first login replaces it
	Weak    error // why [CheckPassword] refuses the password; nil for a hash
}

// Import adds the users of another system: lines of name:password in clear, or
// htpasswd's with bcrypt hashes. Either all are added or none is. An error names the
// wrong lines of the file, which is called from, and holds nothing of a password.
//
// Weak passwords are accepted, because their users must be able to sign in.
func (f *File) Import(ctx context.Context, from string, r io.Reader, o ImportOptions) ([]Imported, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxImport+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", from, err)
	}
	if len(text) > maxImport {
		return nil, fmt.Errorf("%s is larger than %d MiB", from, maxImport>>20)
	}
	entries, wrong := parseImport(text)
	wrong = append(wrong, meet(entries, f.lookup, o)...) // before the hashes; again under the lock
	if len(wrong) > 0 {
		return nil, wrong.of(from)
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

// entry is a line of a file to import: a password or a bcrypt hash.
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

// parseImport reads a file to import. A line that is blank or begins with # is
// ignored, as htpasswd does.
func parseImport(text []byte) (entries []*entry, wrong faults) {
	first := map[string]int{}
	n := 0
	for line := range bytes.Lines(bytes.TrimPrefix(text, []byte("\ufeff"))) {
		n++
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		if len(bytes.TrimSpace(line)) == 0 || line[0] == '#' {
			continue
		}
		e, err := parseEntry(line)
		if err == nil && first[e.Name] > 0 {
			err = fmt.Errorf("the same user as in line %d", first[e.Name])
		}
		if err != nil {
			wrong = append(wrong, lineError{n, err})
			continue
		}
		e.line, first[e.Name] = n, n
		entries = append(entries, e)
	}
	return entries, wrong
}

func parseEntry(line []byte) (*entry, error) {
	switch {
	case line[0] == '{':
		return nil, errors.New("not name:password; a users file of Signet needs no import")
	case !utf8.Valid(line):
		return nil, errors.New("not UTF-8; convert the file first, for example with iconv")
	}
	name, secret, ok := strings.Cut(string(line), ":")
	if !ok {
		return nil, errors.New("no colon, as in name:password")
	}
	name, err := Normalize(name)
	if err != nil {
		return nil, err
	}
	e := &entry{Imported: Imported{User: User{Subject: name, Name: name}}}
	switch kind := foreignHash(secret); {
	case isBcrypt(secret):
		e.hash, e.Bcrypt = secret, true
		return e, checkBcrypt(secret)
	case kind != "":
		return nil, fmt.Errorf("this looks like %s; only bcrypt hashes can be imported, such as those of htpasswd -B (if it is the password itself, use `signet user add`)", kind)
	case secret == "":
		return nil, errors.New("the password is empty")
	case len(secret) > MaxPassword:
		return nil, ErrPasswordTooLong
	}
	e.password = secret
	return e, nil
}

// foreign are hashes that cannot be checked here. If they were taken for passwords, a
// reader of the file could sign in with them.
var foreign = []struct {
	form *regexp.Regexp
	what string
}{
	{regexp.MustCompile(`^\$2.?\$`), "a bcrypt hash that is damaged, or of the broken kind 2x"},
	{regexp.MustCompile(`^\$apr1\$`), "htpasswd's MD5 (apr1)"},
	{regexp.MustCompile(`^\$[1567y]\$`), "a hash of crypt"},
	{regexp.MustCompile(`^\$[0-9a-z-]+\$`), "a hash of another kind"},
	{regexp.MustCompile(`^\{[0-9A-Z.-]+\}`), "a hash like {SHA}"},
	{regexp.MustCompile(`^[^:]*:[0-9a-f]{32}$`), "a line of htdigest"},
}

// crypt is the form of the oldest crypt. Its last character holds four bits only.
var crypt = regexp.MustCompile(`^[./0-9A-Za-z]{12}[.26AEIMQUYcgkosw]$`)

func foreignHash(secret string) (kind string) {
	for _, f := range foreign {
		if f.form.MatchString(secret) {
			return f.what
		}
	}
	if crypt.MatchString(secret) && strings.ContainsFunc(secret, unicode.IsUpper) && strings.ContainsFunc(secret, unicode.IsLower) {
		return "a hash of crypt" // all but one in a thousand have letters of both cases
	}
	return ""
}

// meet notes which of the users exist already.
func meet(entries []*entry, find func(string) *record, o ImportOptions) (wrong faults) {
	for _, e := range entries {
		switch {
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
		if e.Skipped || e.Bcrypt {
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
		e.Scopes, e.Version = o.Scopes, rand.Text()
		r := &record{Name: e.Name, Hash: e.hash, Scopes: e.Scopes, Version: e.Version}
		if wrong := t.put(r); wrong != nil {
			return wrong
		}
		err = nil
	}
	return err
}

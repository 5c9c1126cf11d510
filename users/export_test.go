package users

import "github.com/alexedwards/argon2id"

// UseParams makes hashes with other parameters, cheap ones for most tests.
func (f *File) UseParams(memory, iterations uint32) {
	f.useParams(argon2id.Params{Memory: memory, Iterations: iterations, Parallelism: 1, SaltLength: 16, KeyLength: 32})
}

// DummyHash is what the password of an unknown user is compared with.
func (f *File) DummyHash() string { return f.dummy }

// SetLimit lets n hashes run at once.
func (f *File) SetLimit(n int) {
	rest := f.limit.rest
	f.limit = newLimiter(n)
	f.limit.rest = rest
}

// Occupy takes a slot of the limiter until release is called.
func (f *File) Occupy() (release func()) {
	f.limit.slots <- struct{}{}
	return func() { <-f.limit.slots }
}

// RoundTrip parses a users file and returns its users, and those of the text that it
// encodes to.
func RoundTrip(b []byte) (got, again []Account, err error) {
	list := func(t *table) (all []Account) {
		for _, l := range t.lines {
			if l.user != nil {
				all = append(all, Account{l.user.user(), l.user.Disabled})
			}
		}
		return all
	}
	t, err := parse(b)
	if err != nil {
		return nil, nil, err
	}
	got = list(t)
	for _, a := range got {
		if err := t.put(t.find(a.Name)); err != nil {
			return got, nil, nil
		}
	}
	u, err := parse(t.encode())
	if err != nil {
		return got, nil, nil
	}
	return got, list(u), nil
}

// ParseHash returns the parameters of a PHC string.
func ParseHash(s string) (argon2id.Params, error) { return parseHash(s) }

// ParseImport returns the users of a file to import and their passwords, which are
// empty for those with hashes.
func ParseImport(text []byte) (all []Imported, passwords []string, err error) {
	entries, wrong := parseImport(text, true)
	for _, e := range entries {
		all, passwords = append(all, e.Imported), append(passwords, e.password)
	}
	if len(wrong) > 0 {
		err = wrong.of("file")
	}
	return all, passwords, err
}

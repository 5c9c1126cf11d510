package users

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/alexedwards/argon2id"

	"signet/internal/durable"
)

const (
	maxFile = 256 << 20 // bytes
	maxLine = 16 << 10
)

// record is a user as a line of the file has it.
type record struct {
	Name        string   `json:"name"`
	Hash        string   `json:"hash"` // argon2id in PHC string format, or bcrypt
	Email       string   `json:"email,omitempty"`
	DisplayName string   `json:"display_name,omitempty"`
	Scopes      []string `json:"scopes,omitempty"`
	Disabled    bool     `json:"disabled,omitempty"`
	Version     string   `json:"version,omitempty"`

	params argon2id.Params // of the hash; none of bcrypt
}

var recordJSON = durable.NewJSON[record]()

// user is the public part of r: everything except the hash.
func (r *record) user() User {
	var scopes []string
	if len(r.Scopes) > 0 {
		scopes = slices.Clone(r.Scopes)
	}
	return User{Subject: r.Name, Name: r.Name, Email: r.Email, DisplayName: r.DisplayName, Scopes: scopes, Version: r.Version, Updated: changedAt(r.Version)}
}

// randomSize is the length of what rand.Text returns.
const randomSize = 26

// newVersion makes the version of a user who changes now. The time is a part of it, because an
// earlier release refuses a line with a member that it does not know.
func newVersion() string { return fmt.Sprintf("%s.%d", rand.Text(), time.Now().Unix()) }

// changedAt returns the time of a version that newVersion made, or 0.
func changedAt(version string) int64 {
	random, text, _ := strings.Cut(version, ".")
	at, err := strconv.ParseInt(text, 10, 64)
	if err != nil || at < 0 || len(random) != randomSize { // a version by hand may have any form
		return 0
	}
	return at
}

// table is the content of a file. lines keeps comments and the order of the lines, so
// that an edit changes one line.
type table struct {
	lines  []line
	byName map[string]int // index into lines
	memory uint32         // KiB, the most that one of the hashes takes
}

type line struct {
	text string
	user *record // nil for a comment or a blank line
}

// lineError is a fault of one line of the file.
type lineError struct {
	line int
	what error
}

func (e lineError) Error() string { return fmt.Sprintf("%d: %v", e.line, e.what) }
func (e lineError) Unwrap() error { return e.what }

// parse reads a users file. Its errors quote nothing of the file except for member
// names: the line may hold a password.
func parse(b []byte) (*table, error) {
	t := &table{byName: map[string]int{}}
	n := 0
	for text := range bytes.Lines(b) {
		n++
		text = bytes.TrimRight(text, "\r\n")
		l := line{text: string(text)}
		if body := bytes.TrimSpace(text); len(body) > 0 && body[0] != '#' {
			r, err := parseLine(body)
			if err != nil {
				return nil, lineError{n, err}
			}
			if first, dup := t.byName[r.Name]; dup {
				return nil, lineError{n, fmt.Errorf("the same user as in line %d", first+1)}
			}
			t.byName[r.Name] = len(t.lines)
			t.memory = max(t.memory, r.params.Memory)
			l.user = r
		}
		t.lines = append(t.lines, l)
	}
	return t, nil
}

var errClearText = errors.New("not a line of a users file; if it has passwords in clear, as in name:password, hash them with `signet user import --plaintext`")

func parseLine(b []byte) (*record, error) {
	if len(b) > maxLine {
		return nil, fmt.Errorf("the line is longer than %d bytes", maxLine)
	}
	if b[0] != '{' {
		return nil, errClearText
	}
	value, err := recordJSON.Parse(b)
	if err != nil {
		return nil, err
	}
	r := &value
	if r.Name, err = CheckName(r.Name); err != nil {
		return nil, err
	}
	if isBcrypt(r.Hash) {
		err = checkBcrypt(r.Hash)
	} else {
		r.params, err = parseHash(r.Hash)
	}
	if err != nil {
		return nil, err
	}
	if r.Version == "" {
		// A line written by hand: the version changes with the hash.
		sum := sha256.Sum256([]byte(r.Hash))
		r.Version = hex.EncodeToString(sum[:8])
	}
	return r, r.checkText()
}

// checkText checks the texts that get into tokens and onto pages.
func (r *record) checkText() error {
	for name, text := range map[string]string{"email": r.Email, "display_name": r.DisplayName, "version": r.Version} {
		if len(text) > 256 {
			return fmt.Errorf("%s is longer than 256 bytes", name)
		}
		if strings.ContainsFunc(text, unicode.IsControl) {
			return fmt.Errorf("%s has control characters", name)
		}
	}
	for _, s := range r.Scopes {
		if s == "" || strings.ContainsFunc(s, notScope) {
			return errors.New("a scope is empty, or has characters that a scope cannot have")
		}
	}
	return nil
}

// notScope reports a character that no scope has (RFC 6749 §3.3).
func notScope(c rune) bool { return c <= ' ' || c >= 0x7f || c == '"' || c == '\\' }

// parseHash returns the parameters of a PHC string. They come from the file and decide
// what a login costs, so they have bounds.
func parseHash(phc string) (argon2id.Params, error) {
	p, salt, key, err := argon2id.DecodeHash(phc)
	if err != nil || phc != formatHash(p, salt, key) { // the library accepts trailing text
		return argon2id.Params{}, errors.New("hash is neither argon2id in PHC string format nor bcrypt")
	}
	for _, b := range []struct {
		name          string
		value, lo, hi uint32
	}{
		{"p", uint32(p.Parallelism), 1, 16},
		{"m", p.Memory, 8 * uint32(p.Parallelism), 1 << 20}, // KiB; RFC 9106 §3.1
		{"t", p.Iterations, 1, 16},
		{"the salt's length", p.SaltLength, 8, 64},
		{"the key's length", p.KeyLength, 16, 64},
	} {
		if b.value < b.lo || b.value > b.hi {
			return argon2id.Params{}, fmt.Errorf("hash: %s is %d, not between %d and %d", b.name, b.value, b.lo, b.hi)
		}
	}
	return *p, nil
}

// encode is the text of the file. It is never empty: a server would take an empty file for
// one that is being written.
func (t *table) encode() []byte {
	if len(t.lines) == 0 {
		return []byte("# one user a line\n")
	}
	var b bytes.Buffer
	for _, l := range t.lines {
		b.WriteString(l.text)
		b.WriteByte('\n')
	}
	return b.Bytes()
}

func (t *table) find(name string) *record {
	if i, ok := t.byName[name]; ok {
		return t.lines[i].user
	}
	return nil
}

// put adds r or replaces the line of that name.
func (t *table) put(r *record) error {
	text, err := r.encode()
	if err != nil {
		return err
	}
	i, ok := t.byName[r.Name]
	if !ok {
		i = len(t.lines)
		t.byName[r.Name] = i
		t.lines = append(t.lines, line{})
	}
	t.lines[i] = line{text, r}
	return nil
}

func (r *record) encode() (string, error) {
	if err := r.checkText(); err != nil {
		return "", err
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return "", err
	}
	if b.Len() > maxLine {
		return "", fmt.Errorf("the user takes more than %d bytes", maxLine)
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// remove removes the user; t has to be parsed again before further use.
func (t *table) remove(name string) {
	t.lines = slices.Delete(t.lines, t.byName[name], t.byName[name]+1)
}

package gatewayconfig

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"signet/internal/configfile"
)

// Sealed is a value that was sealed under the root secret.
type Sealed struct {
	Value string
	At    time.Time // zero: not known
	Old   bool      // sealed under a root secret that will not open it for ever
}

// ErrSealed is returned by a Decrypt that cannot open a value, because it was not sealed under the
// root secret.
var ErrSealed = errors.New("not sealed under the root secret")

// ErrSkip is returned by a Decrypt that does not try: the value then counts as if the process did
// not need it.
var ErrSkip = errors.New("a sealed value is not looked at")

type sealedValue struct {
	path string
	at   time.Time
}

// form says how a text is read.
type form struct {
	part    Part // that needs the value
	lines   bool // there may be several lines
	empty   bool // the text may be empty
	program bool // file: begins the URL of a program, not the place of the value
	shown   bool // the text is shown, except for what stands elsewhere
}

// address is the form of an address.
var address = form{program: true, shown: true}

// elsewhere is a pattern of texts whose value stands elsewhere.
const elsewhere = `\$\{|^(env|file|enc):`

var elsewherePattern = regexp.MustCompile(elsewhere)

func isElsewhere(s string) bool { return elsewherePattern.MatchString(s) }

// text reads a text. Anywhere in it ${VARIABLE} stands for the value of a variable. A whole text
// may be env:VARIABLE, file:PATH or enc:SEALED.
func (r *reader) text(n *yaml.Node, path string, f form) (string, bool) {
	if f.empty && n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str" && n.Value == "" && r.Plain(n, path) {
		return "", true
	}
	scalar := r.Scalar
	if f.lines {
		scalar = r.Lines
	}
	s, ok := scalar(n, path)
	if !ok || !isElsewhere(s) {
		return s, ok
	}
	value, err := r.resolve(s, path, f)
	var away *awayError
	switch {
	case errors.Is(err, ErrSkip), errors.As(err, &away) && !r.needs(f.part):
		r.absent[n] = true
		return "", false
	case err != nil:
		r.Fault(n, path, "%v", err)
		return "", false
	case !utf8.ValidString(value) || strings.ContainsFunc(value, func(c rune) bool { return !(f.lines && (c == '\n' || c == '\r')) && configfile.IsControl(c) }):
		r.Fault(n, path, "has a value with a control character, or one that is not UTF-8")
		return "", false
	}
	return value, true
}

// needs reports whether the process needs the secrets of a part.
func (r *reader) needs(part Part) bool { return part == Whole || r.Part == Whole || r.Part == part }

// awayError says that a value stands elsewhere and is not there.
type awayError struct{ what string }

func (e *awayError) Error() string { return e.what }

func away(format string, args ...any) error { return &awayError{fmt.Sprintf(format, args...)} }

// resolve returns the value of a text that stands elsewhere.
func (r *reader) resolve(s, path string, f form) (value string, err error) {
	name, isVariable := strings.CutPrefix(s, "env:")
	file, isFile := strings.CutPrefix(s, "file:")
	sealed, isSealed := strings.CutPrefix(s, "enc:")
	switch {
	case isVariable:
		value, err = r.variable(name)
	case isFile && f.program:
		return r.expand(s, f)
	case isFile:
		value, err = r.file(file)
	case isSealed:
		value, err = r.open(sealed, path)
	default:
		return r.expand(s, f)
	}
	if err == nil && f.shown {
		r.hidden = append(r.hidden, value)
	}
	return value, err
}

func (r *reader) variable(name string) (string, error) {
	if r.Environ != nil {
		if value, ok := r.Environ(name); ok && value != "" {
			return value, nil
		}
	}
	return "", away("the environment variable %s is not set", configfile.Cut(name, 64))
}

func (r *reader) file(path string) (string, error) {
	if !filepath.IsAbs(path) {
		path = filepath.Join(r.Dir, path)
	}
	value, err := configfile.ReadSecret(path)
	if err != nil {
		return "", away("%v", err)
	}
	return value, nil
}

var variable = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)\}`)

// expand replaces each ${VARIABLE} in s.
func (r *reader) expand(s string, f form) (string, error) {
	if strings.Count(s, "${") != len(variable.FindAllString(s, -1)) {
		return "", errors.New("${ must begin the name of a variable, as in ${NAME}")
	}
	var missing error
	value := variable.ReplaceAllStringFunc(s, func(found string) string {
		value, err := r.variable(found[2 : len(found)-1])
		if err != nil {
			missing = err
		}
		if f.shown && err == nil {
			r.hidden = append(r.hidden, value)
		}
		return value
	})
	return value, missing
}

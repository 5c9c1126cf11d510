package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"regexp"
	"strings"
	"unicode/utf8"

	"signet/internal/durable"
)

// maxDotenv is the length of the longest file of variables, in bytes.
const maxDotenv = 1 << 20

// Environ returns environ, in the form of [os.Environ], with the variables of the file at path
// that environ does not have. There need be no such file, and a folder of that name does not
// count. An error names the file, the line and what is wrong there, and quotes no value; then
// environ is returned as it is.
//
// The file obeys the rule of [durable.Access]: others may not write it, and may not read it
// either if there is a secret in it.
func Environ(environ []string, path string) ([]string, error) {
	if !isThere(path) {
		return environ, nil
	}
	set, err := readDotenv(path, durable.Access{Public: true})
	if err == nil && holdsSecret(set) {
		set, err = readDotenv(path, durable.Access{})
	}
	if err != nil {
		return environ, err
	}
	given := map[string]bool{}
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		given[name] = true
	}
	merged := append([]string(nil), environ...)
	for _, v := range set {
		if !given[v.name] {
			merged = append(merged, v.name+"="+v.value)
		}
	}
	return merged, nil
}

// isThere reports whether there is a file of variables. In a folder that the user may not search,
// as after `sudo -u`, there is none.
func isThere(path string) bool {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrPermission) {
		return false
	}
	info, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist) && (err != nil || !info.IsDir())
}

// assignment is one line of a file of variables.
type assignment struct{ name, value string }

func readDotenv(path string, rule durable.Access) ([]assignment, error) {
	b, err := rule.Read(path, maxDotenv)
	if err != nil {
		return nil, err
	}
	set, line, err := parseDotenv(string(b))
	if err != nil {
		return nil, fmt.Errorf("%s: line %d: %w", path, line, err)
	}
	return set, nil
}

// parseDotenv reads lines of the form NAME=value, as shells and their relatives read them alike:
// what they would read in different ways is an error. Line is that of the error.
func parseDotenv(text string) (set []assignment, line int, err error) {
	lines := map[string]int{}
	for raw := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
		line++
		s := strings.TrimSpace(raw)
		if s == "" || s[0] == '#' {
			continue
		}
		v, err := parseVariable(s)
		if err == nil && lines[v.name] != 0 {
			err = fmt.Errorf("%s is set in line %d, too", v.name, lines[v.name])
		}
		if err != nil {
			return nil, line, err
		}
		lines[v.name] = line
		set = append(set, v)
	}
	return set, 0, nil
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func parseVariable(s string) (assignment, error) {
	if rest, ok := strings.CutPrefix(s, "export "); ok {
		s = strings.TrimLeft(rest, " \t")
	}
	name, value, ok := strings.Cut(s, "=")
	if !ok || !variableName.MatchString(name) {
		return assignment{}, errors.New("not of the form NAME=value")
	}
	if !utf8.ValidString(value) || strings.Contains(value, "\x00") {
		return assignment{}, fmt.Errorf("the value of %s is not UTF-8 text", name)
	}
	value, err := parseValue(value)
	if err != nil {
		return assignment{}, fmt.Errorf("the value of %s %w", name, err)
	}
	return assignment{name, value}, nil
}

// parseValue reads a value: in single quotes, where every character stands for itself; in double
// quotes, where a backslash comes before a quote, a backslash or a dollar sign; or without quotes.
func parseValue(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	var value, rest string
	var err error
	switch s[0] {
	case '\'':
		var closed bool
		if value, rest, closed = strings.Cut(s[1:], "'"); !closed {
			return "", errors.New("has no closing quote")
		}
	case '"':
		if value, rest, err = doubleQuoted(s[1:]); err != nil {
			return "", err
		}
	default:
		return bareValue(s)
	}
	if rest = strings.TrimLeft(rest, " \t"); rest != "" && rest[0] != '#' {
		return "", errors.New("goes on after its closing quote")
	}
	return value, nil
}

func doubleQuoted(s string) (value, rest string, err error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:], nil
		case c == '\\' && i+1 < len(s) && strings.IndexByte(`"\$`, s[i+1]) >= 0:
			i++
			b.WriteByte(s[i])
		case c == '\\':
			return "", "", errors.New("has a backslash that stands before neither a quote, a backslash nor a dollar sign")
		case c == '$' || c == '`':
			return "", "", errSubstitution
		default:
			b.WriteByte(c)
		}
	}
	return "", "", errors.New("has no closing quote")
}

var errSubstitution = errors.New("has a $ or a backquote, and nothing is substituted here: put it into single quotes")

func bareValue(s string) (string, error) {
	for i := range s {
		if s[i] == '#' && (i == 0 || s[i-1] == ' ' || s[i-1] == '\t') {
			s = s[:i]
			break
		}
	}
	s = strings.TrimRight(s, " \t")
	switch {
	case strings.ContainsAny(s, "$`"):
		return "", errSubstitution
	case strings.ContainsAny(s, " \t'\"\\"):
		return "", errors.New("has spaces, quotes or backslashes: put it into quotes")
	}
	return s, nil
}

// secretVariable are the names of Signet's variables whose values are secrets.
var secretVariable = regexp.MustCompile(`^SIGNET_.*(SECRET|PASSWORD|TOKEN|UPSTREAM_KEY)$`)

// holdsSecret reports whether others must not read a file with these variables. A variable of
// another name is there because a setting refers to it, as env:NAME, and so a secret.
func holdsSecret(set []assignment) bool {
	for _, v := range set {
		u, err := url.Parse(v.value)
		if v.value != "" && (secretVariable.MatchString(v.name) || !strings.HasPrefix(v.name, envPrefix) || err == nil && u.User != nil) {
			return true
		}
	}
	return false
}

package store

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// checkURL finds the characters of a PostgreSQL URL that end a part of it where its author
// did not mean that, such as the # of an unescaped password. Then a piece of the password
// would be taken for the host or the database, whose names are logged. Errors show nothing
// of the URL but these characters.
func checkURL(raw string) error {
	if strings.ContainsFunc(raw, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return errors.New("the URL contains a space or a line break: take it out, or write a space of the password as %20")
	}
	_, rest, _ := strings.Cut(raw, "://")
	userinfo, place, query := parts(rest)
	user, password, _ := strings.Cut(userinfo, ":")
	bad := slices.Concat(unescaped(user, "/#?@"), unescaped(password, "/#?@:"), unescaped(place, "#"), checkQuery(query))
	slices.Sort(bad)
	switch bad = slices.Compact(bad); {
	case len(bad) > 0:
		return fmt.Errorf("percent-encode what the password and other parts contain: %s", strings.Join(bad, ", "))
	case !places.MatchString(place):
		return errors.New("there is no host:port where one must be: percent-encode the special characters of the password (@ as %40, / as %2F, ? as %3F)")
	}
	return nil
}

// parts splits a URL without its scheme. If the password has a question mark, the user
// information goes on to the last @ of the URL.
func parts(rest string) (userinfo, place, query string) {
	before, query, _ := strings.Cut(rest, "?")
	if at := strings.LastIndex(before, "@"); at >= 0 {
		userinfo, before = before[:at], before[at+1:]
	}
	last := strings.LastIndex(rest, "@")
	if last > strings.Index(rest, "?") && strings.Contains(query, "@") && !(places.MatchString(before) && areParameters(query)) {
		userinfo = rest[:last]
		before, query, _ = strings.Cut(rest[last+1:], "?")
	}
	return userinfo, before, query
}

// unescaped returns, with their escapes, which of the characters are in part, and % if
// it begins no escape.
func unescaped(part, characters string) (bad []string) {
	for _, c := range characters {
		if strings.ContainsRune(part, c) {
			bad = append(bad, escapeOf(c))
		}
	}
	if _, err := url.PathUnescape(part); err != nil {
		bad = append(bad, escapeOf('%'))
	}
	return bad
}

func escapeOf(c rune) string { return fmt.Sprintf("%c as %%%02X", c, c) }

// places is a list of host:port, and a database.
var places = regexp.MustCompile(strings.ReplaceAll(`^HOST(,HOST)*(/.*)?$`, "HOST", `([^:,/\[\]]*|\[[^\]]*\])(:[0-9]*)?`))

var parameter = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_.]*=.*)?$`)

func areParameters(query string) bool {
	return !slices.ContainsFunc(strings.Split(query, "&"), func(pair string) bool { return !parameter.MatchString(pair) })
}

// checkQuery finds characters of values in the parameters of a URL.
func checkQuery(query string) (bad []string) {
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		mayHaveAt := slices.Contains([]string{"user", "password", "passfile", "sslpassword"}, name)
		if !parameter.MatchString(pair) {
			bad = append(bad, escapeOf('&'))
		}
		if strings.Contains(value, "@") && !mayHaveAt { // it may be that of the password's end
			bad = append(bad, escapeOf('@'))
		}
		bad = append(bad, unescaped(value, "#=")...)
		bad = append(bad, unescaped(name, "#")...)
	}
	return bad
}

// secretsOf returns the passwords of a URL, as they are written and as they are meant.
func secretsOf(raw string) (secrets []string) {
	add := func(written string) {
		meant, err := url.QueryUnescape(written)
		if err != nil {
			meant = written
		}
		for _, s := range []string{written, meant} {
			if s != "" {
				secrets = append(secrets, s)
			}
		}
	}
	_, rest, _ := strings.Cut(raw, "://")
	before, query, _ := strings.Cut(rest, "?")
	if at := strings.LastIndex(before, "@"); at >= 0 {
		_, password, _ := strings.Cut(before[:at], ":")
		add(password)
	}
	for pair := range strings.SplitSeq(query, "&") {
		if name, value, _ := strings.Cut(pair, "="); strings.HasSuffix(name, "password") {
			add(value)
		}
	}
	return secrets
}

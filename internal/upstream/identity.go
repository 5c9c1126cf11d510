package upstream

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of what a provider says of a user, in bytes.
const (
	maxID      = 200
	maxText    = 200
	maxEmail   = 254
	maxPicture = 1024
	maxGroups  = 500 // groups, not bytes
)

// fields are the paths in a provider's answer of what it says of the user.
type fields struct {
	userID, userName, displayName, email, emailVerified, picture, groups string
}

// standard are the names of OpenID Connect Core §5.1, of which user id and name are left out.
var standard = fields{displayName: "name", email: "email", emailVerified: "email_verified", picture: "picture", groups: "groups"}

// orElse returns f with other's paths where it has none.
func (f fields) orElse(other fields) fields {
	for _, pair := range [][2]*string{
		{&f.userID, &other.userID}, {&f.userName, &other.userName}, {&f.displayName, &other.displayName}, {&f.email, &other.email},
		{&f.emailVerified, &other.emailVerified}, {&f.picture, &other.picture}, {&f.groups, &other.groups},
	} {
		if *pair[0] == "" {
			*pair[0] = *pair[1]
		}
	}
	return f
}

// allow says which users may sign in; none set: all.
type allow struct{ domains, emails, groups []string }

func (a allow) everybody() bool { return len(a.domains)+len(a.emails)+len(a.groups) == 0 }

// scopesFrom gives users the scopes that follow from the values of a claim.
type scopesFrom struct {
	claim string
	of    map[string][]string
}

// identify reads the user of a provider's answer. The name that the user typed stands for an id or
// a name for which the configuration has no path.
func (p *Provider) identify(f fields, answer map[string]any, typed string) (Identity, error) {
	who := Identity{ID: typed, Name: typed}
	if f.userID != "" {
		who.ID = text(lookup(answer, f.userID))
	}
	if err := checkID(who.ID); err != nil {
		return Identity{}, fmt.Errorf("%s: %w", p.id, err)
	}
	f = f.orElse(standard)
	who.Email, who.EmailVerified = p.emailOf(f, answer)
	if who.Email == "" && p.UsernameField() == "email" {
		who.Email = email(typed)
	}
	if f.userName != "" {
		who.Name = line(text(lookup(answer, f.userName)))
	}
	for _, name := range []string{who.Email, who.ID} {
		if who.Name == "" {
			who.Name = line(name)
		}
	}
	who.DisplayName = line(text(lookup(answer, f.displayName)))
	who.Picture = picture(text(lookup(answer, f.picture)))
	who.Groups = groups(lookup(answer, f.groups))
	who.Session = text(answer["sid"])
	who.Scopes = p.scopesOf(answer)
	return who, nil
}

// emailOf returns the address in an answer, and whether the provider vouches for it.
func (p *Provider) emailOf(f fields, answer map[string]any) (address string, verified bool) {
	address = email(text(lookup(answer, f.email)))
	if address == "" {
		return "", false
	}
	if said := lookup(answer, f.emailVerified); said != nil {
		return address, isTrue(said)
	}
	return address, p.trustEmail
}

// checkID returns what is wrong with a user id, which becomes part of a subject.
func checkID(id string) error {
	switch {
	case id == "":
		return errors.New("the answer has no user id")
	case len(id) > maxID:
		return fmt.Errorf("the user id has more than %d bytes", maxID)
	case !utf8.ValidString(id), strings.ContainsFunc(id, unicode.IsControl):
		return errors.New("the user id has a character that is not allowed")
	}
	return nil
}

// line returns s without control characters, cut where it is too long.
func line(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return -1
		}
		return r
	}, s)
	if len(s) <= maxText {
		return s
	}
	end := maxText
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}

// email returns s if it looks like an address, or "".
func email(s string) string {
	at := strings.LastIndexByte(s, '@')
	if at < 1 || at == len(s)-1 || strings.Count(s, "@") != 1 || len(s) > maxEmail || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }) {
		return ""
	}
	return s
}

// picture returns s if it is an https URL, or "".
func picture(s string) string {
	u, err := url.Parse(s)
	if err != nil || len(s) > maxPicture || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return ""
	}
	return u.String()
}

func groups(v any) []string {
	list := texts(v)
	return list[:min(len(list), maxGroups)]
}

// scopesOf returns the scopes that the user may grant; nil if the configuration does not say.
func (p *Provider) scopesOf(answer map[string]any) []string {
	if p.scopesFrom.claim == "" {
		return nil
	}
	scopes := []string{}
	values := texts(lookup(answer, p.scopesFrom.claim))
	for _, value := range values {
		values = append(values, strings.Fields(value)...) // a list as scope is
	}
	for _, value := range values {
		for _, scope := range p.scopesFrom.of[value] {
			if !slices.Contains(scopes, scope) {
				scopes = append(scopes, scope)
			}
		}
	}
	return scopes
}

// Permit returns an error that wraps [ErrNotAllowed] if the configuration does not let the user
// in. An e-mail address counts only if the provider vouches for it.
func (p *Provider) Permit(who Identity) error {
	if p.allow.everybody() {
		return nil
	}
	for _, group := range p.allow.groups {
		if slices.Contains(who.Groups, group) {
			return nil
		}
	}
	byEmail := len(p.allow.emails)+len(p.allow.domains) > 0 && who.Email != ""
	if byEmail && who.EmailVerified {
		address := strings.ToLower(who.Email)
		if slices.Contains(p.allow.emails, address) || slices.Contains(p.allow.domains, address[strings.LastIndexByte(address, '@')+1:]) {
			return nil
		}
	}
	if byEmail && !who.EmailVerified {
		return fmt.Errorf("%w: %s does not vouch for the e-mail address", ErrNotAllowed, p.id)
	}
	return fmt.Errorf("%w: neither e-mail address, domain nor group is in allow of %s", ErrNotAllowed, p.id)
}

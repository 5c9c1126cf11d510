package upstream

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"signet/internal/configfile"
	"signet/internal/oauth"
)

// entry is one provider of the configuration.
type entry struct {
	id, name, kind string

	timeout     time.Duration
	baseURL     string
	baseURLs    map[string]string // by environment
	environment string
	samplePath  string
	allow       allow
	scopesFrom  scopesFrom
	trustEmail  bool

	// Of the kind password.
	usernameField          string
	login, refresh, revoke *call

	// Of the others.
	issuer, authorization, token, userinfo, revocation string
	emails, deletion                                   string // endpoints in GitHub's manner, for addresses and to delete tokens
	clientID, clientSecret, clientAuth                 string
	scopes, dropParams                                 []string
	authorizeParams                                    map[string]string
	fields

	form issuerForm // of the preset

	at map[string]*yaml.Node // the values of its members
}

// CheckScopes returns an error, of faults as those of [Parse], if users would get scopes that do
// not exist.
func (s *Set) CheckScopes(exist []string) error {
	r := &reader{}
	for i, p := range s.list {
		for _, value := range slices.Sorted(maps.Keys(p.scopesFrom.of)) {
			scopes := p.scopesFrom.of[value]
			for _, scope := range scopes {
				if !slices.Contains(exist, scope) {
					r.Fault(p.at["scopes_from"], fmt.Sprintf("upstreams[%d].scopes_from.map.%s", i, cut(value, 64)), "the scope %s does not exist", scope)
				}
			}
		}
	}
	return r.Err()
}

// Parse reads a configuration file. Its error joins all faults, each a [*Fault]. Environ looks
// variables up, for values such as env:NAME.
func Parse(text []byte, environ func(string) (string, bool)) (*Set, error) {
	return parse(text, &reader{environ: environ})
}

// ParseForTools is like Parse, for a process that signs nobody in and only calls the providers'
// APIs: it needs base URLs, and values that stand elsewhere, such as client secrets, need not be
// there. Only ID, Name, BaseURL, SamplePath and Timeout of the providers count.
func ParseForTools(text []byte, environ func(string) (string, bool)) (*Set, error) {
	return parse(text, &reader{environ: environ, absent: map[*yaml.Node]bool{}})
}

func parse(text []byte, r *reader) (*Set, error) {
	root := r.Document(text)
	if root == nil {
		return nil, r.Err()
	}
	var entries []entry
	r.Members(root, "", map[string]take{"upstreams": func(n *yaml.Node, path string) { entries = r.entries(n, path) }})
	if r.Faults() == 0 && len(entries) == 0 {
		r.Fault(root, "", "there are no upstreams")
	}
	if r.Faults() > 0 {
		return nil, r.Err()
	}
	set := newSet(entries)
	set.secret = r.secret
	return set, nil
}

// Single returns a Set of one OpenID provider, whose id is upstream.
func Single(issuer, clientID, clientSecret string) (*Set, error) {
	if why := checkIssuer(issuer); why != "" {
		return nil, errors.New("the issuer " + why)
	}
	if clientID == "" {
		return nil, errors.New("the client id is empty")
	}
	e := entry{id: "upstream", kind: OpenID, issuer: issuer, clientID: clientID, clientSecret: clientSecret, scopes: openIDScopes}
	u, err := url.Parse(issuer)
	if err != nil {
		return nil, err
	}
	e.name = u.Host
	return newSet([]entry{e}), nil
}

// openIDScopes are asked for by default.
var openIDScopes = []string{"openid", "profile", "email"}

// entries reads the list of providers.
func (r *reader) entries(n *yaml.Node, path string) (list []entry) {
	if !r.Plain(n, path) {
		return nil
	}
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		r.Fault(n, path, "must be a list of providers")
		return nil
	}
	for i, element := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		e := r.entry(element, at)
		if slices.ContainsFunc(list, func(other entry) bool { return other.id == e.id && e.id != "" }) {
			r.Fault(e.at["id"], at+".id", "is the id of two providers")
		}
		list = append(list, e)
	}
	return list
}

// entry reads one provider.
func (r *reader) entry(n *yaml.Node, path string) (e entry) {
	e = entry{at: map[string]*yaml.Node{}, authorizeParams: map[string]string{}}
	before := r.Faults()
	r.preset(n, path, &e)
	known := r.known(&e)
	known["preset"] = func(*yaml.Node, string) {} // it was read before
	r.Members(n, path, known)
	if e.at["userinfo_endpoint"] != nil && e.at["emails_endpoint"] == nil {
		e.emails = "" // that of a preset is at another server
	}
	if e.at["token_endpoint"] != nil && e.at["deletion_endpoint"] == nil {
		e.deletion = ""
	}
	e.deletion = strings.ReplaceAll(e.deletion, "{client_id}", url.PathEscape(e.clientID))
	if r.Faults() == before {
		r.check(n, path, &e)
	}
	return e
}

// known are the members of a provider.
func (r *reader) known(e *entry) map[string]take {
	known := map[string]take{
		"id": r.text(&e.id), "name": r.text(&e.name), "type": r.text(&e.kind), "timeout": r.duration(&e.timeout),
		"base_url": r.baseURL(e), "environment": r.value(&e.environment), "sample_path": r.text(&e.samplePath),
		"allow": r.allow(&e.allow), "scopes_from": r.scopesFrom(&e.scopesFrom), "trust_email": r.Flag(&e.trustEmail),
		"username_field": r.text(&e.usernameField),
		"login":          r.call(&e.login, "access_token", typedName, localPart, typedPassword),
		"refresh":        r.call(&e.refresh, "access_token", refreshToken, accessToken),
		"revoke":         r.call(&e.revoke, "", refreshToken, accessToken),
		"issuer":         r.value(&e.issuer), "authorization_endpoint": r.value(&e.authorization), "token_endpoint": r.value(&e.token),
		"userinfo_endpoint": r.value(&e.userinfo), "emails_endpoint": r.value(&e.emails), "deletion_endpoint": r.value(&e.deletion), "revocation_endpoint": r.value(&e.revocation),
		"client_id": r.value(&e.clientID), "client_secret": r.secretValue(&e.clientSecret), "client_auth": r.text(&e.clientAuth),
		"scopes": r.list(&e.scopes, checkScope), "authorize_params": r.params(&e.authorizeParams), "drop_params": r.list(&e.dropParams, checkParam),
	}
	for name, read := range r.paths(&e.fields) {
		known[name] = read
	}
	for name, read := range known {
		known[name] = func(n *yaml.Node, path string) {
			e.at[name] = n
			read(n, path)
		}
	}
	return known
}

// paths are the members that say where in an answer the user is described.
func (r *reader) paths(f *fields) map[string]take {
	return map[string]take{
		"user_id": r.text(&f.userID), "user_name": r.text(&f.userName), "display_name": r.text(&f.displayName), "email": r.text(&f.email),
		"email_verified": r.text(&f.emailVerified), "picture": r.text(&f.picture), "groups": r.text(&f.groups),
	}
}

func (r *reader) duration(to *time.Duration) take {
	return func(n *yaml.Node, path string) {
		s, ok := r.Scalar(n, path)
		if !ok {
			return
		}
		d, err := time.ParseDuration(s)
		if err != nil || d < minTimeout || d > maxTimeout {
			r.Fault(n, path, "must be a duration such as 10s, from %s to %s", minTimeout, maxTimeout)
		}
		*to = d
	}
}

// baseURL reads a URL, or one for each environment.
func (r *reader) baseURL(e *entry) take {
	return func(n *yaml.Node, path string) {
		if n.Kind != yaml.MappingNode {
			r.value(&e.baseURL)(n, path)
			return
		}
		e.baseURLs = map[string]string{}
		r.Each(n, path, func(name string, _, value *yaml.Node, path string) {
			var u string
			r.value(&u)(value, path)
			if u != "" {
				if why := checkBase(u); why != "" {
					r.Fault(value, path, "%s", why)
				}
			}
			e.baseURLs[name] = u
		})
	}
}

// call reads a request. The member access says which path must be there; empty: the answer is not
// read.
func (r *reader) call(to **call, access string, names ...string) take {
	return func(n *yaml.Node, path string) {
		c := &call{}
		known := map[string]take{"path": r.text(&c.path), "body": r.body(&c.body, names...)}
		if access != "" {
			known["access_token"], known["refresh_token"], known["expires_in"] = r.text(&c.access), r.text(&c.refresh), r.text(&c.expiresIn)
		}
		if slices.Contains(names, typedPassword) {
			for name, read := range r.paths(&c.fields) {
				known[name] = read
			}
		}
		before := r.Faults()
		r.Members(n, path, known)
		*to = c
		if r.Faults() == before {
			r.checkCall(n, path, c, access, names)
		}
	}
}

// checkCall checks what must be in a request.
func (r *reader) checkCall(n *yaml.Node, path string, c *call, access string, names []string) {
	if why := checkPath(c.path); why != "" {
		r.Fault(n, path+".path", "%s", why)
	}
	c.path = strings.TrimPrefix(c.path, "/")
	if access != "" && c.access == "" {
		r.Fault(n, path+".access_token", "is missing: where in the answer is it?")
	}
	if c.body == nil {
		r.Fault(n, path+".body", "is missing")
		return
	}
	used := uses(c.body)
	switch {
	case slices.Contains(names, typedPassword):
		if !slices.Contains(used, typedPassword) {
			r.Fault(n, path+".body", "does not contain {password}")
		}
		if !slices.Contains(used, typedName) && !slices.Contains(used, localPart) {
			r.Fault(n, path+".body", "contains neither {username} nor {local_part}")
		}
	case !slices.Contains(used, refreshToken) && access != "":
		r.Fault(n, path+".body", "does not contain {refresh_token}")
	case len(used) == 0:
		r.Fault(n, path+".body", "contains neither {refresh_token} nor {access_token}")
	}
}

func (r *reader) params(to *map[string]string) take {
	return func(n *yaml.Node, path string) {
		r.Each(n, path, func(name string, key, value *yaml.Node, path string) {
			var s string
			r.value(&s)(value, path)
			if why := checkParam(name); why != "" {
				r.Fault(key, path, "%s", why)
			}
			(*to)[name] = s
		})
	}
}

func (r *reader) allow(to *allow) take {
	return func(n *yaml.Node, path string) {
		r.Members(n, path, map[string]take{
			"domains": r.list(&to.domains, checkDomain), "emails": r.list(&to.emails, checkEmail), "groups": r.list(&to.groups, checkNothing),
		})
		for _, list := range [][]string{to.domains, to.emails} {
			for i := range list {
				list[i] = strings.ToLower(list[i])
			}
		}
		if to.everybody() {
			r.Fault(n, path, "admits no user; leave it out to admit all users")
		}
	}
}

func (r *reader) scopesFrom(to *scopesFrom) take {
	return func(n *yaml.Node, path string) {
		to.of = map[string][]string{}
		r.Members(n, path, map[string]take{"claim": r.text(&to.claim), "map": func(n *yaml.Node, path string) {
			r.Each(n, path, func(name string, _, value *yaml.Node, path string) {
				var scopes []string
				r.list(&scopes, checkScope)(value, path)
				to.of[name] = scopes
			})
		}})
		if to.claim == "" || len(to.of) == 0 {
			r.Fault(n, path, "must have a claim, and a map of its values to scopes")
		}
	}
}

func checkNothing(string) string { return "" }

func checkScope(s string) string {
	if scope, err := oauth.ParseScope(s); err != nil || len(scope) != 1 {
		return "is not one scope"
	}
	return ""
}

// ownParams are the parameters of an authorization request that no setting changes.
var ownParams = []string{"response_type", "client_id", "redirect_uri", "state", "nonce", "scope", "code_challenge", "code_challenge_method", "response_mode", "request", "request_uri"}

func checkParam(name string) string {
	if slices.Contains(ownParams, name) {
		return "is not the configuration's to change"
	}
	return ""
}

func checkDomain(s string) string {
	if strings.ContainsAny(s, "@/: *") || !strings.Contains(s, ".") && s != "localhost" {
		return "is not a domain such as example.com"
	}
	return ""
}

func checkEmail(s string) string {
	if email(s) == "" {
		return "is not an e-mail address"
	}
	return ""
}

var idForm = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)

// checkBase returns what is wrong with a URL that paths are appended to.
func checkBase(raw string) string {
	if why := configfile.CheckURL(raw); why != "" {
		return why
	}
	if strings.Contains(raw, "?") {
		return "has a query"
	}
	return ""
}

// checkIssuer returns what is wrong with an issuer identifier of a provider. Unlike ours, it may
// end in a slash.
func checkIssuer(raw string) string { return checkBase(raw) }

// checkPath returns what is wrong with a path below a base URL.
func checkPath(path string) string {
	u, err := url.Parse(path)
	switch {
	case path == "":
		return "is missing"
	case err != nil || u.Scheme != "" || u.Host != "" || strings.HasPrefix(path, "//") || strings.Contains(path, "#") || strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "must be a path below base_url"
	}
	for segment := range strings.SplitSeq(u.Path, "/") {
		if segment == "." || segment == ".." {
			return "has a dot segment"
		}
	}
	return ""
}

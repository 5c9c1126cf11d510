package upstream

import (
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"signet/internal/configfile"
)

// The members of each kind, besides those of every kind.
var (
	ofEvery    = []string{"id", "name", "type", "timeout", "base_url", "environment", "sample_path", "allow", "scopes_from", "trust_email"}
	ofPassword = []string{"username_field", "login", "refresh", "revoke"}
	ofGrants   = []string{"issuer", "client_id", "client_secret", "client_auth", "scopes", "authorize_params", "drop_params", "revocation_endpoint",
		"user_id", "user_name", "display_name", "email", "email_verified", "picture", "groups"}
	ofKind = map[string][]string{
		Password: slices.Concat(ofEvery, ofPassword),
		OAuth:    slices.Concat(ofEvery, ofGrants, []string{"authorization_endpoint", "token_endpoint", "userinfo_endpoint", "emails_endpoint", "deletion_endpoint"}),
		OpenID:   slices.Concat(ofEvery, ofGrants),
	}
)

// check finds faults that lie between the members of an entry, or in members that are not there.
func (r *reader) check(n *yaml.Node, path string, e *entry) {
	wrong := func(name, what string) {
		at := n
		if there := e.at[name]; there != nil {
			at = there
		}
		if r.absent[at] {
			return
		}
		r.Fault(at, path+"."+name, "%s", what)
	}
	if !idForm.MatchString(e.id) {
		wrong("id", "must be 1 to 32 of a to z, 0 to 9 and hyphen")
	}
	if len(e.name) > 64 {
		wrong("name", "has more than 64 bytes")
	}
	members, known := ofKind[e.kind]
	if !known {
		wrong("type", "must be password, oidc or oauth2")
		return
	}
	for _, name := range slices.Sorted(maps.Keys(e.at)) {
		if !slices.Contains(members, name) {
			wrong(name, "is not a member of the type "+e.kind)
		}
	}
	e.checkBase(wrong)
	if e.kind == Password {
		e.checkPassword(wrong)
	} else {
		e.checkGrants(wrong)
	}
}

// checkBase checks the base URL, which the environment may choose.
func (e *entry) checkBase(wrong func(name, what string)) {
	if e.baseURLs != nil {
		chosen, ok := e.baseURLs[e.environment]
		if !ok {
			wrong("environment", "must be one of "+strings.Join(slices.Sorted(maps.Keys(e.baseURLs)), ", ")+", which base_url has")
			return
		}
		e.baseURL = chosen
	} else if e.environment != "" {
		wrong("environment", "needs a base_url with a URL for each environment")
	}
	if e.baseURL != "" {
		if why := checkBase(e.baseURL); why != "" {
			wrong("base_url", why)
			return
		}
		e.baseURL = strings.TrimSuffix(e.baseURL, "/") + "/"
	}
	if e.samplePath != "" {
		if why := checkPath(e.samplePath); why != "" {
			wrong("sample_path", why)
		}
	}
}

func (e *entry) checkPassword(wrong func(name, what string)) {
	if e.baseURL == "" && e.baseURLs == nil {
		wrong("base_url", "is missing")
	}
	if e.login == nil {
		wrong("login", "is missing")
	}
	if e.usernameField != "" && e.usernameField != "username" && e.usernameField != "email" {
		wrong("username_field", "must be username or email")
	}
	if e.at["trust_email"] == nil {
		e.trustEmail = true // the API is the operator's choice, and its answers have no claim for this
	}
}

// checkGrants checks a provider of the type oauth2 or oidc.
func (e *entry) checkGrants(wrong func(name, what string)) {
	for _, u := range []struct {
		name, url string
		needed    bool
	}{
		{"issuer", e.issuer, e.kind == OpenID},
		{"authorization_endpoint", e.authorization, e.kind == OAuth}, {"token_endpoint", e.token, e.kind == OAuth}, {"userinfo_endpoint", e.userinfo, e.kind == OAuth},
		{"emails_endpoint", e.emails, false}, {"deletion_endpoint", e.deletion, false}, {"revocation_endpoint", e.revocation, false},
	} {
		check := configfile.CheckURL
		if u.name == "issuer" {
			check = checkIssuer
		}
		switch {
		case u.url == "" && u.needed && u.name == "issuer" && e.form.example != "":
			wrong("issuer", "is missing; it has the form "+e.form.example)
		case u.url == "" && u.needed:
			wrong(u.name, "is missing")
		case u.url != "":
			if why := check(u.url); why != "" {
				wrong(u.name, why)
			}
		}
	}
	if e.issuer != "" {
		e.checkForm(wrong)
	}
	if e.clientID == "" {
		wrong("client_id", "is missing")
	}
	switch {
	case e.clientAuth != "" && e.clientAuth != authBasic && e.clientAuth != authPost && e.clientAuth != authNone:
		wrong("client_auth", "must be client_secret_basic, client_secret_post or none")
	case e.clientSecret == "" && (e.clientAuth == authBasic || e.clientAuth == authPost):
		wrong("client_secret", "is missing")
	case e.clientSecret != "" && e.clientAuth == authNone:
		wrong("client_secret", "is not sent with client_auth none")
	}
	if e.kind == OpenID && len(e.scopes) == 0 {
		e.scopes = openIDScopes
	}
	if e.kind == OpenID && !slices.Contains(e.scopes, "openid") {
		wrong("scopes", "must contain openid")
	}
}

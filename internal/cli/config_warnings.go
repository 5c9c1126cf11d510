package cli

import (
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"signet/internal/oauth"
)

// warnings returns what is legal in the settings, but has no effect, or one that is hardly
// meant. Each text begins with a variable.
func (c *config) warnings() (list []string) {
	warn := func(name, format string, args ...any) {
		list = append(list, envPrefix+name+": "+fmt.Sprintf(format, args...))
	}
	list = append(list, c.unused...)
	c.warnLives(warn)
	c.warnWithoutEffect(warn)
	for _, origin := range c.MCPOrigins {
		if why := neverSent(origin); why != "" {
			warn("MCP_ORIGINS", "%s matches no browser: %s", origin, why)
		}
	}
	proxies, _ := c.proxies() // checked already
	for _, p := range proxies {
		if isEverywhere(p) {
			warn("TRUSTED_PROXIES", "%s has addresses all over the internet: any caller can write its own address into X-Forwarded-For, so limits by address and the log mean nothing", p)
		}
	}
	if required, given := scopeList(c.RequiredScopes), scopeList(c.DefaultScopes); !oauth.ScopeIsSubset(required, given) {
		warn("REQUIRED_SCOPES", "not all of %q are in SIGNET_DEFAULT_SCOPES: users without scopes of their own cannot call the MCP endpoint", c.RequiredScopes)
	}
	if c.TLSCert != "" && strings.HasPrefix(c.Issuer, "http:") {
		warn("TLS_CERT", "the listener takes https only, while clients are told to go to the issuer %s", c.Issuer)
	}
	if c.Role == "all" && len(c.Resources) > 0 && !c.servesResource() {
		warn("RESOURCES", "none is at the issuer %s: this server has no MCP endpoint (role auth says so)", c.Issuer)
	}
	if c.sharesSecret() {
		warn("UPSTREAM_CONFIG", "a client secret stands in %s, and other users of this machine can read it: `chmod 600` it, or write env:VARIABLE or file:PATH in place of the secret", c.Upstream.Config)
	}
	return list
}

// sharesSecret reports whether others can read the file of upstreams, and there is a secret in it.
func (c *config) sharesSecret() bool {
	if c.Upstream.Config == "" {
		return false
	}
	info, err := os.Stat(c.Upstream.Config)
	if err != nil || info.Mode()&0o004 == 0 {
		return false
	}
	set, err := c.upstream().OpenForTools()
	return err == nil && set.HoldsSecret()
}

func (c *config) warnLives(warn func(name, format string, args ...any)) {
	l := c.Lives
	switch {
	case l.Refresh < l.Access:
		warn("REFRESH_TTL", "%s is less than SIGNET_ACCESS_TTL (%s): access tokens end with their grant, before their time", l.Refresh, l.Access)
	case l.Idle < l.Access:
		warn("REFRESH_IDLE_TTL", "%s is less than SIGNET_ACCESS_TTL (%s): a client that refreshes when its access token expires comes too late, and its user signs in again", l.Idle, l.Access)
	case l.Idle > l.Refresh && c.isSet("REFRESH_IDLE_TTL"):
		warn("REFRESH_IDLE_TTL", "%s is more than SIGNET_REFRESH_TTL (%s), and has no effect", l.Idle, l.Refresh)
	}
	if l.Replay > l.Idle {
		warn("REPLAY_WINDOW", "%s is more than SIGNET_REFRESH_IDLE_TTL (%s): a handle expires before that", l.Replay, l.Idle)
	}
	if l.Code > l.Refresh {
		warn("CODE_TTL", "%s is more than SIGNET_REFRESH_TTL (%s)", l.Code, l.Refresh)
	}
	if c.KeyRotation < l.Access && c.KeysDir == "" && c.isSet("KEY_ROTATION") {
		warn("KEY_ROTATION", "%s is less than SIGNET_ACCESS_TTL (%s): %d keys are published at once, because each stays until its last token has expired", c.KeyRotation, l.Access, 3+l.Access/c.KeyRotation)
	}
}

// warnWithoutEffect warns of variables that are set, while another one makes them useless.
func (c *config) warnWithoutEffect(warn func(name, format string, args ...any)) {
	for _, without := range []struct {
		holds bool
		why   string
		names []string
	}{
		{c.Role == "mcp", "role mcp does not use it", []string{"STORE", "ROLLBACK", "USERS_FILE", "CLIENTS_FILE", "CODE_TTL", "ACCESS_TTL", "REFRESH_TTL", "REFRESH_IDLE_TTL", "REPLAY_WINDOW",
			"KEY_ROTATION", "KEYS_DIR", "REGISTRATION", "REGISTRATION_TOKEN", "REDIRECT_SCHEMES", "CLIENT_DOCUMENTS", "CLIENT_DOCUMENT_HOSTS", "CLIENT_DOCUMENT_DENIED_HOSTS", "CLIENT_DOCUMENT_FILES", "CLIENT_QUIRKS", "UPSTREAM_ISSUER", "UPSTREAM_CLIENT_ID", "UPSTREAM_CLIENT_SECRET", "LOGO", "COLOR", "MESSAGES", "LOGIN_TEMPLATE"}},
		{c.Role == "mcp", "role mcp needs no secret: a process that has it can make tokens", []string{"SECRET"}},
		{c.Role == "auth", "role auth has no MCP endpoint", []string{"PUBLIC_TOOLS", "HIDDEN_TOOLS", "MCP_ORIGINS"}},
		{c.Role != "mcp", "only role mcp uses it", []string{"REVOCATION_POLL", "REVOCATION_MAX_AGE", "UPSTREAM_KEY"}},
		{true, "it is for signet serve --stdio; over HTTP users sign in themselves", []string{"UPSTREAM_USERNAME", "UPSTREAM_PASSWORD"}},
		{c.KeysDir != "", "the keys of SIGNET_KEYS_DIR are yours to rotate", []string{"KEY_ROTATION"}},
		{c.Documents.Fetch == "off" && c.Role != "mcp", "no document is fetched (SIGNET_CLIENT_DOCUMENTS=off)", []string{"CLIENT_DOCUMENT_HOSTS", "CLIENT_DOCUMENT_DENIED_HOSTS"}},
		{c.Registration == "off" && c.Role != "mcp", "no client can register (SIGNET_REGISTRATION=off)", []string{"REDIRECT_SCHEMES"}},
	} {
		for _, name := range without.names {
			if without.holds && c.isSet(name) {
				warn(name, "has no effect: %s", without.why)
			}
		}
	}
}

// isSet reports whether the variable is set to another value than its default.
func (c *config) isSet(name string) bool {
	value, set := c.environ[envPrefix+name]
	for _, f := range variables() {
		if f.Tag.Get("env") == name {
			return set && value != f.Tag.Get("envDefault")
		}
	}
	return false
}

func (c *config) servesResource() bool {
	for _, r := range c.Resources {
		if rest, ok := strings.CutPrefix(r, c.Issuer); ok && (rest == "" || strings.ContainsAny(rest[:1], "/?")) {
			return true
		}
		issuer, err := url.Parse(c.Issuer)
		if at, e := url.Parse(r); err == nil && e == nil && at.Scheme == issuer.Scheme && strings.EqualFold(at.Host, issuer.Host) {
			return true
		}
	}
	return false
}

// neverSent returns why browsers never send that origin. They send scheme, host and port as
// the URL standard writes them.
func neverSent(origin string) string {
	u, err := url.Parse(origin)
	switch {
	case err != nil:
		return "it is no URL"
	case strings.Contains(u.Host, "*"):
		return "there are no wildcards, list each origin"
	case u.Scheme == "https" && u.Port() == "443", u.Scheme == "http" && u.Port() == "80":
		return "browsers leave the default port out"
	case strings.HasSuffix(u.Host, ":"):
		return "its port is empty"
	case origin != strings.ToLower(origin):
		return "browsers write it in lower case"
	case strings.ContainsFunc(u.Host, func(r rune) bool { return r > 0x7f }):
		return "browsers write its host in ASCII (xn--...)"
	}
	return ""
}

// privateRanges are where proxies may be in networks as large as one likes.
var privateRanges = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"),
}

// isEverywhere reports whether a range is larger than the network of any proxy.
func isEverywhere(p netip.Prefix) bool {
	for _, private := range privateRanges {
		if private.Bits() <= p.Bits() && private.Contains(p.Addr()) {
			return false
		}
	}
	bits := p.Bits()
	if p.Addr().Is4In6() {
		return bits < 96+8
	}
	return p.Addr().Is4() && bits < 8 || p.Addr().Is6() && bits < 16
}

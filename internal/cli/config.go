package cli

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/spf13/cobra"

	"signet/handlers"
	"signet/handlers/pages"
	"signet/internal/clients"
	"signet/internal/fetch"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/internal/store"
	"signet/mcp"
	"signet/server"
	"signet/users"
)

const envPrefix = "SIGNET_"

// config is the environment. What each variable means stands in .env.example, which a
// test compares with the names and defaults here.
type config struct {
	Issuer  string `env:"ISSUER" envDefault:"http://localhost:8080"`
	Listen  string `env:"LISTEN" envDefault:"127.0.0.1:8080"`
	TLSCert string `env:"TLS_CERT"`
	TLSKey  string `env:"TLS_KEY"`
	Role    string `env:"ROLE" envDefault:"all"`

	Resources []string `env:"RESOURCES"`
	DataDir   string   `env:"DATA_DIR" envDefault:"data"`
	Secret    string   `env:"SECRET"`
	Store     string   `env:"STORE"`
	Rollback  string   `env:"ROLLBACK" envDefault:"new-epoch"`
	Users     string   `env:"USERS_FILE"`
	Clients   string   `env:"CLIENTS_FILE"`
	GroupRead bool     `env:"GROUP_READ" envDefault:"false"`

	Scopes         string `env:"SCOPES" envDefault:"read write admin"`
	DefaultScopes  string `env:"DEFAULT_SCOPES" envDefault:"read"`
	RequiredScopes string `env:"REQUIRED_SCOPES"`
	ScopeHierarchy string `env:"SCOPE_HIERARCHY" envDefault:"admin>write>read"`

	Lives lives

	KeyRotation time.Duration `env:"KEY_ROTATION" envDefault:"24h"`
	KeysDir     string        `env:"KEYS_DIR"`

	TrustedProxies    []string `env:"TRUSTED_PROXIES"`
	MCPOrigins        []string `env:"MCP_ORIGINS"`
	PublicTools       string   `env:"PUBLIC_TOOLS"`
	HiddenTools       string   `env:"HIDDEN_TOOLS"`
	Registration      string   `env:"REGISTRATION" envDefault:"open"`
	RegistrationToken string   `env:"REGISTRATION_TOKEN"`
	RedirectSchemes   string   `env:"REDIRECT_SCHEMES" envDefault:"cursor vscode vscode-insiders claude warp workbuddy"`

	Documents documents

	Upstream upstreams

	Gateway gateways

	ClientQuirks string `env:"CLIENT_QUIRKS"`

	Limits  string `env:"LIMITS" envDefault:"authorize=6000,login=6000,register=1200,register_all=4000,wrong_secret=60,tokens_grant=60000,tokens_client=1200000,documents=60"`
	AppName string `env:"APP_NAME" envDefault:"Signet"`

	Pages look

	RevocationPoll   time.Duration `env:"REVOCATION_POLL" envDefault:"10s"`
	RevocationMaxAge time.Duration `env:"REVOCATION_MAX_AGE" envDefault:"0s"`

	MetricsListen string        `env:"METRICS_LISTEN" envDefault:"127.0.0.1:9090"`
	LogFormat     string        `env:"LOG_FORMAT" envDefault:"json"`
	LogLevel      slog.Level    `env:"LOG_LEVEL" envDefault:"info"`
	DrainDelay    time.Duration `env:"DRAIN_DELAY" envDefault:"5s"`

	environ map[string]string // variables of ours that are set
	all     map[string]string // every variable

	gatewayFlags []string // such as --hosting.port=4000
	unused       []string // what the gateway's configuration says and a variable overrides
}

// lives are [handlers.Lives]. The types convert only as long as they have the same fields.
type lives struct {
	Code    time.Duration `env:"CODE_TTL" envDefault:"60s"`
	Access  time.Duration `env:"ACCESS_TTL" envDefault:"5m"`
	Refresh time.Duration `env:"REFRESH_TTL" envDefault:"720h"`
	Idle    time.Duration `env:"REFRESH_IDLE_TTL" envDefault:"336h"`
	Replay  time.Duration `env:"REPLAY_WINDOW" envDefault:"60s"`
}

// documents are [server.ClientDocuments], and the switch.
type documents struct {
	Fetch  string   `env:"CLIENT_DOCUMENTS" envDefault:"on"`
	Hosts  []string `env:"CLIENT_DOCUMENT_HOSTS"`
	Denied []string `env:"CLIENT_DOCUMENT_DENIED_HOSTS"`
	Files  []string `env:"CLIENT_DOCUMENT_FILES"`
}

// upstreams are the fields of [server.Upstream] that variables set.
type upstreams struct {
	Issuer       string `env:"UPSTREAM_ISSUER"`
	ClientID     string `env:"UPSTREAM_CLIENT_ID"`
	ClientSecret string `env:"UPSTREAM_CLIENT_SECRET"`
	Config       string `env:"UPSTREAM_CONFIG"`
	Key          string `env:"UPSTREAM_KEY"`
	Username     string `env:"UPSTREAM_USERNAME"`
	Password     string `env:"UPSTREAM_PASSWORD"`
}

// gateways are the fields of [server.Gateway] that variables set.
type gateways struct {
	Config       string `env:"GATEWAY_CONFIG"`
	ClientID     string `env:"GATEWAY_CLIENT_ID"`
	ClientSecret string `env:"GATEWAY_CLIENT_SECRET"`
	ClientKey    string `env:"GATEWAY_CLIENT_KEY"`
}

// look is [pages.Options], in the same way.
type look struct {
	Logo          string `env:"LOGO"`
	Color         string `env:"COLOR" envDefault:"#1f6f5c"`
	Messages      string `env:"MESSAGES"`
	LoginTemplate string `env:"LOGIN_TEMPLATE"`
	LoginHTML     string // of programs; no variable
}

// variables returns the fields of config that are read from a variable, those of its
// groups among them, in order.
func variables() []reflect.StructField { return variablesOf(reflect.TypeFor[config]()) }

func variablesOf(t reflect.Type) (list []reflect.StructField) {
	for f := range t.Fields() {
		if f.Tag.Get("env") != "" {
			list = append(list, f)
		} else if f.Type.Kind() == reflect.Struct {
			list = append(list, variablesOf(f.Type)...)
		}
	}
	return list
}

// readConfig reads the variables that begin with SIGNET_ from environ, in the form
// of [os.Environ]. Its error names every variable that is wrong, and why.
func readConfig(environ []string) (*config, error) { return readConfigWith(environ, nil) }

// readConfigWith is readConfig, with flags that win over the gateway's configuration.
func readConfigWith(environ, flags []string) (*config, error) {
	c := &config{gatewayFlags: flags, environ: map[string]string{}, all: map[string]string{}}
	for _, kv := range environ {
		k, v, ok := strings.Cut(kv, "=")
		if !ok {
			continue
		}
		c.all[k] = v
		if strings.HasPrefix(k, envPrefix) && v != "" {
			c.environ[k] = unquote(v) // an empty variable counts as unset
		}
	}
	if err := env.ParseWithOptions(c, env.Options{Prefix: envPrefix, Environment: c.environ}); err != nil {
		good, faults := parseFaults(err, c.environ)
		c.environ = good // the others are checked as if these were not set
		if err := env.ParseWithOptions(c, env.Options{Prefix: envPrefix, Environment: good}); err != nil {
			return nil, faults
		}
		c.useGateway()
		return nil, errors.Join(faults, c.check())
	}
	c.useGateway()
	return c, c.check()
}

// withConfig returns what a command runs: do, with the settings.
func (p Process) withConfig(do func(cmd *cobra.Command, cfg *config, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if p.EnvironErr != nil {
			return p.EnvironErr
		}
		cfg, err := readConfigWith(p.Environ, p.overrides)
		if err != nil {
			return err
		}
		return do(cmd, cfg, args)
	}
}

// unquote removes the quotes that a shell needs around some values of .env.example.
// Docker passes them on as part of the value.
func unquote(v string) string {
	if n := len(v); n > 2 && v[0] == '\'' && v[n-1] == '\'' {
		return v[1 : n-1]
	}
	return v
}

// parseFaults restates the library's errors, which name the struct's fields. Its errors
// name the variables, and do not show their values, which may be secrets. good are the
// other variables.
func parseFaults(err error, environ map[string]string) (good map[string]string, joined error) {
	good = maps.Clone(environ)
	var all env.AggregateError
	if !errors.As(err, &all) {
		return good, err
	}
	var faults []error
	for _, err := range all.Errors {
		var p env.ParseError
		if !errors.As(err, &p) {
			faults = append(faults, err)
			continue
		}
		f := fieldOf(variables(), p.Name)
		want := map[reflect.Type]string{
			reflect.TypeFor[time.Duration](): "a duration such as 90s, 5m or 720h",
			reflect.TypeFor[slog.Level]():    "debug, info, warn or error",
			reflect.TypeFor[bool]():          "true or false",
		}[f.Type]
		name := envPrefix + f.Tag.Get("env")
		faults = append(faults, fmt.Errorf("%s: must be %s", name, want))
		delete(good, name)
	}
	return good, errors.Join(faults...)
}

// fieldOf returns the field of that name.
func fieldOf(list []reflect.StructField, name string) reflect.StructField {
	return list[slices.IndexFunc(list, func(f reflect.StructField) bool { return f.Name == name })]
}

// faultsOf finds the variables of the fields that the Check of a group has refused.
func faultsOf(group any, err error, wrong func(name, format string, args ...any)) {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range several.Unwrap() {
			faultsOf(group, err, wrong)
		}
		return
	}
	var fault *handlers.FieldError
	if errors.As(err, &fault) {
		wrong(fieldOf(variablesOf(reflect.TypeOf(group)), fault.Field).Tag.Get("env"), "%v", fault.Err)
	}
}

func (c *config) check() error {
	var faults []error
	wrong := func(name, format string, args ...any) {
		faults = append(faults, fmt.Errorf("%s%s: %s", envPrefix, name, fmt.Sprintf(format, args...)))
	}
	if err := oauth.CheckIssuer(c.Issuer); err != nil {
		wrong("ISSUER", "%v", err)
	}
	if !slices.Contains(server.Roles, c.Role) {
		wrong("ROLE", "%q is not one of %s", c.Role, strings.Join(server.Roles, ", "))
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		wrong("TLS_CERT", "SIGNET_TLS_CERT and SIGNET_TLS_KEY go together")
	}
	for name, addr := range map[string]string{"LISTEN": c.Listen, "METRICS_LISTEN": c.MetricsListen} {
		if err := checkAddress(addr); err != nil && !(name == "METRICS_LISTEN" && addr == "off") {
			wrong(name, "%v", err)
		}
	}
	for _, r := range c.Resources {
		if canonical, err := oauth.CanonicalResource(r); err != nil {
			wrong("RESOURCES", "%q: %v", r, err)
		} else if err := server.CheckResource(c.Role, c.Issuer, canonical); err != nil {
			wrong("RESOURCES", "%v", err)
		}
	}
	for _, o := range c.MCPOrigins {
		if u, err := url.Parse(o); err != nil || u.Scheme == "" || u.Host == "" || u.Scheme+"://"+u.Host != o {
			wrong("MCP_ORIGINS", "%q is not an origin such as https://app.example.com", o)
		}
	}
	if _, err := c.proxies(); err != nil {
		wrong("TRUSTED_PROXIES", "%v", err)
	}
	if _, err := handlers.ParseLimits(c.Limits); err != nil {
		wrong("LIMITS", "%v", err)
	}
	c.checkStore(wrong)
	if c.Rollback != "new-epoch" && c.Rollback != "alarm" {
		wrong("ROLLBACK", "%q is not new-epoch or alarm", c.Rollback)
	}
	if c.Registration != "open" && c.Registration != "token" && c.Registration != "off" {
		wrong("REGISTRATION", "%q is not open, token or off", c.Registration)
	}
	if (c.Registration == "token") != (c.RegistrationToken != "") {
		wrong("REGISTRATION_TOKEN", "goes with SIGNET_REGISTRATION=token")
	} else if err := c.registration().Check(); err != nil {
		wrong("REGISTRATION_TOKEN", "%v", errors.Unwrap(err))
	}
	for _, scheme := range c.redirectSchemes() {
		if why := oauth.CheckScheme(scheme); why != "" {
			wrong("REDIRECT_SCHEMES", "%q %s", scheme, why)
		}
	}
	c.checkDocuments(wrong)
	if err := errors.Join(c.upstream().Check(), c.gateway().Check()); err != nil {
		faults = append(faults, err)
	}
	if c.LogFormat != "json" && c.LogFormat != "text" {
		wrong("LOG_FORMAT", "%q is not json or text", c.LogFormat)
	}
	if err := c.pages().Check(); err != nil {
		wrong("COLOR", "%v", err)
	}
	c.checkScopes(wrong)
	faultsOf(c.Lives, handlers.Lives(c.Lives).Check(), wrong)
	c.checkTimes(wrong)
	slices.SortFunc(faults, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(faults...)
}

// fetcher fetches what a server with these settings would.
func (c *config) fetcher() *fetch.Fetcher {
	u, err := url.Parse(c.Issuer)
	loopback := err == nil && oauth.IsLoopbackHost(u.Hostname())
	return fetch.New(fetch.Options{Loopback: loopback, Allow: c.Documents.Hosts, Deny: c.Documents.Denied, Agent: "Signet/" + server.Version})
}

// clientOptions are a server's, for commands that read clients.
func (c *config) clientOptions(ring *seal.Keyring) clients.Options {
	return clients.Options{Path: c.clientsFile(), Ring: ring, GroupMayRead: c.GroupRead, Scopes: scopeList(c.Scopes), Default: scopeList(c.DefaultScopes), Schemes: c.redirectSchemes(),
		Fetcher: c.fetcher(), NoDocuments: c.Documents.Fetch == "off", Pinned: c.Documents.Files, Quirks: c.ClientQuirks}
}

func (c *config) checkDocuments(wrong func(name, format string, args ...any)) {
	if c.Documents.Fetch != "on" && c.Documents.Fetch != "off" {
		wrong("CLIENT_DOCUMENTS", "%q is not on or off", c.Documents.Fetch)
	}
	for name, list := range map[string][]string{"CLIENT_DOCUMENT_HOSTS": c.Documents.Hosts, "CLIENT_DOCUMENT_DENIED_HOSTS": c.Documents.Denied} {
		for _, host := range list {
			if err := fetch.CheckHost(host); err != nil {
				wrong(name, "%v", err)
			}
		}
	}
}

func checkAddress(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil || port == "" {
		return fmt.Errorf("%q is not host:port", addr)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return fmt.Errorf("%q is not host:port: a port is a number up to 65535", addr)
	}
	return nil
}

// checkStore never shows the store's URL, which may contain a password.
func (c *config) checkStore(wrong func(name, format string, args ...any)) {
	at := store.Locate(c.Store)
	if at.Shared() && c.Secret == "" && c.Role != "mcp" {
		wrong("SECRET", "must be set when SIGNET_STORE is a PostgreSQL database, to the same value for all replicas (`signet secret new` prints a new one)")
	}
	if err := at.Check(); err != nil {
		wrong("STORE", "%v", err)
	}
	if _, err := seal.Parse(c.Secret); c.Secret != "" && err != nil {
		wrong("SECRET", "%v", err)
	}
}

func (c *config) checkScopes(wrong func(name, format string, args ...any)) {
	known := scopeList(c.Scopes)
	if len(known) == 0 {
		wrong("SCOPES", "names no scope")
	}
	for name, list := range map[string]string{"SCOPES": c.Scopes, "DEFAULT_SCOPES": c.DefaultScopes, "REQUIRED_SCOPES": c.RequiredScopes} {
		scope := scopeList(list)
		if _, err := oauth.ParseScope(oauth.FormatScope(scope)); err != nil {
			wrong(name, "%v", err)
		}
		if !oauth.ScopeIsSubset(scope, known) {
			wrong(name, "%q has a scope that SIGNET_SCOPES does not name", list)
		}
	}
	if _, err := mcp.ParseHierarchy(c.ScopeHierarchy, known); err != nil {
		wrong("SCOPE_HIERARCHY", "%v", err)
	}
}

func (c *config) checkTimes(wrong func(name, format string, args ...any)) {
	for _, t := range []struct {
		name            string
		value, min, max time.Duration
	}{
		{"KEY_ROTATION", c.KeyRotation, 2 * time.Second, 365 * 24 * time.Hour},
		{"DRAIN_DELAY", c.DrainDelay, 0, 10 * time.Minute},
		{"REVOCATION_POLL", c.RevocationPoll, time.Second, 5 * time.Minute},
	} {
		if t.value < t.min || t.value > t.max {
			wrong(t.name, "%s is not between %s and %s", t.value, t.min, t.max)
		}
	}
	if age := c.RevocationMaxAge; age != 0 && age < 2*c.RevocationPoll {
		wrong("REVOCATION_MAX_AGE", "%s is neither 0 nor at least two times SIGNET_REVOCATION_POLL: good tokens would be refused between two polls", age)
	}
}

// checkFiles reads the files of the certificate and those that change the pages, so that an
// error names its variable. Only a server needs them.
func (c *config) checkFiles() error {
	if c.TLSCert != "" {
		if _, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey); err != nil {
			return fmt.Errorf("SIGNET_TLS_CERT, SIGNET_TLS_KEY: %w", err)
		}
	}
	issuer, err := url.Parse(c.Issuer)
	if err != nil {
		return err
	}
	if err := c.gateway().Try(c.Role); err != nil {
		return err
	}
	if c.Role == "mcp" {
		_, err := c.upstream().OpenForTools()
		return err
	}
	if _, err := c.openUpstreams(c.upstream()); err != nil {
		return err
	}
	site := pages.Site{Path: issuer.EscapedPath(), Scopes: scopeList(c.Scopes)}
	var faults []error
	for _, s := range []struct {
		name string
		o    pages.Options
	}{
		{"LOGO", pages.Options{Logo: c.Pages.Logo}},
		{"MESSAGES", pages.Options{Messages: c.Pages.Messages}},
		{"LOGIN_TEMPLATE", pages.Options{LoginTemplate: c.Pages.LoginTemplate}},
	} {
		if s.o == (pages.Options{}) {
			continue // no file
		}
		if _, err := pages.New(site, s.o); err != nil {
			faults = append(faults, fmt.Errorf("%s%s: %w", envPrefix, s.name, err))
		}
	}
	return errors.Join(faults...)
}

// unknown returns the variables that begin with SIGNET_ but are no settings, so that a
// typing error is noticed.
func (c *config) unknown() []string {
	known := map[string]bool{}
	for _, f := range variables() {
		known[envPrefix+f.Tag.Get("env")] = true
	}
	var names []string
	for name := range c.environ {
		if !known[name] && !strings.HasPrefix(name, envPrefix+"TEST_") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (c *config) proxies() ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, s := range c.TrustedProxies {
		p, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil {
			return nil, fmt.Errorf("%q is not a CIDR such as 10.0.0.0/8", s)
		}
		list = append(list, p.Masked())
	}
	return list, nil
}

func scopeList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' })
}

func (c *config) inDataDir(path, name string) string {
	if path != "" {
		return path
	}
	return filepath.Join(c.DataDir, name)
}

func (c *config) usersFile() string   { return c.inDataDir(c.Users, "users") }
func (c *config) clientsFile() string { return c.inDataDir(c.Clients, "clients.json") }

// openUsers opens the users file as the server does.
func (c *config) openUsers() (*users.File, error) {
	if c.GroupRead {
		return users.OpenMounted(c.usersFile())
	}
	return users.OpenFile(c.usersFile())
}

func (c *config) pages() pages.Options { return pages.Options(c.Pages) }

// redirectSchemes are never nil: nil stands for the default.
func (c *config) redirectSchemes() []string {
	if c.RedirectSchemes == "off" {
		return []string{}
	}
	return scopeList(c.RedirectSchemes)
}

func (c *config) registration() handlers.Registration {
	return handlers.Registration{Off: c.Registration == "off", Token: c.RegistrationToken}
}

// upstream is what the server takes of the upstreams.
func (c *config) upstream() server.Upstream {
	u := c.Upstream
	return server.Upstream{Issuer: u.Issuer, ClientID: u.ClientID, ClientSecret: u.ClientSecret, Config: u.Config, Key: u.Key, Environ: func(name string) (string, bool) {
		value, ok := c.all[name]
		return value, ok
	}}
}

// gateway is what the server takes of the gateway.
func (c *config) gateway() server.Gateway {
	g := c.Gateway
	return server.Gateway{Config: g.Config, ClientID: g.ClientID, ClientSecret: g.ClientSecret, ClientKey: g.ClientKey, Flags: c.gatewayFlags, Environ: c.upstream().Environ}
}

// localOptions turns the environment into what a server over stdin and stdout takes.
func (c *config) localOptions(log *slog.Logger) server.LocalOptions {
	return server.LocalOptions{App: c.AppName, Scopes: scopeList(c.Scopes), Upstream: c.upstream(), Username: c.Upstream.Username, Password: c.Upstream.Password, Log: log}
}

// options turns the environment into what the server takes.
func (c *config) options(log *slog.Logger) server.Options {
	proxies, _ := c.proxies() // checked already
	limits, _ := handlers.ParseLimits(c.Limits)
	o := server.Options{
		App: c.AppName, Issuer: c.Issuer, Listen: c.Listen, TLSCert: c.TLSCert, TLSKey: c.TLSKey, Role: c.Role, Resources: c.Resources,
		DataDir: c.DataDir, Secret: c.Secret, Store: c.inDataDir(c.Store, "signet.db"), UsersFile: c.usersFile(), ClientsFile: c.clientsFile(),
		Scopes: scopeList(c.Scopes), DefaultScopes: scopeList(c.DefaultScopes), RequiredScopes: scopeList(c.RequiredScopes),
		ScopeHierarchy: c.ScopeHierarchy, PublicTools: scopeList(c.PublicTools), HiddenTools: scopeList(c.HiddenTools),
		Lives: handlers.Lives(c.Lives), Limits: limits, Registration: c.registration(), Pages: c.pages(),
		RedirectSchemes: c.redirectSchemes(),
		ClientDocuments: server.ClientDocuments{Off: c.Documents.Fetch == "off", Hosts: c.Documents.Hosts, DeniedHosts: c.Documents.Denied, Files: c.Documents.Files},
		KeyRotation:     c.KeyRotation, KeysDir: c.KeysDir, TrustedProxies: proxies, MCPOrigins: c.MCPOrigins,
		MetricsListen: c.MetricsListen, DrainDelay: c.DrainDelay, Log: log,
	}
	o.GroupMayRead, o.Rollback = c.GroupRead, c.Rollback
	o.ClientQuirks, o.Upstream, o.Gateway = c.ClientQuirks, c.upstream(), c.gateway()
	o.RevocationPoll, o.RevocationMaxAge = c.RevocationPoll, c.RevocationMaxAge
	if c.Lives.Replay == 0 {
		o.Lives.Replay = server.Strict
	}
	if c.MetricsListen == "off" {
		o.MetricsListen = ""
	}
	if _, set := c.environ[envPrefix+"METRICS_LISTEN"]; !set {
		o.MetricsOptional = true
	}
	if _, set := c.environ[envPrefix+"DRAIN_DELAY"]; !set {
		o.DrainDelay = 0 // the server's default, which depends on the issuer
	} else if c.DrainDelay == 0 {
		o.DrainDelay = 1 // no delay: 0 would mean the default
	}
	return o
}

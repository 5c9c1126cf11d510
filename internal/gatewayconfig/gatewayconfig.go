// Package gatewayconfig reads the configuration file of the gateway: the MCP servers behind it,
// how callers are known to them, and what users connect. It does not connect to anything.
package gatewayconfig

import (
	"log/slog"
	"time"
)

// Config is a configuration without faults. Nobody changes it after Parse has returned it.
type Config struct {
	Servers     []*Server     // one for each id, in the order of the file
	Connections []*Connection // by which servers get credentials of users, or one of the gateway's own

	Prefix        bool   // names of tools begin with the id of their server
	Separator     string // between the id and the name of a tool; default: "."
	DenyByDefault bool   // only tools that a server exposes are served
	Routing       Routing

	// CallerIssuer is another issuer whose access tokens callers may bring (master_oauth.jwks_uri),
	// or nil.
	CallerIssuer *CallerIssuer

	// What a Config says in place of the process's own settings; empty: nothing.
	BaseURL      string
	Port         int
	AllAddresses bool // Port is that of all addresses of the machine, not of the loopback interface
	LogLevel     string

	Warnings []string // what holds although the file may suggest something else; each begins with a path

	hidden []string // values from elsewhere that are part of addresses and arguments
}

// Strategies of servers: what a server is sent to know the caller by.
const (
	MasterOAuth   = "master_oauth"   // an access token for the server's own audience
	DelegateOAuth = "delegate_oauth" // the user's token at a provider, which the user has connected
	ProxyOAuth    = "proxy_oauth"    // a credential of the gateway's own
	Upstream      = "upstream"       // the user's token at the upstream of the login
	UserKey       = "user_key"       // an API key that the user has entered
	Bypass        = "bypass_auth"    // nothing
	// Any other name is that of a strategy that the program has registered.
)

// GrantExchange is the grant of a connection by which each caller's token is exchanged for one of the
// server's (RFC 8693).
const GrantExchange = "exchange"

// Server is one MCP server behind the gateway, with one or several instances.
type Server struct {
	ID        string
	Name      string // for people; default: ID
	Instances []Instance
	Strategy  string
	Ask       string // how a user is asked for a connection: auto, elicit, challenge or error

	Audience    string   // master_oauth: resource of the token; default: the URL of the first instance
	TokenScopes []string // master_oauth: the part of the caller's scopes that the token has; nil: all of Scopes, or if there are none, all of the caller's
	Passthrough bool     // master_oauth: the server gets the caller's token itself
	Fallback    bool     // proxy_oauth: without a credential, the server gets the caller's token
	Token       Secret   // proxy_oauth: token_source; empty: Connection says where the credential comes from
	Connection  *Connection
	Header      string // header of the credential; default: Authorization
	Scheme      string // what stands before the credential in Header, such as "Bearer "

	Settings map[string]Secret // auth_config of a strategy that the program has registered

	Scopes []string          // that callers need for everything of this server
	Tools  map[string]Tool   // by the server's own names
	Expose []string          // patterns of path.Match; empty: all, unless Config.DenyByDefault
	Hide   []string          // patterns of what is not served
	Pins   map[string]string // by the server's own names: hash of what the operator has reviewed; nil: nothing is pinned

	Timeout     time.Duration // of one message; default: 60 s. A stream that sends events is not ended by it
	MaxAnswer   int           // bytes of one answer; default: 10 MiB
	MaxRequests int           // messages that run at once, over all instances; default: 64
	HealthEvery time.Duration // default: 30 s
}

// Tool is what the configuration says of one tool.
type Tool struct {
	Scopes     []string // besides those of the server
	Hide       bool     // callers without the scopes do not see it
	Idempotent bool     // may be repeated, whatever the server says
}

// Instance is one process or address of a server. Either URL or Command is set.
type Instance struct {
	URL     string            // http or https, of the MCP endpoint; or of the root, if Root
	Root    bool              // URL is only an origin: MCP is at /mcp, or else the server has the REST shape
	Command []string          // program and arguments, which speaks MCP over stdio
	Env     map[string]Secret // the whole environment of Command, besides PATH, HOME, LANG and TMPDIR
	Dir     string            // working directory of Command; default: the process's
	Weight  int               // default: 1
}

// Routing says how messages are shared out among instances, and what is repeated.
type Routing struct {
	Strategy string // round_robin, weighted or health

	FailureThreshold int // failed messages in a row that open the circuit breaker of an instance
	SuccessThreshold int // successful trials that close it
	Recovery         time.Duration

	Retries        int // at most; 0: nothing is repeated
	BaseDelay      time.Duration
	MaxDelay       time.Duration
	Backoff        float64
	Jitter         bool  // full jitter
	RetryNetwork   bool  // connection refused, reset, no answer
	RetryStatuses  []int // HTTP statuses
	RetryClasses   []int // such as 5
	RetryAnyMethod bool  // also what is not known to be safe to repeat
}

// Connection is a credential that the issuer's vault holds: of each user, or one of the gateway's own.
type Connection struct {
	ID      string // of the characters a to z, 0 to 9 and hyphen
	Name    string // for people
	Servers []string
	Own     bool   // the gateway's own, not a user's
	Key     bool   // an API key that each user enters; the rest does not count
	Grant   string // Own: refresh_token, client_credentials or exchange

	Provider              string // github, google, custom; or empty
	Issuer                string // for discovery; empty: the endpoints are set, or Resource says who is asked
	Resource              string // URL of the server that is asked for its issuer; empty: issuer or endpoints are set
	AuthorizationEndpoint string
	TokenEndpoint         string
	RevocationEndpoint    string
	ClientID              string // empty: Signet registers itself at the issuer that the server names
	ClientSecret          Secret
	ClientKey             Secret // PEM of a private key, for private_key_jwt
	RefreshToken          Secret // Own: the first one
	Scopes                []string
	Audience              string // Own: resource or audience of the request
	JWKSURI               string // custom
}

// CallerIssuer is an issuer other than Signet whose access tokens callers may bring.
type CallerIssuer struct {
	Issuer, JWKSURI, Audience string
}

// Secret is a value that no log shows.
type Secret string

// LogValue keeps the secret out of logs.
func (Secret) LogValue() slog.Value { return slog.StringValue("***") }

// String is for fmt: it does not show the secret.
func (Secret) String() string { return "***" }

// MarshalText keeps the secret out of JSON.
func (Secret) MarshalText() ([]byte, error) { return []byte("***"), nil }

package seal

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"log/slog"
	"time"
)

// Artefact is any type that can be sealed. Times are Unix seconds. JSON names are
// short because some artefacts travel in URLs. They are part of the format: names
// may be added, none may change.
type Artefact interface {
	Code | Refresh | Login | Session | Client | SigningKey | Backup | Upstream | Credential | UpstreamLogin | Account | Setting
	purpose() purpose
}

// Grant is one consent that one user gave to one client: the facts that its code
// and every refresh handle carry unchanged (OAuth 2.1 §4.3.1).
type Grant struct {
	ID          string   `json:"i"`           // from NewID
	Epoch       string   `json:"e"`           // of the store that remembers the grant
	Subject     string   `json:"u"`           // the resource owner
	UserVersion string   `json:"v,omitempty"` // changes with the password, and when the user is disabled
	ClientHash  string   `json:"c"`           // ClientHash of the client id
	ClientName  string   `json:"n,omitempty"` // as the consent page showed it, for the list of connected apps
	ConsentHash string   `json:"h,omitempty"` // hash of what was consented to, by whom and for whom
	Scope       []string `json:"s"`
	Resource    string   `json:"r"` // the one audience (RFC 8707)
	AuthTime    int64    `json:"a"`
	Expires     int64    `json:"x"`           // absolute end of the grant, which no rotation moves
	Issued      int64    `json:"t,omitempty"` // time of the consent, never before the client was added; 0 in a grant of an older release
	Lost        []string `json:"l,omitempty"` // scopes that were granted, and that client or user may no longer have
}

// Code is an authorization code (OAuth 2.1 §4.1.2): generation 0 of its grant.
type Code struct {
	Grant       Grant  `json:"g"`
	RedirectURI string `json:"r"`
	Challenge   string `json:"c"` // code_challenge of the method S256 (RFC 7636 §4.2)
	Nonce       string `json:"n,omitempty"`
	Expires     int64  `json:"x"`
	Ends        int64  `json:"l,omitempty"` // the latest end of the grant, if the user chose one
}

// Refresh is a refresh handle: generation Gen >= 1 of its grant.
type Refresh struct {
	Grant   Grant `json:"g"`
	Gen     int64 `json:"n"`
	Expires int64 `json:"x"` // end of this handle if it is not used, never after Grant.Expires
}

// Login is a login transaction: one authorization request on its way through the
// login and consent pages. Browser is the hash of a random value in a cookie, so
// that only the browser in which the transaction began can go on with it.
type Login struct {
	ID          string   `json:"i"`
	GrantID     string   `json:"g"`
	Epoch       string   `json:"e"`
	Browser     string   `json:"b"`
	ClientID    string   `json:"c"`
	RedirectURI string   `json:"r"`
	State       string   `json:"s,omitempty"`
	Scope       []string `json:"o"`
	Asked       []string `json:"q,omitempty"` // scope of the request, if the user may grant only Scope of it
	Resource    string   `json:"a"`
	Challenge   string   `json:"h"`
	Nonce       string   `json:"n,omitempty"`
	Prompt      string   `json:"p,omitempty"`
	MaxAge      *int64   `json:"m,omitempty"`
	Hint        string   `json:"d,omitempty"` // subject of the id_token_hint: no other user gets a code
	Provider    string   `json:"w,omitempty"` // upstream at which the user signs in after the consent
	Connect     *Connect `json:"f,omitempty"` // nil: the user is not asked to connect anything
	Expires     int64    `json:"x"`

	// Set once the user has signed in, for the consent page.
	Subject     string `json:"u,omitempty"`
	UserVersion string `json:"v,omitempty"`
	AuthTime    int64  `json:"t,omitempty"`
	Session     string `json:"z,omitempty"` // id of the login session in which the consent page is shown
}

// Connect is what a user is asked to connect for the gateway: after a login of which the user has
// approved the request, or by a link.
type Connect struct {
	// Of a link.
	Query  string   `json:"q,omitempty"` // its query, while the user signs in first
	Only   string   `json:"o,omitempty"` // id of the connection
	Scope  []string `json:"s,omitempty"` // asked of the provider
	Return string   `json:"r,omitempty"` // path where the browser goes afterwards

	// After a login: what the user has granted to the client, as in a Code.
	Granted []string `json:"g,omitempty"`
	Kind    string   `json:"k,omitempty"`
	Ends    int64    `json:"e,omitempty"`
	How     string   `json:"h,omitempty"`
}

// Session is a login session: the cookie that saves a user the password.
type Session struct {
	ID          string   `json:"i"`
	Epoch       string   `json:"e"`
	Subject     string   `json:"u"`
	UserVersion string   `json:"v,omitempty"`
	Scope       []string `json:"o,omitempty"` // scopes that the user may grant, if only the login knows them
	AuthTime    int64    `json:"t"`
	Expires     int64    `json:"x"`
}

// Client is a registered client (RFC 7591): its sealed form is the client id, so a
// registration needs no row. It holds only what the server enforces or shows.
type Client struct {
	Name         string   `json:"n,omitempty"`
	RedirectURIs []string `json:"r"`
	Method       string   `json:"m"` // token_endpoint_auth_method
	Scope        []string `json:"s,omitempty"`
	Issued       int64    `json:"t"`

	PostLogoutRedirectURIs []string `json:"l,omitempty"`
}

// SigningKey is the private half of a signing key at rest.
type SigningKey struct {
	KeyID   string `json:"k"`
	Private []byte `json:"d"` // PKCS #8
}

// Backup is the end of a backup. Only a process with the root secret can seal it, so
// it vouches for everything before it.
type Backup struct {
	Sum []byte `json:"s"` // SHA-256 of all bytes before it
}

// Upstream is what an access token contains of the user's own token at the upstream by which
// the user signed in. [UpstreamKeys] open it too.
type Upstream struct {
	GrantID  string `json:"g"` // of the access token, so that the claim counts in no other
	Provider string `json:"p"` // id of the upstream
	Version  int64  `json:"v"` // of the vault's entry
	Access   string `json:"a,omitempty"`
	Expires  int64  `json:"x,omitempty"` // of Access; 0: not known
	Large    bool   `json:"l,omitempty"` // Access is too long for a claim: the issuer has it
}

// Credential is what an upstream gave for a user, as the vault keeps it.
type Credential struct {
	Subject  string   `json:"u"`
	Provider string   `json:"p"`
	Bound    string   `json:"b"` // names the issuer and the client for which it was made
	Access   string   `json:"a"`
	Refresh  string   `json:"r,omitempty"`
	Scope    []string `json:"s,omitempty"`
	Obtained int64    `json:"o"`
	Expires  int64    `json:"x,omitempty"` // of Access; 0: not known

	// Of what a user connected for the gateway.
	Since int64  `json:"c,omitempty"` // when
	User  string `json:"w,omitempty"` // hash of the user's version at that time; empty: the user has none
	Used  int64  `json:"l,omitempty"` // when it was last given out, to the hour; 0: never

	// Of the client that this server has become where no operator registered it.
	Registration *Registration `json:"i,omitempty"`
}

// Registration is a client of this server's at an authorization server.
type Registration struct {
	Issuer   string   `json:"i"` // which stays the one for the connection
	Resource string   `json:"r,omitempty"`
	Scope    []string `json:"s,omitempty"` // that the resource asks for
	ClientID string   `json:"c,omitempty"` // empty: the server has forgotten the client
	Secret   string   `json:"k,omitempty"`
	Method   string   `json:"m,omitempty"` // by which the client sends Secret; empty: as the server's metadata says
	Expires  int64    `json:"x,omitempty"` // of Secret; 0: never
}

// UpstreamLogin is a login on its way through an upstream: an authorization request that the
// user has approved, or a visit of the account page. It lies in a cookie, whose name the
// upstream's state parameter gives.
type UpstreamLogin struct {
	ID       string   `json:"i"` // from NewID; it is the state parameter
	Provider string   `json:"p"`
	Bound    string   `json:"b"` // as that of a Credential
	Login    Login    `json:"l"`
	Verifier string   `json:"v"` // code_verifier (RFC 7636 §4.1)
	Nonce    string   `json:"n"` // of the id token (OpenID Connect Core §3.1.2.1)
	Scope    []string `json:"s,omitempty"`
	Kind     string   `json:"k,omitempty"` // of the consent
	Ends     int64    `json:"e,omitempty"` // of the grant, if the user chose it
	Expires  int64    `json:"x"`
}

// Account is what an upstream, or a program's own check, said about a user, as the store keeps
// it.
type Account struct {
	Subject     string   `json:"u"`
	Name        string   `json:"n,omitempty"`
	Email       string   `json:"e,omitempty"`
	DisplayName string   `json:"d,omitempty"`
	Picture     string   `json:"p,omitempty"`
	Scopes      []string `json:"s,omitempty"` // that the user may grant; empty: the server's default ones, unless NoScope
	NoScope     bool     `json:"z,omitempty"` // the user may grant none
}

// Setting is a secret in a configuration file that other people may read.
type Setting struct {
	Value  string `json:"v"`
	Sealed int64  `json:"t"`
}

func (Code) purpose() purpose          { return forCode }
func (Refresh) purpose() purpose       { return forRefresh }
func (Login) purpose() purpose         { return forLogin }
func (Session) purpose() purpose       { return forSession }
func (Client) purpose() purpose        { return forClient }
func (SigningKey) purpose() purpose    { return forKey }
func (Backup) purpose() purpose        { return forBackup }
func (Upstream) purpose() purpose      { return forUpstream }
func (Credential) purpose() purpose    { return forCredential }
func (UpstreamLogin) purpose() purpose { return forUpstreamLogin }
func (Account) purpose() purpose       { return forAccount }
func (Setting) purpose() purpose       { return forSetting }

// LogValue keeps the private half out of logs.
func (k SigningKey) LogValue() slog.Value { return slog.StringValue("[signing key " + k.KeyID + "]") }

// LogValue keeps the secret out of logs.
func (Setting) LogValue() slog.Value { return slog.StringValue("[setting]") }

// LogValue keeps tokens out of logs.
func (u Upstream) LogValue() slog.Value { return slog.StringValue("[token of " + u.Provider + "]") }

// LogValue keeps tokens out of logs.
func (c Credential) LogValue() slog.Value { return slog.StringValue("[tokens of " + c.Provider + "]") }

// LogValue keeps the verifier out of logs.
func (l UpstreamLogin) LogValue() slog.Value {
	return slog.StringValue("[login by " + l.Provider + "]")
}

var idEncoding = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// NewID makes a random identifier of 23 characters. It begins with the time, in
// seconds, until which a store must remember it, so that identifiers sort by that
// time: a store appends in one place and deletes by range. The rest is 72 random
// bits, enough for one that is unique in its second and that nobody guesses.
func NewID(rememberUntil time.Time) string {
	var b [14]byte
	sec := rememberUntil.Unix()
	for i := range 5 {
		b[i] = byte(sec >> (8 * (4 - i)))
	}
	rand.Read(b[5:])
	return idEncoding.EncodeToString(b[:])
}

// IDsBefore returns a bound that sorts after every identifier that [NewID] made
// with a time before t, in seconds, and before every other identifier.
func IDsBefore(t time.Time) string {
	var b [5]byte
	sec := t.Unix()
	for i := range b {
		b[i] = byte(sec >> (8 * (4 - i)))
	}
	return idEncoding.EncodeToString(b[:]) // 40 bits are 8 whole characters
}

// ClientHash returns the short form of a client id that grants carry and the store
// keeps: registered client ids are long, and the store need not know them.
func ClientHash(clientID string) string {
	h := sha256.Sum256([]byte(clientID))
	return encoding.EncodeToString(h[:16])
}

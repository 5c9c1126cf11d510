package seal

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"log/slog"
	"time"
)

// Artefact is what can be sealed. Times are Unix seconds. JSON names are short
// because some artefacts travel in URLs; they are part of the format, so they are
// added to, never changed.
type Artefact interface {
	Code | Refresh | Login | Session | Client | SigningKey | Backup
	purpose() purpose
}

// Grant is what one user gave to one client in one consent: the facts that its
// code and every refresh handle carry unchanged (OAuth 2.1 §4.3.1).
type Grant struct {
	ID          string   `json:"i"`           // see NewGrantID
	Epoch       string   `json:"e"`           // of the store that must vouch for it
	Subject     string   `json:"u"`           // the resource owner
	UserVersion string   `json:"v,omitempty"` // moves with a password change or a disable
	ClientHash  string   `json:"c"`           // ClientHash of the client id
	ClientName  string   `json:"n,omitempty"` // as it was shown, for the list of connected apps
	ConsentHash string   `json:"h,omitempty"` // user, client, redirect URI, scopes and resource
	Scope       []string `json:"s"`
	Resource    string   `json:"r"` // the one audience (RFC 8707)
	AuthTime    int64    `json:"a"`
	Expires     int64    `json:"x"` // absolute end of the grant; no rotation moves it
}

// Code is an authorization code (OAuth 2.1 §4.1.2): generation 0 of its grant.
type Code struct {
	Grant       Grant  `json:"g"`
	RedirectURI string `json:"r"`
	Challenge   string `json:"c"` // S256
	Nonce       string `json:"n,omitempty"`
	Expires     int64  `json:"x"`
}

// Refresh is a refresh handle: generation Gen >= 1 of its grant.
type Refresh struct {
	Grant   Grant `json:"g"`
	Gen     int64 `json:"n"`
	Expires int64 `json:"x"` // idle end of this handle, never after Grant.Expires
}

// Login is a login transaction: one authorization request on its way through the
// login and consent pages. Browser is the hash of a random value in a cookie, so
// only the browser that began it can go on with it.
type Login struct {
	ID          string   `json:"i"`
	GrantID     string   `json:"g"`
	Epoch       string   `json:"e"`
	Browser     string   `json:"b"`
	ClientID    string   `json:"c"`
	RedirectURI string   `json:"r"`
	State       string   `json:"s,omitempty"`
	Scope       []string `json:"o"`
	Resource    string   `json:"a"`
	Challenge   string   `json:"h"`
	Nonce       string   `json:"n,omitempty"`
	Prompt      string   `json:"p,omitempty"`
	MaxAge      *int64   `json:"m,omitempty"`
	Expires     int64    `json:"x"`

	// Set once the user has signed in; the consent page carries it on.
	Subject     string `json:"u,omitempty"`
	UserVersion string `json:"v,omitempty"`
	AuthTime    int64  `json:"t,omitempty"`
}

// Session is a login session: the cookie that lets a user skip the password.
type Session struct {
	ID          string   `json:"i"`
	Epoch       string   `json:"e"`
	Subject     string   `json:"u"`
	UserVersion string   `json:"v,omitempty"`
	Scope       []string `json:"o,omitempty"` // what the user may grant, where only the login can tell
	AuthTime    int64    `json:"t"`
	Expires     int64    `json:"x"`
}

// Client is a registered client (RFC 7591): its sealed form is the client id, so a
// registration needs no row. Only what is enforced or shown is in it.
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

// Backup is the end of a backup: who can seal made all of it.
type Backup struct {
	Sum []byte `json:"s"` // SHA-256 of what is before
}

func (Code) purpose() purpose       { return forCode }
func (Refresh) purpose() purpose    { return forRefresh }
func (Login) purpose() purpose      { return forLogin }
func (Session) purpose() purpose    { return forSession }
func (Client) purpose() purpose     { return forClient }
func (SigningKey) purpose() purpose { return forKey }
func (Backup) purpose() purpose     { return forBackup }

// LogValue keeps the private half out of logs.
func (k SigningKey) LogValue() slog.Value { return slog.StringValue("[signing key " + k.KeyID + "]") }

var idEncoding = base32.NewEncoding("0123456789abcdefghijklmnopqrstuv").WithPadding(base32.NoPadding)

// NewID makes a random identifier that begins with the time until which it must
// be remembered, so that ids sort by it: a store appends in one place and forgets
// by range. The rest is 88 random bits.
func NewID(rememberUntil time.Time) string {
	var b [16]byte
	sec := rememberUntil.Unix()
	for i := range 5 {
		b[i] = byte(sec >> (8 * (4 - i)))
	}
	rand.Read(b[5:])
	return idEncoding.EncodeToString(b[:])
}

// IDsBefore returns a bound that sorts after every [NewID] made with a time
// before t, and before every other one.
func IDsBefore(t time.Time) string {
	var b [5]byte
	sec := t.Unix()
	for i := range b {
		b[i] = byte(sec >> (8 * (4 - i)))
	}
	return idEncoding.EncodeToString(b[:]) // 40 bits are 8 whole characters
}

// ClientHash is the short form of a client id that grants carry and the store
// keeps: registered client ids are long, and the store need not know them.
func ClientHash(clientID string) string {
	h := sha256.Sum256([]byte(clientID))
	return encoding.EncodeToString(h[:16])
}

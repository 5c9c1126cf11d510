package oauth

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Code is an error code that an RFC or OpenID Connect registers.
type Code string

// The codes that Signet answers with.
const (
	InvalidRequest          Code = "invalid_request"           // RFC 6749 §5.2
	InvalidClient           Code = "invalid_client"            // RFC 6749 §5.2
	InvalidGrant            Code = "invalid_grant"             // RFC 6749 §5.2
	InvalidScope            Code = "invalid_scope"             // RFC 6749 §5.2
	UnauthorizedClient      Code = "unauthorized_client"       // RFC 6749 §5.2
	UnsupportedGrantType    Code = "unsupported_grant_type"    // RFC 6749 §5.2
	UnsupportedResponseType Code = "unsupported_response_type" // RFC 6749 §4.1.2.1
	AccessDenied            Code = "access_denied"             // RFC 6749 §4.1.2.1
	ServerError             Code = "server_error"              // RFC 6749 §4.1.2.1
	TemporarilyUnavailable  Code = "temporarily_unavailable"   // RFC 6749 §4.1.2.1
	InvalidToken            Code = "invalid_token"             // RFC 6750 §3.1
	InsufficientScope       Code = "insufficient_scope"        // RFC 6750 §3.1
	UnsupportedTokenType    Code = "unsupported_token_type"    // RFC 7009 §2.2.1
	InvalidRedirectURI      Code = "invalid_redirect_uri"      // RFC 7591 §3.2.2
	InvalidClientMetadata   Code = "invalid_client_metadata"   // RFC 7591 §3.2.2
	InvalidTarget           Code = "invalid_target"            // RFC 8707 §2
	LoginRequired           Code = "login_required"            // OpenID Connect Core §3.1.2.6
	ConsentRequired         Code = "consent_required"          // OpenID Connect Core §3.1.2.6
	InteractionRequired     Code = "interaction_required"      // OpenID Connect Core §3.1.2.6
	RequestNotSupported     Code = "request_not_supported"     // OpenID Connect Core §3.1.2.6
	RequestURINotSupported  Code = "request_uri_not_supported" // OpenID Connect Core §3.1.2.6
)

// maxDescription is the longest description in bytes, as it may repeat a foreign value.
const maxDescription = 300

// Error is an error that a client may see: a registered code, a description for the
// developer of the client, and a cause that only the log gets. Its methods change
// nothing in it, so values may be shared.
type Error struct {
	Code        Code   `json:"error"`
	Description string `json:"error_description,omitempty"`

	cause  error
	status int // in place of the status that follows from Code; 0: none
}

// Errorf returns an Error. It replaces characters that RFC 6749 §5.2 does not allow in
// a description, so args may contain foreign values. They must not contain secrets.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Description: describable(fmt.Sprintf(format, args...))}
}

// Because returns a copy of e with a cause for the log.
func (e *Error) Because(cause error) *Error {
	c := *e
	c.cause = cause
	return &c
}

// WithStatus returns a copy of e with an HTTP status that does not follow from its
// code: 413, 415, 429.
func (e *Error) WithStatus(status int) *Error {
	c := *e
	c.status = status
	return &c
}

// Error returns the text for the log: code, description and cause.
func (e *Error) Error() string {
	s := string(e.Code)
	if e.Description != "" {
		s += ": " + e.Description
	}
	if e.cause != nil {
		s += ": " + e.cause.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// Status returns the HTTP status of the JSON and the challenge rendering.
func (e *Error) Status() int {
	if e.status != 0 {
		return e.status
	}
	switch e.Code {
	case InvalidClient, InvalidToken:
		return http.StatusUnauthorized
	case InsufficientScope, AccessDenied:
		return http.StatusForbidden
	case ServerError:
		return http.StatusInternalServerError
	case TemporarilyUnavailable:
		return http.StatusServiceUnavailable
	default:
		return http.StatusBadRequest
	}
}

// AsError returns the [*Error] in err's chain, or a server_error caused by err: any
// other error is a failure of the server. It returns nil for nil. The caller maps
// failing stores and passed deadlines to temporarily_unavailable first.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: ServerError, cause: err}
}

// WriteJSON writes the JSON rendering (RFC 6749 §5.2). The answer to a client that
// tried HTTP Basic and failed has the WWW-Authenticate header that the RFC demands. An
// answer 429 or 503 has a Retry-After between 1 and 5 seconds, chosen at random so
// that clients refused together do not return together; a Retry-After that the caller
// has set stays.
func (e *Error) WriteJSON(w http.ResponseWriter, usedBasic bool) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	if e.Code == InvalidClient && usedBasic {
		h.Set("WWW-Authenticate", `Basic realm="OAuth"`)
	}
	status := e.Status()
	if (status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests) && h.Get("Retry-After") == "" {
		h.Set("Retry-After", strconv.Itoa(1+rand.IntN(5)))
	}
	body, err := json.Marshal(Error{Code: e.Code, Description: describable(e.Description)})
	if err != nil {
		body = []byte(`{"error":"server_error"}`) // unreachable: two strings always marshal
	}
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // an error means that the connection is gone, and the client with it
}

// RedirectTo returns the redirect rendering (RFC 6749 §4.1.2.1) with iss (RFC 9207 §2).
// redirectURI must be a registered one of a known client; its query is kept. An empty
// state means that the client sent none, and is left out.
func (e *Error) RedirectTo(redirectURI, state, issuer string) string {
	return respond(redirectURI, "error", string(e.Code), "error_description", describable(e.Description), "state", state, "iss", issuer)
}

// AuthorizationResponse is the counterpart of [Error.RedirectTo] for a success: it
// returns redirectURI with code, state and iss (RFC 6749 §4.1.2, RFC 9207 §2).
func AuthorizationResponse(redirectURI, code, state, issuer string) string {
	return respond(redirectURI, "code", code, "state", state, "iss", issuer)
}

// LogoutResponse returns the URI to which the browser goes after a logout that a
// client asked for: redirectURI with state (OpenID Connect RP-Initiated Logout §3).
func LogoutResponse(redirectURI, state string) string { return respond(redirectURI, "state", state) }

// respond appends those of the given parameters that are not empty to a redirect URI.
// The URI's own query stays byte for byte: parsing and printing would change it.
func respond(redirectURI string, pairs ...string) string {
	var b strings.Builder
	b.WriteString(redirectURI)
	sep := byte('?')
	if strings.Contains(redirectURI, "?") {
		sep = '&'
	}
	if strings.HasSuffix(redirectURI, "?") || strings.HasSuffix(redirectURI, "&") {
		sep = 0
	}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			continue
		}
		if sep != 0 {
			b.WriteByte(sep)
		}
		b.WriteString(pairs[i] + "=" + url.QueryEscape(pairs[i+1]))
		sep = '&'
	}
	return b.String()
}

// Challenge returns the bearer rendering, the value of WWW-Authenticate (RFC 6750 §3,
// RFC 9728 §5.1). A nil Error stands for a request without credentials, whose challenge
// has no error code (RFC 6750 §3.1): some clients begin a login only then.
//
// Clients find the parameters with regular expressions and take the first match.
// Therefore every value is quoted, and no description looks like a parameter.
func (e *Error) Challenge(resourceMetadata string, scope []string) string {
	const description = "error_description"
	about := []string{"resource_metadata", resourceMetadata}
	scopes := []string{"scope", FormatScope(scope)}
	if e == nil {
		return challenge(about, scopes)
	}
	code := []string{"error", string(e.Code)}
	text := []string{description, strings.ReplaceAll(describable(e.Description), "=", ":")}
	if e.Code == InsufficientScope {
		return challenge(code, scopes, about, text)
	}
	return challenge(code, text, about, scopes)
}

func challenge(params ...[]string) string {
	var list []string
	for _, p := range params {
		if p[1] != "" {
			list = append(list, p[0]+`="`+printable(p[1])+`"`)
		}
	}
	return strings.TrimSpace("Bearer " + strings.Join(list, ", "))
}

// describable makes s fit for error_description: at most maxDescription bytes, and in
// the character set.
func describable(s string) string {
	s = printable(s)
	if len(s) > maxDescription {
		s = s[:maxDescription-3] + "..."
	}
	return s
}

// printable replaces characters outside of %x20-21 / %x23-5B / %x5D-7E, the set of a
// description (RFC 6749 §5.2). Characters of the set need no escape in a quoted string.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '"':
			return '\''
		case r < 0x20 || r > 0x7e || r == '\\':
			return '?'
		}
		return r
	}, s)
}

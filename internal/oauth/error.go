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

// Code is a registered error code.
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

// maxDescription bounds what of a foreign value an error repeats.
const maxDescription = 300

// Error is what a client may see: a registered code and a description for the
// developer on the other side; plus a cause that only the log gets.
type Error struct {
	Code        Code   `json:"error"`
	Description string `json:"error_description,omitempty"`

	cause  error
	status int // replaces the status that follows from Code
}

// Errorf returns an Error. Characters that RFC 6749 §5.2 does not allow in a
// description are replaced, so foreign values may be among args. Secrets may not.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Description: describable(fmt.Sprintf(format, args...))}
}

// Because returns e with a cause for the log.
func (e *Error) Because(cause error) *Error {
	c := *e
	c.cause = cause
	return &c
}

// WithStatus returns e with another HTTP status than the one that its code
// stands for: 413, 415, 429.
func (e *Error) WithStatus(status int) *Error {
	c := *e
	c.status = status
	return &c
}

// Error is the text for the log: code, description and cause.
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

// Status is the HTTP status of the JSON and the challenge rendering.
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

// AsError returns the [*Error] in err's chain, or a server_error caused by err: an
// error that nobody made for the client means that we failed. The caller maps
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

// WriteJSON is the JSON rendering (RFC 6749 §5.2). A client that tried HTTP Basic
// and failed is told so by the header that the RFC demands. Retry-After is spread
// over some seconds, so that clients turned away together do not return together;
// one that the caller has set stays.
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
		body = []byte(`{"error":"server_error"}`) // two strings always marshal
	}
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // nobody is left to tell when the connection is gone
}

// RedirectTo is the redirect rendering (RFC 6749 §4.1.2.1) with iss (RFC 9207 §2).
// redirectURI must be the registered one of a known client; its query is kept. An
// empty state was not sent and is not returned.
func (e *Error) RedirectTo(redirectURI, state, issuer string) string {
	return respond(redirectURI, "error", string(e.Code), "error_description", describable(e.Description), "state", state, "iss", issuer)
}

// AuthorizationResponse is the successful counterpart of [Error.RedirectTo]:
// redirectURI with code, state and iss (RFC 6749 §4.1.2, RFC 9207 §2).
func AuthorizationResponse(redirectURI, code, state, issuer string) string {
	return respond(redirectURI, "code", code, "state", state, "iss", issuer)
}

// LogoutResponse is where the browser goes after a logout that a client asked for:
// redirectURI with state (OpenID Connect RP-Initiated Logout §3).
func LogoutResponse(redirectURI, state string) string { return respond(redirectURI, "state", state) }

// respond appends the non-empty ones of the given parameters to a redirect URI.
// Its own query is kept byte for byte: parsing and printing it would change it.
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

// Challenge is the bearer rendering, the value of WWW-Authenticate (RFC 6750 §3,
// RFC 9728 §5.1). A nil Error stands for a request without credentials, which is
// told no error code (RFC 6750 §3.1): some clients begin a login only then.
//
// Clients find the parameters with regular expressions and take the first match.
// So every value is quoted, and no description looks like a parameter.
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

// describable makes s fit for error_description: short, and in the charset.
func describable(s string) string {
	s = printable(s)
	if len(s) > maxDescription {
		s = s[:maxDescription-3] + "..."
	}
	return s
}

// printable replaces what is not in %x20-21 / %x23-5B / %x5D-7E, the characters
// of a description (RFC 6749 §5.2). They need no escape in a quoted string either.
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

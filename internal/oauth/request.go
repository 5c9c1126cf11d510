package oauth

import (
	"bytes"
	"encoding/base64"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"signet/internal/rawjson"
)

// Limits of a request, the latter two in bytes.
const (
	maxParameters = 1000
	maxState      = 4 << 10
	maxBasic      = 8 << 10
)

// singleValued are the request parameters that an endpoint reads. None may occur twice
// (OAuth 2.1 §3.1). All others are ignored, so they may.
var singleValued = []string{
	"client_id", "redirect_uri", "client_secret", "client_assertion", "client_assertion_type",
	"response_type", "response_mode", "scope", "state", "nonce", "code_challenge", "code_challenge_method", "resource",
	"prompt", "max_age", "login_hint", "id_token_hint", "display", "ui_locales", "claims", "acr_values", "request", "request_uri", "dpop_jkt",
	"grant_type", "code", "code_verifier", "refresh_token", "assertion", "token", "token_type_hint",
	"subject_token", "subject_token_type", "actor_token", "actor_token_type", "requested_token_type",
	"username", "password", "decision", "post_logout_redirect_uri",
	"logout_token", "proof", "stale",
}

// Form reads the parameters in the body of a POST of at most limit bytes; parameters in
// the URL do not count. A request without a body has none, and needs no content type. Form is
// stricter than net/http. The error is invalid_request for
// another content type (415), a longer body (413), a malformed escape, a semicolon,
// text that is not UTF-8, more than 1,000 parameters, and a known parameter that occurs
// twice. A second resource is invalid_target, because a token has one audience. Unknown
// parameters stay, also if they occur twice. A parameter without a value counts as
// omitted (OAuth 2.1 §3.1).
func Form(w http.ResponseWriter, r *http.Request, limit int64) (url.Values, error) {
	const form = "application/x-www-form-urlencoded"
	media := r.Header.Get("Content-Type")
	if media == "" && r.ContentLength == 0 {
		return url.Values{}, nil
	}
	if media != form && !isMedia(media, form) {
		return nil, Errorf(InvalidRequest, "Content-Type must be %s", form).WithStatus(http.StatusUnsupportedMediaType)
	}
	scratch := rawjson.Buffer()
	defer rawjson.Release(scratch)
	body := bytes.NewBuffer(*scratch)
	_, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, limit))
	*scratch = body.Bytes()
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		return nil, Errorf(InvalidRequest, "body is longer than %d bytes", limit).WithStatus(http.StatusRequestEntityTooLarge)
	case err != nil:
		return nil, Errorf(InvalidRequest, "body could not be read").Because(err)
	}
	v, err := parse(body.String())
	if err != nil {
		return nil, err
	}
	return v, CheckDuplicates(v)
}

func isMedia(header, want string) bool {
	media, _, err := mime.ParseMediaType(header)
	return err == nil && media == want
}

// Query reads the parameters of an authorization request as strictly as [Form], but
// leaves duplicates to the caller: if client_id or redirect_uri occurs twice
// ([Duplicated]) the caller must not redirect, for the others ([CheckDuplicates]) it
// may. The caller must not redirect an error of Query itself either, because the target
// of the redirect is among the parameters that could not be read.
func Query(r *http.Request) (url.Values, error) { return parse(r.URL.RawQuery) }

func parse(encoded string) (url.Values, error) {
	if strings.Count(encoded, "&") >= maxParameters {
		return nil, Errorf(InvalidRequest, "more than %d parameters", maxParameters)
	}
	v, err := url.ParseQuery(encoded)
	if err != nil {
		// The error of url.ParseQuery repeats the value, which may be a secret.
		return nil, Errorf(InvalidRequest, "parameters are malformed: bad escape or semicolon")
	}
	for name, values := range v {
		if !utf8.ValidString(name) || slices.ContainsFunc(values, notUTF8) {
			return nil, Errorf(InvalidRequest, "parameters are not UTF-8") // RFC 6749 Appendix B
		}
		if len(values) == 1 && values[0] == "" {
			delete(v, name)
		}
	}
	return v, nil
}

func notUTF8(s string) bool { return !utf8.ValidString(s) }

// Duplicated returns the first of names that occurs more than once in v, "" if none
// does.
func Duplicated(v url.Values, names ...string) string {
	for _, name := range names {
		if len(v[name]) > 1 {
			return name
		}
	}
	return ""
}

// CheckDuplicates returns invalid_request, or invalid_target for resource, if a known
// parameter occurs twice, with the same value or with another.
func CheckDuplicates(v url.Values) error {
	if !hasDuplicates(v) {
		return nil
	}
	switch name := Duplicated(v, singleValued...); name {
	case "":
		return nil
	case "resource":
		// RFC 8707 §2 allows several; a token here has exactly one audience.
		return Errorf(InvalidTarget, "more than one resource")
	default:
		return Errorf(InvalidRequest, "%s occurs more than once", name)
	}
}

func hasDuplicates(v url.Values) bool {
	for _, values := range v {
		if len(values) > 1 {
			return true
		}
	}
	return false
}

// CheckState returns invalid_request for a state of more than 4 KB, which is too long to
// travel through the login and back. Shorter ones come back byte for byte, or are refused together
// with a request that is too long as a whole.
func CheckState(state string) error {
	if len(state) > maxState {
		return Errorf(InvalidRequest, "state is longer than %d bytes", maxState)
	}
	return nil
}

// BasicCredentials are the credentials of a Basic header, as sent and form-decoded.
// RFC 6749 §2.3.1 wants them form-encoded, but most clients send them raw, so the caller
// has to try both. If they do not decode, both are the same.
type BasicCredentials struct{ ID, Secret, DecodedID, DecodedSecret string }

// Basic reads client credentials from an Authorization header (RFC 7617 §2). ok is
// false if the header has no scheme or another one; err is invalid_client for a Basic
// header that cannot be read.
func Basic(header string) (c BasicCredentials, ok bool, err error) {
	scheme, encoded, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return c, false, nil
	}
	refused := Errorf(InvalidClient, "Invalid client: malformed Basic credentials")
	// DecodeString skips line breaks.
	if len(encoded) > maxBasic || strings.ContainsAny(encoded, "\r\n") {
		return c, true, refused
	}
	b, err := base64.StdEncoding.Strict().DecodeString(strings.Trim(encoded, " "))
	if err != nil || !utf8.Valid(b) || strings.ContainsFunc(string(b), control) {
		return c, true, refused
	}
	if c.ID, c.Secret, ok = strings.Cut(string(b), ":"); !ok || c.ID == "" {
		return BasicCredentials{}, true, refused
	}
	c.DecodedID, c.DecodedSecret = formDecoded(c.ID), formDecoded(c.Secret)
	return c, true, nil
}

// Bearer returns the token in the lines of an Authorization header, the only place from
// which a token is read: query, body and cookies are not (OAuth 2.1 §5.1). ok is false
// if there is no header or one of another scheme. err is invalid_request for more than
// one credential, and invalid_token for a malformed one.
func Bearer(lines []string) (rawToken string, ok bool, err error) {
	switch len(lines) {
	case 0:
		return "", false, nil
	case 1:
	default:
		return "", true, Errorf(InvalidRequest, "more than one Authorization header")
	}
	scheme, rawToken, _ := strings.Cut(strings.TrimSpace(lines[0]), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", false, nil
	}
	rawToken = strings.TrimLeft(rawToken, " ")
	switch {
	case strings.Contains(rawToken, ","):
		// Two header lines that a proxy has joined.
		return "", true, Errorf(InvalidRequest, "more than one credential in the Authorization header")
	case rawToken == "" || strings.Contains(rawToken, " ") || strings.Contains(rawToken, "\t"): // ContainsAny takes a microsecond
		return "", true, Errorf(InvalidToken, "malformed bearer token")
	}
	return rawToken, true, nil
}

func formDecoded(s string) string {
	decoded, err := url.QueryUnescape(s)
	if err != nil || !utf8.ValidString(decoded) || strings.ContainsFunc(decoded, control) {
		return s
	}
	return decoded
}

func control(r rune) bool { return r < 0x20 || r == 0x7f }

// TracingHeaders are the request headers that tracing and error reporting in a browser add
// to every request: W3C Trace Context and Baggage, Sentry, B3, Datadog, New Relic, Elastic,
// Jaeger, AWS and Google Cloud, and the marks of older libraries. They are allowed wherever
// scripts may call (Fetch, CORS-preflight), or a page that is traced could not connect. The
// server does not read them.
const TracingHeaders = "traceparent, tracestate, baggage, sentry-trace, x-requested-with, x-request-id, x-correlation-id, " +
	"b3, x-b3-traceid, x-b3-spanid, x-b3-parentspanid, x-b3-sampled, x-b3-flags, " +
	"x-datadog-trace-id, x-datadog-parent-id, x-datadog-origin, x-datadog-sampling-priority, x-datadog-tags, " +
	"newrelic, elastic-apm-traceparent, uber-trace-id, x-amzn-trace-id, x-cloud-trace-context"

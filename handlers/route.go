package handlers

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"signet/handlers/pages"
	"signet/internal/admission"
	"signet/internal/clients"
	"signet/internal/oauth"
	"signet/internal/rawjson"
	"signet/internal/seal"
	"signet/internal/upstream"
)

// handlerTimeout bounds the work on one request, store included.
const handlerTimeout = 10 * time.Second

// providerTimeout bounds the work on one request that asks a provider. It is less than the time
// that the server has to write the answer.
const providerTimeout = 25 * time.Second

// endpoint reads a request and returns the answer: one of the result types below, or a
// struct to be sent as JSON. It never writes.
type endpoint func(*http.Request) (any, error)

// The results other than JSON with status 200. A nil result is an empty 200.
type (
	// document is a public document that may be cached, JSON unless it says
	// otherwise. It is a result as a pointer, and does not change.
	document struct {
		body      []byte
		mediaType string
		etag      string
		maxAge    time.Duration
		kept      time.Duration // longest life of a copy while there is no answer; 0: not said
		zipped    *document     // see compress; nil: there is only the plain form
		header    *[4]string    // see prepare; nil: it is made for each answer
	}
	// asset is a file that a page shows, such as the logo.
	asset struct {
		pages.Asset
	}
	// reply is JSON with a status other than 200. There is no body if body is nil.
	reply struct {
		status int
		body   any
	}
	// fruitless is JSON about a token that is not valid. Anybody can present such a token.
	fruitless struct {
		body any // nil: the answer has no body
	}
	// page is an HTML page for the user.
	page struct {
		status  int
		data    pages.Page
		cookies []*http.Cookie
	}
	// redirect sends the browser to a path of this server, or to the redirect URI of
	// a client that this request has verified.
	redirect struct {
		to      string
		cookies []*http.Cookie
		status  int // 0: 303
	}
	// departure sends the browser to a provider. It becomes a redirect after the slot of
	// the request was released, because the provider may have to be asked for its
	// addresses first.
	departure struct {
		provider *upstream.Provider
		link     *link // in place of provider: the user connects it
		tx       seal.Login
		granted  granted
		cookies  []*http.Cookie
	}
)

// redirectError is an error that the client learns through the browser. Only
// [endpoints.tellClient] makes one.
type redirectError struct {
	redirectURI, state string
	err                error
}

func (e *redirectError) Error() string { return e.err.Error() }
func (e *redirectError) Unwrap() error { return e.err }

// userError is a client's error that the user is told instead, because the client is
// not trusted with a redirect. host is where it wanted the browser to go.
type userError struct {
	host string
	err  error
}

func (e *userError) Error() string { return e.err.Error() }
func (e *userError) Unwrap() error { return e.err }

// route is what is served at one path.
type route struct {
	e         *endpoints
	get, post endpoint
	api       bool                       // for programs of any origin: JSON errors and CORS; otherwise for browsers
	ownPages  bool                       // a POST must come from one of the server's own pages
	document  bool                       // the body is a document that the endpoint reads, not a form
	atHand    bool                       // the answer is in memory, and a deadline would cost as much as the answer
	limit     int64                      // longest body, in bytes
	rate      func(*http.Request) error  // refuses requests over a limit; nil: no limit
	client    func(*http.Request) string // the client id that a request names, whose document may have to be fetched; nil: none
	mayLack   bool                       // the endpoint answers also if that document cannot be fetched

	class    *admission.Class // class of the requests; nil: never refused, and needs no store
	posted   *admission.Class // class of a POST; nil: the same
	ownSlot  bool             // the endpoint takes the slot of a POST itself
	ownSlots bool             // the endpoint takes the slot of every request itself
	asks     bool             // the endpoint may ask a provider
}

func (rt *route) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !rt.atHand {
		ctx := newBounded(r.Context(), rt.timeout())
		defer ctx.end()
		r = r.WithContext(ctx)
	}
	rt.setHeaders(w.Header())
	if rt.api && r.Method == http.MethodOptions {
		rt.e.o.Admission.Public(r.Context())
		rt.answerPreflight(w)
		return
	}
	if !rt.api {
		if err := rt.e.checkHost(r); err != nil {
			rt.fail(w, r, err)
			return
		}
	}
	e := rt.endpoint(r.Method)
	if e == nil {
		rt.refuseMethod(w, r, rt.allowed())
		return
	}
	if err := rt.door(r); err != nil {
		rt.fail(w, r, err)
		return
	}
	result, err := rt.run(w, r, e)
	if err != nil {
		rt.fail(w, r, err)
		return
	}
	rt.render(w, r, result)
}

func (rt *route) refuseMethod(w http.ResponseWriter, r *http.Request, allowed string) {
	w.Header().Set("Allow", allowed)
	rt.fail(w, r, oauth.Errorf(oauth.InvalidRequest, "method %s is not allowed here", r.Method).WithStatus(http.StatusMethodNotAllowed))
}

func (rt *route) timeout() time.Duration {
	if rt.asks && (rt.e.o.Upstreams != nil || rt.e.o.Connections != nil) {
		return providerTimeout
	}
	return handlerTimeout
}

func (rt *route) endpoint(method string) endpoint {
	switch method {
	case http.MethodGet, http.MethodHead:
		return rt.get
	case http.MethodPost:
		return rt.post
	}
	return nil
}

// classOf is the class of r, which may be nil.
func (rt *route) classOf(r *http.Request) *admission.Class {
	if r.Method == http.MethodPost && rt.posted != nil {
		return rt.posted
	}
	return rt.class
}

// errNoStoreYet is not logged, because the store logs its own state.
var errNoStoreYet = oauth.Errorf(oauth.TemporarilyUnavailable, "waiting for the store: try again in a moment")

// door refuses, before the body is read, requests that could not be answered in time. A
// server that started while its database was down does not know its epoch yet, so it
// cannot tell its own artefacts from those of another store, or not yet which grants are
// revoked and which clients are blocked. A request without a class waits for its turn, and so
// does one with a long body.
func (rt *route) door(r *http.Request) error {
	c := rt.classOf(r)
	if c == nil {
		rt.e.o.Admission.Public(r.Context())
		return nil
	}
	if rt.e.o.Store.Epoch() == "" || !rt.e.o.Denylist.Known() {
		return errNoStoreYet
	}
	if err := c.Door(r.Context()); err != nil {
		return err
	}
	length := r.ContentLength
	if length < 0 || length > rt.limit {
		length = rt.limit
	}
	rt.e.o.Admission.YieldLong(r.Context(), length)
	return nil
}

func (rt *route) allowed() string {
	var methods []string
	if rt.get != nil {
		methods = append(methods, "GET", "HEAD")
	}
	if rt.post != nil {
		methods = append(methods, "POST")
	}
	if rt.api {
		methods = append(methods, "OPTIONS")
	}
	return strings.Join(methods, ", ")
}

// Header values that answers share. Where an answer costs little else, headers are set
// as map entries under their canonical names.
var (
	nosniff    = []string{"nosniff"}
	noReferrer = []string{"no-referrer"}
	ownPages   = []string{"same-origin"}
	noStore    = []string{"no-store"}
	asJSON     = []string{"application/json"}
	anyOrigin  = []string{"*"}
	exposed    = []string{"WWW-Authenticate, Retry-After"}
)

// setHeaders sets the headers of every answer. A document that may be cached replaces
// some of them. Scripts of any origin may read the answers for programs, as OAuth
// clients in a browser must (OAuth 2.1 §3.2). They are sent without credentials:
// cookies do not count there.
func (rt *route) setHeaders(h http.Header) {
	h["X-Content-Type-Options"] = nosniff
	// A page of another site learns nothing of the address. The own pages must not hide it
	// from each other: under no-referrer their forms are sent with `Origin: null`, and a
	// browser without Fetch Metadata sends nothing else (Fetch, "append a request Origin
	// header").
	h["Referrer-Policy"] = ownPages
	h["Cache-Control"] = noStore
	if rt.api {
		h["Referrer-Policy"] = noReferrer
		h["Access-Control-Allow-Origin"] = anyOrigin
		h["Access-Control-Expose-Headers"] = exposed
	}
}

// answerPreflight tells a browser what a script of another origin may send.
func (rt *route) answerPreflight(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Access-Control-Allow-Methods", rt.allowed())
	h.Set("Access-Control-Allow-Headers", "authorization, content-type, accept, mcp-protocol-version, dpop, "+oauth.TracingHeaders)
	h.Set("Access-Control-Max-Age", "86400")
	w.WriteHeader(http.StatusNoContent)
}

// run calls the endpoint with the body parsed into PostForm. A panic in an endpoint
// counts as an error.
func (rt *route) run(w http.ResponseWriter, r *http.Request, e endpoint) (result any, err error) {
	result, err = rt.runInSlot(w, r, e)
	if err != nil {
		return nil, err
	}
	switch v := result.(type) {
	case departure:
		if v.link != nil {
			return rt.e.departToConnect(r, v)
		}
		return rt.e.depart(r, v)
	case fruitless:
		rt.e.o.Admission.Yield(r.Context())
		return v.body, nil
	}
	rt.classOf(r).Known()
	return result, nil
}

func (rt *route) runInSlot(w http.ResponseWriter, r *http.Request, e endpoint) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			rt.e.logPanic(r, p)
			err = errors.New("panic")
		}
	}()
	if rt.rate != nil {
		if err := rt.rate(r); err != nil {
			return nil, err
		}
	}
	if r.Method == http.MethodPost {
		if rt.ownPages {
			if err := rt.e.checkOwnPage(r); err != nil {
				return nil, err
			}
		}
		if rt.document {
			r.Body = http.MaxBytesReader(w, r.Body, rt.limit)
		} else if r.PostForm, err = oauth.Form(w, r, rt.limit); err != nil {
			return nil, err
		}
	}
	if rt.client != nil {
		if err := rt.e.fetchClient(r, rt.client(r)); err != nil && !rt.mayLack {
			return nil, rt.clientProblem(err)
		}
	}
	if rt.ownSlots || rt.ownSlot && r.Method == http.MethodPost {
		return e(r)
	}
	slot, err := rt.classOf(r).Enter(r.Context())
	if err != nil {
		return nil, err
	}
	defer slot.Leave()
	return e(r)
}

// clientProblem is the answer for a client that cannot be fetched.
func (rt *route) clientProblem(err error) error {
	var limited *limitError
	switch {
	case errors.As(err, &limited), errors.Is(err, admission.ErrFull):
		return err
	case !rt.api:
		return clientProblem(err)
	}
	err = clients.Refusal(err)
	var refusal *oauth.Error
	if errors.As(err, &refusal) {
		return err
	}
	return unavailable(err)
}

func (e *endpoints) logPanic(r *http.Request, p any) {
	e.o.Log.LogAttrs(r.Context(), slog.LevelError, "panic", slog.String("path", r.URL.Path), slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
}

// params returns the parameters of a request: for a POST those in the body, which run
// has read, otherwise those in the query. The query can never stand in for the body.
func params(r *http.Request) (url.Values, error) {
	if r.Method == http.MethodPost {
		return r.PostForm, nil
	}
	return oauth.Query(r)
}

func (rt *route) render(w http.ResponseWriter, r *http.Request, result any) {
	switch v := result.(type) {
	case nil:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusOK)
	case *document:
		writeDocument(w, r, v)
	case asset:
		w.Header().Set("Content-Security-Policy", v.Policy)
		writeDocument(w, r, &document{body: v.Body, mediaType: v.Type, etag: v.ETag, maxAge: time.Hour})
	case reply:
		rt.writeJSON(w, r, v.status, v.body)
	case page:
		setCookies(w, v.cookies)
		rt.writePage(w, r, v)
	case redirect:
		setCookies(w, v.cookies)
		// Never 307: it would send the password along (RFC 9700 §4.12).
		w.Header().Set("Location", v.to)
		w.WriteHeader(cmp.Or(v.status, http.StatusSeeOther))
	default:
		rt.writeJSON(w, r, http.StatusOK, v)
	}
}

func setCookies(w http.ResponseWriter, cookies []*http.Cookie) {
	for _, c := range cookies {
		http.SetCookie(w, c)
	}
}

// longAnswer is the length from which an answer is written in parts, for clients that read
// slowly.
const longAnswer = 128 << 10

// prepare makes the values of the header once for all answers.
func (d *document) prepare() *document {
	d.header = d.headerValues()
	return d
}

// headerValues returns the values of Content-Type, Cache-Control, Etag and Content-Length.
func (d *document) headerValues() *[4]string {
	return &[4]string{cmp.Or(d.mediaType, "application/json"), d.cacheControl(), d.etag, strconv.Itoa(len(d.body))}
}

// writeDocument writes a document and returns the status of the answer.
func writeDocument(w http.ResponseWriter, r *http.Request, d *document) (status int) {
	h := w.Header()
	d = d.encoded(h, r)
	values := d.header
	if values == nil {
		values = d.headerValues()
	}
	h["Content-Type"], h["Cache-Control"], h["Etag"] = values[0:1:1], values[1:2:2], values[2:3:3]
	if etagMatches(r.Header.Get("If-None-Match"), d.etag) {
		w.WriteHeader(http.StatusNotModified)
		return http.StatusNotModified
	}
	h["Content-Length"] = values[3:4:4]
	if len(d.body) > longAnswer {
		_ = admission.Send(w, d.body)
		return http.StatusOK
	}
	_, _ = w.Write(d.body) // fails if the client is gone
	return http.StatusOK
}

// cacheControl says how long a cache may use a document: without asking (RFC 9111 §5.2.2.1),
// and while it asks in vain (RFC 5861 §4).
func (d *document) cacheControl() string {
	directives := "public, max-age=" + strconv.Itoa(int(d.maxAge.Seconds()))
	if d.kept > 0 {
		directives += ", stale-if-error=" + strconv.Itoa(int(max(0, d.kept-d.maxAge).Seconds()))
	}
	return directives
}

// entityTag is the tag of a body, made of its bytes alone.
func entityTag(body []byte) string {
	hash := sha256.Sum256(body)
	return `"` + base64url.EncodeToString(hash[:12]) + `"`
}

// etagMatches compares weakly, as If-None-Match is compared (RFC 9110 §13.1.2).
func etagMatches(header, etag string) bool {
	if header == "" {
		return false
	}
	for candidate := range strings.SplitSeq(header, ",") {
		candidate = strings.TrimSpace(candidate)
		if candidate == "*" || strings.TrimPrefix(candidate, "W/") == etag {
			return true
		}
	}
	return false
}

func (rt *route) writeJSON(w http.ResponseWriter, r *http.Request, status int, v any) {
	if v == nil {
		w.WriteHeader(status)
		return
	}
	scratch := rawjson.Buffer()
	defer rawjson.Release(scratch)
	body, err := appendLine(*scratch, v)
	if err != nil {
		rt.fail(w, r, fmt.Errorf("encoding the answer: %w", err))
		return
	}
	*scratch = body
	w.Header()["Content-Type"] = asJSON
	w.WriteHeader(status)
	_, _ = w.Write(body) // fails if the client is gone
}

// appendLine appends v as a line of JSON.
func appendLine(b []byte, v any) ([]byte, error) {
	var write func(*rawjson.Writer)
	if response, ok := v.(*tokenResponse); ok {
		write = response.write
	}
	text, err := rawjson.Append(b, v, write)
	return append(text, '\n'), err
}

// writePage renders into memory first, so that a page that fails half way becomes an
// error and not half a page.
func (rt *route) writePage(w http.ResponseWriter, r *http.Request, p page) {
	var body bytes.Buffer
	h := w.Header()
	if err := rt.e.pages.Render(h, &body, r.Header.Get("Accept-Language"), p.data); err != nil {
		rt.e.o.Log.LogAttrs(r.Context(), slog.LevelError, "rendering a page", slog.String("page", fmt.Sprintf("%T", p.data)), slog.Any("cause", err))
		http.Error(w, "Something went wrong.", http.StatusInternalServerError)
		return
	}
	if p.status == http.StatusServiceUnavailable {
		h.Set("Retry-After", strconv.Itoa(1+rand.IntN(5)))
	}
	w.WriteHeader(p.status)
	_ = admission.Send(w, body.Bytes()) // fails if the client is gone
}

// fail renders an error: as a redirect if one is allowed, otherwise as JSON for
// programs and as a page for users. Anybody can send requests that are refused, so the
// answers to them are spread. The request holds no slot meanwhile.
func (rt *route) fail(w http.ResponseWriter, r *http.Request, err error) {
	e := oauth.AsError(unanswered(err))
	rt.log(r, e)
	if e.Status() < 500 {
		rt.e.o.Admission.Refuse(r.Context())
	}
	if e.Status() == http.StatusRequestEntityTooLarge {
		// Otherwise net/http would read the rest before it answers.
		w.Header().Set("Connection", "close")
	}
	var limited *limitError
	if errors.As(err, &limited) {
		w.Header().Set("Retry-After", strconv.Itoa(limited.retryAfter))
	}
	var over *loginOver
	if errors.As(err, &over) {
		setCookies(w, over.cookies)
	}
	var toClient *redirectError
	var challenged *bearerError
	switch {
	case errors.As(err, &toClient):
		rt.render(w, r, redirect{to: e.RedirectTo(toClient.redirectURI, toClient.state, rt.e.o.Issuer)})
	case errors.As(err, &challenged):
		w.Header().Set("WWW-Authenticate", challenged.challenge())
		e.WriteJSON(w, false)
	case rt.api:
		e.WriteJSON(w, usedBasic(r))
	default:
		rt.writePage(w, r, errorPage(e, err))
	}
}

// unanswered turns a passed deadline, or a lack of slots, into temporarily_unavailable:
// the server does not know the answer, so this is no verdict on the request.
func unanswered(err error) error {
	var e *oauth.Error
	if (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, admission.ErrFull)) && !errors.As(err, &e) {
		return unavailable(err)
	}
	return err
}

func (rt *route) log(r *http.Request, e *oauth.Error) {
	level := slog.LevelDebug
	switch {
	case e.Status() == http.StatusTooManyRequests, errors.Is(e, admission.ErrFull), e == errNoStoreYet: // a flood must not fill the log
	case e.Code == oauth.TemporarilyUnavailable:
		level = slog.LevelWarn
	case e.Status() >= 500:
		level = slog.LevelError
	}
	rt.e.o.Log.LogAttrs(r.Context(), level, "request refused", slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.String("error", e.Error()))
}

func usedBasic(r *http.Request) bool {
	scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.EqualFold(scheme, "Basic")
}

// unavailable is the answer if a part that has to be asked cannot tell. Clients keep
// their tokens with this code, which they do not with invalid_grant.
func unavailable(cause error) error {
	var outage *clients.OutageError
	if errors.As(cause, &outage) {
		return oauth.Errorf(oauth.TemporarilyUnavailable, "the description of the application at %s cannot be fetched now: try again in a moment", outage.URL).Because(cause)
	}
	return oauth.Errorf(oauth.TemporarilyUnavailable, "try again in a moment").Because(cause)
}

// unrouted is the route of a request that no endpoint gets: one for users if a browser has sent it.
func (e *endpoints) unrouted(w http.ResponseWriter, r *http.Request) *route {
	rt := &route{e: e, api: !strings.Contains(r.Header.Get("Accept"), "text/html")}
	rt.setHeaders(w.Header())
	return rt
}

// Refuse answers a request that no endpoint gets, as JSON or, for a browser, as a page.
func (h *Handler) Refuse(w http.ResponseWriter, r *http.Request, err *oauth.Error) {
	h.endpoints.unrouted(w, r).fail(w, r, err)
}

// absent answers for every path that does not exist, as JSON or, for a browser, as a
// page. It never redirects: clients probe paths during discovery.
func (e *endpoints) absent(w http.ResponseWriter, r *http.Request) {
	rt := e.unrouted(w, r)
	if rt.api && r.Method == http.MethodOptions && strings.Contains(r.URL.Path, "/.well-known/") {
		rt.answerPreflight(w) // or the script would not see the 404
		return
	}
	rt.fail(w, r, oauth.Errorf(oauth.InvalidRequest, "nothing is served at this path").WithStatus(http.StatusNotFound))
}

// UnknownMethod answers requests whose method r does not know, such as PROPFIND: the handler of the
// path refuses it like any other method that it does not have, and absent answers for a path that
// r does not have.
func UnknownMethod(r chi.Router, absent http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		// Routes for all methods have TRACE, too, and their handlers look at the request's own.
		if !r.Match(chi.NewRouteContext(), http.MethodTrace, cmp.Or(req.URL.RawPath, req.URL.Path, "/")) {
			absent(w, req)
			return
		}
		chi.RouteContext(req.Context()).RouteMethod = http.MethodTrace
		r.ServeHTTP(w, req)
	}
}

// logo serves the operator's logo or Signet's mark.
func (e *endpoints) logo(*http.Request) (any, error) { return asset{e.pages.Logo()}, nil }

func noIcon(*http.Request) (any, error) { return reply{status: http.StatusNoContent}, nil }

package handlers

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"signet/internal/denylist"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/jwt"
	"signet/users"
)

// sessionTTL is how long after a login a user need not enter the password again.
const sessionTTL = 12 * time.Hour

// spentSession is the kind of spent ids that are ended sessions.
const spentSession = "session"

// cookies has the names of the cookies, and makes them: the login session, random values
// that tie a login transaction to the browser that began it, and logins at providers.
type cookies struct {
	session  string
	browser  string // begins the names of the cookies that tie to the browser
	upstream string // begins the names of the cookies of logins at providers
	secure   bool
}

// newCookies puts a hash of the issuer into the names, because cookies ignore ports and
// several issuers may share a host. On https the __Host- prefix makes the browser
// refuse such a cookie from another host or without Secure. On http, which only a
// loopback issuer may use, Safari would drop it.
func newCookies(issuer string) cookies {
	hash := sha256.Sum256([]byte(issuer))
	suffix := "_" + hex.EncodeToString(hash[:4])
	if strings.HasPrefix(issuer, "https://") {
		return cookies{session: "__Host-signet_session" + suffix, browser: "__Host-signet_browser" + suffix, upstream: "__Host-signet_upstream" + suffix, secure: true}
	}
	return cookies{session: "signet_session" + suffix, browser: "signet_browser" + suffix, upstream: "signet_upstream" + suffix}
}

// make returns a cookie. A negative age deletes it; 0 keeps it until the browser exits.
func (c cookies) make(name, value string, age time.Duration) *http.Cookie {
	return &http.Cookie{Name: name, Value: value, Path: "/", MaxAge: int(age.Seconds()), Secure: c.secure, HttpOnly: true, SameSite: http.SameSiteLaxMode}
}

// gone deletes the cookies of the session and of the browser.
func (c cookies) gone(r *http.Request) []*http.Cookie {
	gone := []*http.Cookie{c.make(c.session, "", -time.Second)}
	for _, bound := range c.bindings(r) {
		gone = append(gone, c.make(bound.Name, "", -time.Second))
	}
	return gone
}

// bindings returns the cookies that tie to the browser.
func (c cookies) bindings(r *http.Request) []*http.Cookie {
	return slices.DeleteFunc(r.Cookies(), func(bound *http.Cookie) bool {
		return bound.Name != c.browser && !strings.HasPrefix(bound.Name, c.browser+"_") // the plain name is that of an earlier release
	})
}

var base64url = base64.RawURLEncoding.Strict()

const browserSize = 32

// browsersOf returns the hashes of the browser's binding cookies. There is one, or several if the
// browser began its first logins at the same time.
func (e *endpoints) browsersOf(r *http.Request) (hashes []string) {
	for _, c := range e.cookies.bindings(r) {
		if b, err := base64url.DecodeString(c.Value); err == nil && len(b) == browserSize {
			hashes = append(hashes, hashText(c.Value))
		}
	}
	return hashes
}

// begunIn reports whether a transaction began in the browser of a request.
func (e *endpoints) begunIn(r *http.Request, tx seal.Login) bool {
	return slices.Contains(e.browsersOf(r), tx.Browser)
}

// bindBrowser returns the hash of the binding cookie, and the cookie if it must be set first. A
// browser keeps its value. Until it has one, each login gets a cookie of another name, so that
// the logins of several tabs do not disturb each other.
func (e *endpoints) bindBrowser(r *http.Request) (string, []*http.Cookie) {
	if hashes := e.browsersOf(r); len(hashes) > 0 {
		return hashes[0], nil
	}
	b := make([]byte, browserSize)
	rand.Read(b)
	value := base64url.EncodeToString(b)
	return hashText(value), []*http.Cookie{e.cookies.make(e.cookies.browser+"_"+rand.Text()[:8], value, 0)}
}

func hashText(s string) string {
	h := sha256.Sum256([]byte(s))
	return base64url.EncodeToString(h[:])
}

// checkOwnPage refuses a POST that does not come from one of the server's own pages.
// Every current browser sends Sec-Fetch-Site. If it is missing, Origin must be the
// server's, which the Referrer-Policy of the pages keeps.
func (e *endpoints) checkOwnPage(r *http.Request) error {
	switch site := r.Header.Get("Sec-Fetch-Site"); {
	case site == "same-origin":
		return nil
	case site == "" && r.Header.Get("Origin") == e.origin:
		return nil
	}
	return errForeignForm
}

// checkHost refuses a page under a foreign name, if the issuer is on this machine: the name
// was rebound to it, so that a page of the same name may read the answer.
func (e *endpoints) checkHost(r *http.Request) error {
	host := url.URL{Host: r.Host}
	if e.local && !oauth.IsLoopbackHost(host.Hostname()) {
		return errForeignHost
	}
	return nil
}

var errForeignHost = oauth.Errorf(oauth.InvalidRequest, "pages are not served under this host name").WithStatus(http.StatusForbidden)

var errForeignForm = oauth.Errorf(oauth.InvalidRequest, "this form was not sent from a page of this server").WithStatus(http.StatusForbidden)

// signedIn is a user with a live session or a fresh login.
type signedIn struct {
	session seal.Session
	user    users.User
}

// errNoSession means that the user has to sign in.
var errNoSession = errors.New("no live session")

// session returns the user who is signed in in this browser, or errNoSession. It asks
// every time whether the session was ended and whether the user has changed.
func (e *endpoints) session(r *http.Request, now time.Time) (signedIn, error) {
	sess, err := e.openSession(r, now)
	if err != nil {
		return signedIn{}, err
	}
	ended, err := e.o.Denylist.Spent(r.Context(), spentSession, sess.ID)
	switch {
	case err != nil:
		return signedIn{}, unavailable(err)
	case ended:
		return signedIn{}, errNoSession
	}
	user, err := e.lookup(r.Context(), sess.Subject, sess.UserVersion)
	if errors.Is(err, users.ErrUnknown) {
		return signedIn{}, errNoSession
	}
	if user.Version == "" && user.Scopes == nil {
		user.Scopes = sess.Scope // only the login knew them
	}
	return signedIn{session: sess, user: user}, err
}

func (e *endpoints) openSession(r *http.Request, now time.Time) (seal.Session, error) {
	c, err := r.Cookie(e.cookies.session)
	if err != nil {
		return seal.Session{}, errNoSession
	}
	sess, err := seal.Open[seal.Session](e.o.Ring, c.Value)
	if err != nil || sess.Epoch != e.o.Store.Epoch() || now.Unix() >= sess.Expires {
		return seal.Session{}, errNoSession
	}
	return sess, nil
}

// newSession makes the session of a user who has signed in now, and has proved at authTime who
// they are: that was before if a provider remembered the user.
func (e *endpoints) newSession(user users.User, authTime int64, now time.Time) (signedIn, *http.Cookie, error) {
	expires := now.Add(sessionTTL)
	sess := seal.Session{ID: seal.NewID(expires.Add(jwt.Leeway)), Epoch: e.o.Store.Epoch(), Subject: user.Subject, UserVersion: user.Version, AuthTime: authTime, Expires: expires.Unix()}
	if user.Version == "" {
		sess.Scope = user.Scopes
	}
	raw, err := seal.Seal(e.o.Ring, sess)
	if err != nil {
		return signedIn{}, nil, err
	}
	return signedIn{session: sess, user: user}, e.cookies.make(e.cookies.session, raw, sessionTTL), nil
}

// lookup returns the user of subject. It returns users.ErrUnknown also if the user has
// changed since version was sealed: a new password, or disabling the user, ends
// everything issued before.
func (e *endpoints) lookup(ctx context.Context, subject, version string) (users.User, error) {
	user, err := e.o.Users.Lookup(ctx, subject)
	switch {
	case errors.Is(err, users.ErrUnknown):
		return users.User{}, users.ErrUnknown
	case err != nil:
		return users.User{}, unavailable(err)
	case user.Subject != subject || user.Version != version:
		return users.User{}, users.ErrUnknown
	case e.subjectOfClient(user):
		return users.User{}, users.ErrUnknown
	}
	return user, nil
}

// endSession makes sess unusable for good, for every holder of its cookie.
func (e *endpoints) endSession(ctx context.Context, sess seal.Session) error {
	err := e.o.Denylist.SpendID(ctx, spentSession, sess.ID, time.Unix(sess.Expires, 0).Add(jwt.Leeway))
	if err != nil && !errors.Is(err, denylist.ErrSpent) {
		return unavailable(err)
	}
	return nil
}

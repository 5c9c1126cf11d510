package handlers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"signet/internal/admission"
	"signet/internal/clients"
	"signet/internal/oauth"
	"signet/internal/seal"
	"signet/internal/throttle"
	"signet/users"
)

// Limits are how many requests a minute one replica takes, counted by address (an IPv6
// /64, which one customer has, counts as one address) or as the field says. A field
// that is 0 has the value of [DefaultLimits]; a negative one means no limit.
//
// The token endpoint has no limit by address, because hosted clients serve many users
// from few addresses.
type Limits struct {
	Authorize    int // authorization requests
	Login        int // passwords, right or wrong; each costs a hash
	Register     int // registrations from one address
	RegisterAll  int // registrations from all addresses together
	WrongSecret  int // wrong secrets for one configured client from one address
	TokensGrant  int // token requests with a handle of one grant
	TokensClient int // token requests with handles of one client
	Documents    int // fetches of clients' metadata documents
}

// ParseLimits reads limits such as "login=60 register=20", separated by spaces or
// commas. A limit that is not named keeps its default; 0 removes it, and the text "off"
// removes all.
func ParseLimits(text string) (Limits, error) {
	var l Limits
	fields := map[string]*int{
		"authorize": &l.Authorize, "login": &l.Login, "register": &l.Register, "register_all": &l.RegisterAll,
		"wrong_secret": &l.WrongSecret, "tokens_grant": &l.TokensGrant, "tokens_client": &l.TokensClient,
		"documents": &l.Documents,
	}
	if text == "off" {
		for _, f := range fields {
			*f = -1
		}
		return l, nil
	}
	for _, setting := range strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == ',' }) {
		name, value, _ := strings.Cut(setting, "=")
		field, known := fields[name]
		if !known {
			return Limits{}, fmt.Errorf("%q is not one of %s", name, strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
		}
		n, err := strconv.ParseUint(value, 10, 31)
		switch {
		case err != nil:
			return Limits{}, fmt.Errorf("%s must be a number of requests a minute, 0 for no limit", name)
		case *field != 0:
			return Limits{}, fmt.Errorf("%s is set twice", name)
		case n == 0:
			*field = -1
		default:
			*field = int(n)
		}
	}
	return l, nil
}

// DefaultLimits are far above what people and their clients do, even many behind one
// address, and near what a replica can do on one core: they keep a loop or a single
// attacker from using up all of it. [throttle.Logins] slows down guessing.
var DefaultLimits = Limits{
	Authorize:    6000,
	Login:        6000, // two cores' worth of hashes
	Register:     1200,
	RegisterAll:  4000,
	WrongSecret:  60,
	TokensGrant:  60_000,
	TokensClient: 1_200_000, // a hosted client may serve most of the users
	Documents:    60,        // a document is kept for a minute at least
}

// limits are the limiters in force; the zero limiter lets every request pass.
type limits struct {
	authorize, login, register, registerAll, wrongSecret, tokensGrant, tokensClient, documents limiter

	upstream limiter // refreshes of a user's upstream token because the upstream refused it
}

func newLimits(l Limits) limits {
	d := DefaultLimits
	return limits{
		authorize: newLimiter(l.Authorize, d.Authorize, places), login: newLimiter(l.Login, d.Login, places),
		register: newLimiter(l.Register, d.Register, places), registerAll: newLimiter(l.RegisterAll, d.RegisterAll, 1),
		// Its limit is low, so that keys which share a place would matter.
		wrongSecret: newLimiter(l.WrongSecret, d.WrongSecret, 4*places),
		tokensGrant: newLimiter(l.TokensGrant, d.TokensGrant, places), tokensClient: newLimiter(l.TokensClient, d.TokensClient, places),
		documents: newLimiter(l.Documents, d.Documents, places),
		upstream:  limiter{throttle.NewRequests(refreshesRefused, places)},
	}
}

// refreshesRefused is how many times a minute one user's upstream token is refreshed because the
// upstream refused it: an upstream that refuses every token must not be asked at each call.
const refreshesRefused = 120

// places is how many counters a limit has, see [throttle.NewRequests].
const places = 1 << 14

// limiter is a limit whose refusals are answers.
type limiter struct{ requests *throttle.Requests }

func newLimiter(limit, otherwise, places int) limiter {
	if limit < 0 {
		return limiter{}
	}
	if limit == 0 {
		limit = otherwise
	}
	return limiter{throttle.NewRequests(limit, places)}
}

// take counts a request, or refuses it.
func (l limiter) take(key string) error { return refusal(l.requests.Take(key)) }

// full refuses a request that take would refuse, and counts nothing.
func (l limiter) full(key string) error { return refusal(l.requests.Full(key)) }

// refusal turns the error of a limit into an answer, and returns any other as it is.
func refusal(err error) error {
	if err == nil {
		return nil
	}
	var throttled *throttle.TooManyError
	if errors.As(err, &throttled) {
		return tooMany(throttled.RetryAfter)
	}
	return err
}

// limitError is a refusal because of too many requests. With its code clients keep
// their tokens; a code that is not registered would look like a failure of the server.
type limitError struct {
	err        *oauth.Error
	retryAfter int // seconds
}

func (e *limitError) Error() string { return e.err.Error() }
func (e *limitError) Unwrap() error { return e.err }

func tooMany(wait time.Duration) error {
	seconds := max(1, int(math.Ceil(wait.Seconds())))
	err := oauth.Errorf(oauth.TemporarilyUnavailable, "too many requests: try again in %d seconds", seconds)
	return &limitError{err: err.WithStatus(http.StatusTooManyRequests), retryAfter: seconds}
}

// addressOf returns the caller's own address, or the zero Addr if it is not known.
func (e *endpoints) addressOf(r *http.Request) netip.Addr {
	if address, own := e.o.ClientIP(r); own {
		return address
	}
	return netip.Addr{}
}

// byAddress is the key of limits by address and something else. All unknown addresses
// have one key.
func (e *endpoints) byAddress(r *http.Request) string {
	return throttle.Network(e.addressOf(r))
}

// takeByAddress counts a request by its address. A request whose address is not known is
// not counted: it would be counted together with those of all other users.
func (e *endpoints) takeByAddress(l limiter, r *http.Request) error {
	address := e.addressOf(r)
	if !address.IsValid() {
		return nil
	}
	return l.take(throttle.Network(address))
}

func (e *endpoints) limitAuthorize(r *http.Request) error {
	return e.takeByAddress(e.limits.authorize, r)
}

func (e *endpoints) limitRegister(r *http.Request) error {
	if err := e.takeByAddress(e.limits.register, r); err != nil {
		return err
	}
	return e.limits.registerAll.take("")
}

// loginCaller says whose turn a login is. All texts that are no names are one account.
func (e *endpoints) loginCaller(r *http.Request, name string) admission.Caller {
	account, err := users.Normalize(name)
	if err != nil {
		account = " "
	}
	caller := admission.Caller{Account: account}
	if address := e.addressOf(r); address.IsValid() {
		caller.Address = throttle.Network(address)
	}
	return caller
}

// attemptTimeout ends the wait for the store after a login, which holds its slot meanwhile.
const attemptTimeout = 5 * time.Second

// throttled calls check, which returns [users.ErrInvalid] if the password for the
// account name is wrong, in a slot of class. It does not call it after too many wrong passwords: the check
// is the expensive part.
func (e *endpoints) throttled(r *http.Request, class *admission.Class, name string, now time.Time, check func() error) error {
	if err := e.takeByAddress(e.limits.login, r); err != nil {
		return err
	}
	slot, err := class.EnterAs(r.Context(), e.loginCaller(r, name))
	if err != nil {
		return err
	}
	defer slot.Leave()
	attempt, err := e.o.Throttle.Begin(r.Context(), name, e.addressOf(r), now)
	if err != nil {
		return refusal(err)
	}
	err = errors.New("the check panicked") // unless it returns
	defer func() { e.endAttempt(r, attempt, err) }()
	err = check()
	return err
}

// endAttempt takes an attempt back unless err says that the password was wrong, even if the client
// has gone: otherwise a user whose browser gives up on a slow check is soon refused with the right
// password.
func (e *endpoints) endAttempt(r *http.Request, attempt *throttle.Attempt, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), attemptTimeout)
	defer cancel()
	var trouble error
	switch {
	case err == nil:
		trouble = attempt.Succeeded(ctx)
	case !errors.Is(err, users.ErrInvalid):
		trouble = attempt.Withdraw(ctx)
	}
	if trouble != nil {
		e.o.Log.LogAttrs(ctx, slog.LevelWarn, "a login stays counted as failed", slog.Any("cause", trouble))
	}
}

// limitTokens counts a token request whose handle has passed all checks so far. Made-up
// handles are not counted, or a stranger could use up a client's requests.
//
// The id of a metadata document stands for all installations of a program, which are not
// counted as if they were one client.
func (e *endpoints) limitTokens(g seal.Grant, client *clients.Client) error {
	if err := e.limits.tokensGrant.take(g.ID); err != nil || client.Document != "" {
		return err
	}
	return e.limits.tokensClient.take(g.ClientHash)
}

// fetchClient has the metadata document of the client id, and its keys if the request has an
// assertion, fetched, if they are not at hand. It is called before the request takes a slot:
// otherwise slow hosts would use up the slots of requests that need no fetch.
func (e *endpoints) fetchClient(r *http.Request, id string) error {
	if e.o.Clients.Ready(id, r.PostForm) {
		return nil
	}
	if err := e.takeByAddress(e.limits.documents, r); err != nil {
		return err
	}
	slot, err := e.o.Admission.Documents.Enter(r.Context())
	if err != nil {
		return err
	}
	defer slot.Leave()
	return e.o.Clients.Fetch(r.Context(), id, r.PostForm)
}

package handlers

import (
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

	"github.com/go-chi/httprate"

	"signet/internal/oauth"
	"signet/internal/throttle"
	"signet/users"
)

// Limits are how many requests one replica takes a minute, by address (of IPv6 the
// /64, which is what one customer has) or by what the name says. A field that is 0
// has that of [DefaultLimits], a negative one is no limit.
//
// The token endpoint has none by address: the clients that run as a service are
// many users behind few addresses.
type Limits struct {
	Authorize    int // authorization requests
	Login        int // passwords, right or wrong; each costs a hash
	Register     int // registrations
	RegisterAll  int // registrations from everywhere
	WrongSecret  int // failed authentications of one client from one address
	TokensGrant  int // token requests with a handle of one grant
	TokensClient int // token requests with handles of one client
}

// ParseLimits reads limits such as "login=60 register=20", with spaces or commas
// between them; what is not named has its default. 0 is no limit, and "off" none at
// all.
func ParseLimits(text string) (Limits, error) {
	var l Limits
	fields := map[string]*int{
		"authorize": &l.Authorize, "login": &l.Login, "register": &l.Register, "register_all": &l.RegisterAll,
		"wrong_secret": &l.WrongSecret, "tokens_grant": &l.TokensGrant, "tokens_client": &l.TokensClient,
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
			return Limits{}, fmt.Errorf("%s is there twice", name)
		case n == 0:
			*field = -1
		default:
			*field = int(n)
		}
	}
	return l, nil
}

// DefaultLimits are far from what people and their clients do, also many behind one
// address, and near what a replica can do on one core: they stop a loop, or one
// attacker, from taking it all. Guessing is slowed down by [throttle.Logins].
var DefaultLimits = Limits{
	Authorize:    6000,
	Login:        6000, // two cores' worth of hashes
	Register:     1200,
	RegisterAll:  4000,
	WrongSecret:  60,
	TokensGrant:  60_000,
	TokensClient: 1_200_000, // a hosted client may be most of the users
}

// limits are the limiters in force; the zero limiter lets every request pass.
type limits struct {
	authorize, login, register, registerAll, wrongSecret, tokensGrant, tokensClient limiter
}

func newLimits(l Limits) limits {
	d := DefaultLimits
	return limits{
		authorize: newLimiter(l.Authorize, d.Authorize, places), login: newLimiter(l.Login, d.Login, places),
		register: newLimiter(l.Register, d.Register, places), registerAll: newLimiter(l.RegisterAll, d.RegisterAll, 1),
		// Its limit is low, and strangers choose what its keys are made of.
		wrongSecret: newLimiter(l.WrongSecret, d.WrongSecret, 4*places),
		tokensGrant: newLimiter(l.TokensGrant, d.TokensGrant, places), tokensClient: newLimiter(l.TokensClient, d.TokensClient, places),
	}
}

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
	var throttled *throttle.TooManyError
	if errors.As(err, &throttled) {
		return tooMany(throttled.RetryAfter)
	}
	return err
}

// limitError is a refusal for the number of requests. Its code is one on which
// clients keep their tokens; one that is not registered they would take for our
// failure.
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

// byAddress is the key of limits by address.
func (e *endpoints) byAddress(r *http.Request) string {
	return httprate.CanonicalizeIP(e.o.ClientIP(r))
}

func (e *endpoints) limitAuthorize(r *http.Request) error {
	return e.limits.authorize.take(e.byAddress(r))
}

func (e *endpoints) limitRegister(r *http.Request) error {
	if err := e.limits.register.take(e.byAddress(r)); err != nil {
		return err
	}
	return e.limits.registerAll.take("")
}

// throttled calls check, which is to say [users.ErrInvalid] of a wrong password for
// the account name, unless too many have been wrong: that is found out first, since
// the check is what costs.
func (e *endpoints) throttled(r *http.Request, name string, now time.Time, check func() error) error {
	if err := e.limits.login.take(e.byAddress(r)); err != nil {
		return err
	}
	slot, err := e.o.Admission.Login.Enter(r.Context())
	if err != nil {
		return err
	}
	defer slot.Leave()
	address, _ := netip.ParseAddr(e.o.ClientIP(r)) // what is no address counts as one
	attempt, err := e.o.Throttle.Begin(r.Context(), name, address, now)
	if err != nil {
		return refusal(err)
	}
	var trouble error
	switch err = check(); {
	case err == nil:
		trouble = attempt.Succeeded(r.Context())
	case !errors.Is(err, users.ErrInvalid):
		trouble = attempt.Withdraw(r.Context())
	}
	if trouble != nil {
		e.o.Log.LogAttrs(r.Context(), slog.LevelWarn, "a login stays counted as failed", slog.Any("cause", trouble))
	}
	return err
}

// limitTokens counts a token request whose handle is good so far. What somebody made
// up counts for nobody, or a stranger could use up a client's requests.
func (e *endpoints) limitTokens(grantID, clientHash string) error {
	if err := e.limits.tokensGrant.take(grantID); err != nil {
		return err
	}
	return e.limits.tokensClient.take(clientHash)
}

package handlers

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"signet/internal/clients"
)

// Lives are the lifetimes of what the server issues. A field that is 0 has the value of
// [DefaultLives].
type Lives struct {
	Code    time.Duration // life of an authorization code
	Access  time.Duration // life of an access token
	Refresh time.Duration // life of a grant, which refreshing does not extend
	Idle    time.Duration // life of a refresh handle that is not used
	Replay  time.Duration // how long the last refresh may be repeated; Strict: not at all
}

// Strict, as Lives.Replay, makes refresh handles single use without exception.
const Strict time.Duration = -1

// DefaultLives are the values for fields that are 0.
var DefaultLives = Lives{Code: time.Minute, Access: 5 * time.Minute, Refresh: 720 * time.Hour, Idle: 336 * time.Hour, Replay: time.Minute}

// OrDefault returns l with a value in every field.
func (l Lives) OrDefault() Lives {
	d := DefaultLives
	return Lives{
		Code: cmp.Or(l.Code, d.Code), Access: cmp.Or(l.Access, d.Access), Refresh: cmp.Or(l.Refresh, d.Refresh),
		Idle: cmp.Or(l.Idle, d.Idle), Replay: cmp.Or(l.Replay, d.Replay),
	}
}

// lives are the lifetimes of what a client gets: its own, within the server's.
func (e *endpoints) lives(client *clients.Client) Lives {
	l := e.o.Lives
	within := client.Lives.Within(clients.Lives{Access: l.Access, Refresh: l.Refresh, Idle: l.Idle, Replay: l.Replay})
	l.Access, l.Refresh, l.Idle, l.Replay = within.Access, within.Refresh, within.Idle, within.Replay
	return l
}

// Window is the denylist's replay window.
func (l Lives) Window() time.Duration { return max(l.Replay, 0) }

// Check returns a [FieldError] for every field that is out of its bounds. Give it what
// [Lives.OrDefault] returns.
func (l Lives) Check() error {
	const day, second = 24 * time.Hour, time.Second
	var faults []error
	for _, f := range []struct {
		name            string
		value, min, max time.Duration
	}{
		{"Code", l.Code, second, 10 * time.Minute}, // OAuth 2.1 §4.1.2
		{"Access", l.Access, second, 90 * day},
		{"Refresh", l.Refresh, second, 10 * 365 * day},
		{"Idle", l.Idle, second, 10 * 365 * day},
		{"Replay", l.Window(), 0, time.Hour},
	} {
		if f.value < f.min || f.value > f.max {
			faults = append(faults, &FieldError{f.name, fmt.Errorf("%s is not between %s and %s", f.value, f.min, f.max)})
		}
	}
	return errors.Join(faults...)
}

// Registration says who may register a client (RFC 7591). It has no effect on clients
// that are already registered. The zero value lets everybody register.
type Registration struct {
	Off   bool   // registration is off
	Token string // initial access token that a registration needs (RFC 7591 §3); empty: none
}

// minRegistrationToken is the shortest length of a token, in characters, that is safe
// from guessing.
const minRegistrationToken = 20

// Check returns a [FieldError] for a token that is too short or has no effect.
func (g Registration) Check() error {
	switch {
	case g.Off && g.Token != "":
		return &FieldError{"Token", errors.New("has no effect while registration is off")}
	case g.Token != "" && len(g.Token) < minRegistrationToken:
		return &FieldError{"Token", fmt.Errorf("must have %d characters or more", minRegistrationToken)}
	}
	return nil
}

// FieldError says which field of a group of settings is wrong, and why. A program that
// reads the settings replaces the field by its own name for it, such as a variable.
type FieldError struct {
	Field string
	Err   error
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Err.Error() }
func (e *FieldError) Unwrap() error { return e.Err }

package handlers

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"time"

	"signet/handlers/pages"
	"signet/internal/clients"
	"signet/internal/denylist"
	"signet/internal/seal"
)

// choice is what a user may decide on the consent page beyond yes and no. Every way to approve
// grants fixed.
type choice struct {
	asked     []string   // the scopes of the request that client and user may have
	fixed     []string   // those that cannot be refused alone
	had       []string   // those of fixed that the client has already, by an earlier consent
	ticked    []string   // those that the page ticks at first
	readOnly  []string   // those that approving for reading only grants; none: that is not offered
	durations []duration // none: the user decides nothing but yes and no
}

// duration is how long a grant may last, at most.
type duration struct {
	name string // the form's value
	text string // key of a message
	ends int64  // end of the grant, Unix seconds; 0: what the configuration says when the code is used
	at   int64  // the time that the text names
}

// granted is what an approval grants of a request.
type granted struct {
	scope []string
	ends  int64  // see duration
	kind  string // of consent, the beginning of its hash
}

// The fields of the form. Several scopes are several fields.
const (
	fieldScope    = "allow"
	fieldDuration = "duration"
)

// The decisions, which are the values of the form's buttons.
const (
	decideApprove  = "approve"
	decideReadOnly = "read_only"
	decideDeny     = "deny"
)

// lengths are the durations that a user may choose, the longest first.
var lengths = []struct {
	name, text string
	life       time.Duration
}{{"month", "consent.month", 30 * 24 * time.Hour}, {"day", "consent.day", 24 * time.Hour}, {"hour", "consent.hour", time.Hour}}

// choice returns what the user may decide about a transaction.
//
// Fixed are the scopes without which the flow fails: openid, because the client expects an id
// token; offline_access, which only says that the client may stay connected, and how long is
// decided by the duration; those that every request to the resource needs; and the last scope
// there is. Fixed are also the scopes that the client has already: a client that asks for more
// (MCP authorization, Step-Up Authorization Flow) asks the user for just the rest. Such a grant
// ends when the earlier one does, if the user has chosen its end.
func (e *endpoints) choice(ctx context.Context, client *clients.Client, tx seal.Login, now time.Time) (choice, error) {
	c := choice{asked: tx.Scope, fixed: tx.Scope, ticked: tx.Scope}
	if client.ConsentLocked() {
		return c, nil
	}
	earlier, err := e.earlier(ctx, client, tx, now)
	if err != nil {
		return c, err
	}
	c.had = without(earlier.scope, func(name string) bool { return !slices.Contains(tx.Scope, name) })
	if len(c.had) == len(tx.Scope) { // nothing is left to ask, so the user decides anew
		c.had, earlier.ends = nil, 0
	}
	needed := slices.Concat([]string{"openid", offlineAccess}, e.o.RequiredScopes, c.had)
	c.fixed = without(tx.Scope, func(name string) bool { return !slices.Contains(needed, name) })
	if len(c.fixed)+1 == len(tx.Scope) && nothing(c.fixed) {
		c.fixed = tx.Scope
	}
	if client.TicksDefaults() {
		c.ticked = without(tx.Scope, func(name string) bool {
			return !slices.Contains(c.fixed, name) && !slices.Contains(e.o.DefaultScopes, name)
		})
	}
	if nothing(c.ticked) {
		c.ticked = tx.Scope
	}
	c.readOnly = e.readOnly(c)
	if len(c.had) > 0 && earlier.ends != 0 {
		c.durations = []duration{{"kept", "consent.kept", earlier.ends, earlier.ends}}
		return c, nil
	}
	c.durations = e.durations(client, now)
	return c, nil
}

const offlineAccess = "offline_access"

// nothing reports whether a grant of scope would give the client nothing.
func nothing(scope []string) bool {
	return !slices.ContainsFunc(scope, func(name string) bool { return name != offlineAccess })
}

// without returns scope without the names that leave.
func without(scope []string, leaves func(string) bool) []string {
	return slices.DeleteFunc(slices.Clone(scope), leaves)
}

// durations returns the durations that are not longer than the configuration's for the client.
func (e *endpoints) durations(client *clients.Client, now time.Time) []duration {
	longest := now.Add(e.lives(client).Refresh)
	all := []duration{{"revoked", "consent.revoked", 0, longest.Unix()}}
	for _, l := range lengths {
		if end := now.Add(l.life); !end.After(longest) {
			all = append(all, duration{l.name, l.text, end.Unix(), end.Unix()})
		}
	}
	return all
}

// readOnly returns the part of a request that only reads: without the scopes that the user may
// refuse, except those that only read, and the standard scopes, which allow nothing at a
// resource. It returns nil where that is no choice.
func (e *endpoints) readOnly(c choice) []string {
	changes := func(name string) bool { return !slices.Contains(clients.AlwaysKnown, name) && !e.onlyReads(name) }
	scope := without(c.asked, changes)
	adds := func(name string) bool { return e.onlyReads(name) && !slices.Contains(c.had, name) }
	if slices.ContainsFunc(c.fixed, changes) || len(scope) == len(c.asked) || !slices.ContainsFunc(scope, adds) {
		return nil
	}
	return scope
}

// onlyReads reports whether a scope stands below another one in the hierarchy and above none,
// and its name says that it reads: read, mcp:read, files.readonly.
func (e *endpoints) onlyReads(name string) bool {
	if len(e.o.ScopeHierarchy[name]) > 0 {
		return false
	}
	words := strings.FieldsFunc(name, func(r rune) bool { return !('a' <= r|0x20 && r|0x20 <= 'z') })
	if !slices.ContainsFunc(words, func(w string) bool { return strings.EqualFold(w, "read") || strings.EqualFold(w, "readonly") }) {
		return false
	}
	for _, narrower := range e.o.ScopeHierarchy {
		if slices.Contains(narrower, name) {
			return true
		}
	}
	return false
}

// earlier returns what the newest live grant of the user to the same client, for the same
// resource, gave. Its end is 0 unless the user has chosen it. That is not known of a grant whose
// consent an earlier release has forgotten: its end counts as chosen.
func (e *endpoints) earlier(ctx context.Context, client *clients.Client, tx seal.Login, now time.Time) (granted, error) {
	if tx.Subject == "" {
		return granted{}, nil // the user has not signed in yet
	}
	grants, err := e.o.Denylist.Grants(ctx, tx.Subject, now)
	if err != nil {
		return granted{}, unavailable(err)
	}
	for _, g := range grants {
		if g.ClientHash != client.Hash() || g.Resource != tx.Resource || g.UserVersion != denylist.VersionHash(tx.UserVersion) || g.Created < addedAt(client) {
			continue
		}
		last := granted{scope: strings.Fields(g.Scope)}
		if g.ConsentHash == "" || strings.HasPrefix(g.ConsentHash, consentEnds) {
			last.ends = g.Expires
		}
		return last, nil
	}
	return granted{}, nil
}

// choiceProblem is a problem of the form that the user can correct on the consent page.
type choiceProblem struct{ key string }

func (e *choiceProblem) Error() string { return e.key }

// decide returns what the form grants. Nothing in it but the scopes and the duration counts. A
// form without either is that of a program, which approves what the page shows at first.
func (c choice) decide(form url.Values) (granted, error) {
	if len(c.durations) == 0 {
		return c.grant(c.asked, 0), nil
	}
	ends := c.durations[0].ends
	if form.Has(fieldDuration) {
		i := slices.IndexFunc(c.durations, func(d duration) bool { return d.name == form.Get(fieldDuration) })
		if i < 0 || len(form[fieldDuration]) > 1 {
			return granted{}, &choiceProblem{"consent.wrong_duration"}
		}
		ends = c.durations[i].ends
	}
	for _, name := range form[fieldScope] {
		if !slices.Contains(c.asked, name) {
			return granted{}, &choiceProblem{"consent.wrong_scope"}
		}
	}
	switch {
	case form.Get("decision") == decideReadOnly:
		return c.grant(c.readOnly, ends), nil
	case !form.Has(fieldScope) && !form.Has(fieldDuration):
		return c.grant(c.ticked, ends), nil
	}
	scope := without(c.asked, func(name string) bool {
		return !slices.Contains(c.fixed, name) && !slices.Contains(form[fieldScope], name)
	})
	if nothing(scope) && !nothing(c.asked) {
		return granted{}, &choiceProblem{"consent.no_scope"}
	}
	return c.grant(scope, ends), nil
}

// grant returns what is granted, with its kind.
func (c choice) grant(scope []string, ends int64) granted {
	g := granted{scope: scope, ends: ends}
	switch {
	case ends != 0:
		g.kind = consentEnds
	case len(scope) < len(c.asked):
		g.kind = consentLess
	}
	return g
}

// show fills in the part of the page that a choice is about. form has what the user chose
// before, if something was wrong with it.
func (c choice) show(data *pages.Consent, form url.Values) {
	ticked := c.ticked
	if form != nil {
		ticked = form[fieldScope]
	}
	for _, name := range c.asked {
		if slices.Contains(c.had, name) {
			data.Had = append(data.Had, name)
			continue
		}
		free := !slices.Contains(c.fixed, name)
		data.Scopes = append(data.Scopes, pages.Scope{Name: name, Free: free, Ticked: slices.Contains(ticked, name), Required: !free && len(c.fixed) < len(c.asked)})
	}
	data.ReadOnly = len(c.readOnly) > 0
	chosen := max(0, slices.IndexFunc(c.durations, func(d duration) bool { return d.name == form.Get(fieldDuration) }))
	for i, d := range c.durations {
		data.Durations = append(data.Durations, pages.Duration{Name: d.name, Text: d.text, Ticked: i == chosen, At: time.Unix(d.at, 0)})
	}
}

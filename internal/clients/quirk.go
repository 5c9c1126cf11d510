package clients

import (
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"signet/internal/durable"
	"signet/internal/fetch"
	"signet/internal/oauth"
)

const (
	maxQuirks   = 256 << 10 // bytes
	maxLifetime = 10 * 365 * 24 * time.Hour
)

//go:embed quirks.json
var builtInQuirks []byte

// Quirk is what is known of one program, and what the server does for it. The values of a
// row only ever narrow what a client may have without it: a client chooses its own redirect
// URIs and its name, so anybody's client can match a row. A shorter life, a method less
// and fewer ticks harm nobody else. The one value that takes a decision from the user,
// Choice, is for clients whose id is verified, see [Quirk.check].
type Quirk struct {
	Name  string     `json:"name"`
	Match quirkMatch `json:"match"`

	Known string   `json:"known,omitempty"` // how the program differs
	Seen  []string `json:"seen,omitempty"`  // public sources
	Does  string   `json:"does,omitempty"`  // what the server does about it, for people

	Ticked  string   `json:"ticked,omitempty"`                      // on the consent page: "defaults", the default scopes; otherwise all that are asked for
	Choice  string   `json:"choice,omitempty"`                      // "locked": the user grants all that is asked for, or nothing
	Access  string   `json:"access_ttl,omitempty"`                  // life of an access token, a duration; longer than the setting: the setting
	Refresh string   `json:"refresh_ttl,omitempty"`                 // life of a grant, in the same way
	Idle    string   `json:"refresh_idle_ttl,omitempty"`            // life of a refresh handle that is not used, in the same way
	Replay  string   `json:"replay_window,omitempty"`               // replay window, in the same way; "0": none
	Methods []string `json:"token_endpoint_auth_methods,omitempty"` // that it may use, of those that it could use otherwise; none: all

	lives Lives
}

// quirkMatch says which clients a row is for. One entry of one list is enough.
type quirkMatch struct {
	IDs             []string `json:"client_ids,omitempty"`       // of configured and registered clients, and URLs of metadata documents
	DocumentHosts   []string `json:"document_hosts,omitempty"`   // of metadata documents
	RedirectHosts   []string `json:"redirect_hosts,omitempty"`   // of https redirect URIs
	RedirectSchemes []string `json:"redirect_schemes,omitempty"` // private-use schemes
	Names           []string `json:"client_names,omitempty"`     // exactly as clients register them
}

// quirkKeys are the entries of quirkMatch as keys, in the order in which they count: what is
// verified goes before what a client claims, so that a claim cannot lead away from a row.
func (m *quirkMatch) keys() []quirkKey {
	var all []quirkKey
	for _, list := range []struct {
		kind    string
		entries []string
	}{
		{byID, m.IDs}, {byDocumentHost, m.DocumentHosts}, {byRedirectHost, m.RedirectHosts}, {byRedirectScheme, m.RedirectSchemes}, {byName, m.Names},
	} {
		for _, entry := range list.entries {
			all = append(all, quirkKey{list.kind, entry})
		}
	}
	return all
}

// quirkKey is what a row matches: an entry of one of the lists.
type quirkKey struct{ kind, entry string }

func (k quirkKey) String() string { return k.kind + " " + k.entry }

// The kinds of keys, named as in the file.
const (
	byID             = "client_ids"
	byDocumentHost   = "document_hosts"
	byRedirectHost   = "redirect_hosts"
	byRedirectScheme = "redirect_schemes"
	byName           = "client_names"
)

// claimed reports whether a client that is not verified can match.
func (m *quirkMatch) claimed() bool {
	return len(m.RedirectHosts)+len(m.RedirectSchemes)+len(m.Names) > 0
}

// quirks are rows by their keys.
type quirks map[quirkKey]*Quirk

type quirkFile struct {
	Quirks []Quirk `json:"quirks"`
}

var quirkJSON = durable.NewJSON[quirkFile]()

// openQuirks follows the operator's file, whose rows replace built-in ones of the same name
// or key. Without a path there are the built-in rows.
func openQuirks(path string) (all quirks, live *durable.Live[quirks], err error) {
	builtIn, err := readQuirks("quirks.json", builtInQuirks)
	if err != nil {
		return nil, nil, err
	}
	if path == "" {
		return indexQuirks(builtIn), nil, nil
	}
	live, err = durable.Follow(path, durable.Access{Public: true}, maxQuirks, nil, func(text []byte) (quirks, error) {
		rows, err := readQuirks(path, text)
		if err != nil {
			return nil, err
		}
		kept := slices.DeleteFunc(slices.Clone(builtIn), func(b Quirk) bool {
			return slices.ContainsFunc(rows, func(q Quirk) bool { return q.Name == b.Name })
		})
		return indexQuirks(kept, rows), nil
	})
	if err == nil && live.Get() == nil {
		err = fmt.Errorf("%s: no such file", path)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("SIGNET_CLIENT_QUIRKS: %w", err)
	}
	return nil, live, nil
}

// quirkRows are the rows in use.
func (r *Registry) quirkRows() quirks {
	if r.quirksFile != nil {
		return r.quirksFile.Get()
	}
	return r.quirks
}

// indexQuirks makes the index of lists of rows, of which a later one goes before an earlier one.
func indexQuirks(lists ...[]Quirk) quirks {
	all := quirks{}
	for _, rows := range lists {
		for i := range rows {
			for _, key := range rows[i].Match.keys() {
				all[key] = &rows[i]
			}
		}
	}
	return all
}

// readQuirks reads a file of rows. A name or a key that occurs twice is an error.
func readQuirks(path string, text []byte) ([]Quirk, error) {
	list, err := quirkJSON.Parse(text)
	var fault *durable.JSONFault
	switch {
	case errors.As(err, &fault):
		return nil, fmt.Errorf("%s:%d: not a list of quirks: %w", path, fault.Line, err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", path, err)
	case list.Quirks == nil:
		return nil, fmt.Errorf(`%s: not a list of quirks: no "quirks"`, path)
	}
	names, keys := map[string]bool{}, map[quirkKey]string{}
	for i := range list.Quirks {
		q := &list.Quirks[i]
		if err := q.check(); err != nil {
			return nil, fmt.Errorf("%s: quirk %q: %w", path, q.Name, err)
		}
		if names[q.Name] {
			return nil, fmt.Errorf("%s: quirk %q is listed twice", path, q.Name)
		}
		names[q.Name] = true
		for _, key := range q.Match.keys() {
			if other, twice := keys[key]; twice {
				return nil, fmt.Errorf("%s: quirk %q: match.%q is listed twice, before in %q", path, q.Name, key.String(), other)
			}
			keys[key] = q.Name
		}
	}
	return list.Quirks, nil
}

// check returns what is wrong with a row, and reads its durations.
func (q *Quirk) check() error {
	switch {
	case q.Name == "" || len(q.Name) > maxName || q.Name != cleanName(q.Name):
		return fmt.Errorf("name must be one line of 1 to %d characters", maxName)
	case len(q.Match.keys()) == 0:
		return errors.New("match has no entry, so no client can match")
	case q.Ticked != "" && q.Ticked != "defaults" && q.Ticked != "all":
		return fmt.Errorf("ticked: %q is not all or defaults", q.Ticked)
	case q.Choice != "" && q.Choice != "free" && q.Choice != "locked":
		return fmt.Errorf("choice: %q is not free or locked", q.Choice)
	case q.Choice == "locked" && q.Match.claimed():
		// Any client could take the choice from its users by its name.
		return errors.New("choice: locked is for rows that match by client_ids and document_hosts only: everything else is what a client says of itself")
	}
	if q.Choice == "locked" && q.Ticked == "defaults" {
		return errors.New("choice: locked and ticked: defaults exclude each other: where the choice is locked, the user grants all that is asked for")
	}
	for _, m := range q.Methods {
		if !slices.Contains([]string{methodNone, methodBasic, methodPost, methodKey}, m) {
			return fmt.Errorf("token_endpoint_auth_methods: %q is not none, client_secret_basic, client_secret_post or private_key_jwt", m)
		}
	}
	if err := q.Match.check(); err != nil {
		return err
	}
	return q.readLives()
}

func (m *quirkMatch) check() error {
	for _, id := range m.IDs {
		if isDocumentURL(id) {
			if err := anywhere.Check(id); err != nil {
				return fmt.Errorf("match.client_ids: %q: %w", id, err)
			}
		} else if id == "" || len(id) > maxRegisteredID || strings.ContainsFunc(id, func(r rune) bool { return !unreserved(r) }) {
			return fmt.Errorf("match.client_ids: %q is neither the id of a client nor the URL of a document", id)
		}
	}
	for name, hosts := range map[string][]string{"match.document_hosts": m.DocumentHosts, "match.redirect_hosts": m.RedirectHosts} {
		for _, host := range hosts {
			if strings.Contains(host, "*") || fetch.CheckHost(host) != nil {
				return fmt.Errorf("%s: %q is not a host such as claude.ai", name, host)
			}
		}
	}
	for _, scheme := range m.RedirectSchemes {
		if why := oauth.CheckScheme(scheme); why != "" {
			return fmt.Errorf("match.redirect_schemes: %q %s", scheme, why)
		}
	}
	for _, name := range m.Names {
		if name == "" || name != cleanName(name) {
			return fmt.Errorf("match.client_names: %q is not a name that a client can have: one line, at most %d characters", name, maxName)
		}
	}
	return nil
}

func (q *Quirk) readLives() error {
	for _, f := range []struct {
		name, text string
		least      time.Duration
		value      *time.Duration
	}{
		{"access_ttl", q.Access, time.Second, &q.lives.Access},
		{"refresh_ttl", q.Refresh, time.Second, &q.lives.Refresh},
		{"refresh_idle_ttl", q.Idle, time.Second, &q.lives.Idle},
		{"replay_window", q.Replay, 0, &q.lives.Replay},
	} {
		if f.text == "" {
			continue
		}
		d, err := time.ParseDuration(f.text)
		if err != nil || d < f.least || d > maxLifetime {
			return fmt.Errorf("%s: %q is not a duration such as 90s, 5m or 720h", f.name, f.text)
		}
		if *f.value = d; d == 0 {
			*f.value = -1 // no replay at all, see Lives
		}
	}
	return nil
}

// of returns the row for a client, and the key by which it matches, or nil.
func (all quirks) of(c *Client) (q *Quirk, key quirkKey) {
	find := func(kind, entry string) bool {
		key = quirkKey{kind, entry}
		q = all[key]
		return q != nil
	}
	if find(byID, c.ID) {
		return q, key
	}
	if c.Document != "" && find(byDocumentHost, hostOf(c.ID)) {
		return q, key
	}
	for _, uri := range c.RedirectURIs {
		if host := hostOf(uri); strings.HasPrefix(uri, "https://") && find(byRedirectHost, host) {
			return q, key
		}
	}
	for _, uri := range c.RedirectURIs {
		if scheme, _, _ := strings.Cut(uri, ":"); scheme != "https" && scheme != "http" && find(byRedirectScheme, scheme) {
			return q, key
		}
	}
	find(byName, c.Name)
	return q, key
}

// hostOf returns the host of an https URL that was checked, without its port.
func hostOf(uri string) string {
	_, host, _ := strings.Cut(uri, "://")
	if end := strings.IndexAny(host, "/?:"); end >= 0 {
		host = host[:end]
	}
	return host
}

// narrow gives a client its row, and what the row sets.
func (all quirks) narrow(k *known) {
	q, _ := all.of(&k.Client)
	if q == nil {
		return
	}
	k.Quirk, k.Lives = q, k.Lives.Within(q.lives)
}

// accepts reports whether a client with the row may authenticate by a method.
func (q *Quirk) accepts(method string) bool {
	return q == nil || len(q.Methods) == 0 || slices.Contains(q.Methods, method)
}

// refusal is the error of a method that the row does not accept.
func (q *Quirk) refusal() error {
	return invalid("the operator accepts %s only from this client, not the method of this request", strings.Join(q.Methods, " and "))
}

// Sets is what the row sets, as in the file.
func (q *Quirk) Sets() string {
	var all []string
	for _, f := range []struct{ name, value string }{
		{"ticked", q.Ticked}, {"choice", q.Choice}, {"access_ttl", q.Access}, {"refresh_ttl", q.Refresh}, {"refresh_idle_ttl", q.Idle}, {"replay_window", q.Replay},
		{"token_endpoint_auth_methods", strings.Join(q.Methods, " ")},
	} {
		if f.value != "" {
			all = append(all, f.name+": "+f.value)
		}
	}
	return strings.Join(all, ", ")
}

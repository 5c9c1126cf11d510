package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"signet/internal/backend"
	"signet/internal/gatewayconfig"
	"signet/internal/oauth"
	"signet/internal/rawjson"
)

// member is one server of a configuration.
type member struct {
	config   *gatewayconfig.Server
	prefix   string // what its names begin with
	deny     bool   // only what the server exposes is served
	own      bool   // a strategy of the program adds to the server's headers
	backend  connection
	lists    lists
	unlisted [4]atomic.Pointer[string] // why a list that all callers see could not be read last
	use      sync.RWMutex              // read-locked while a message runs
	end      context.CancelFunc        // of the work behind the messages
}

// shares reports whether all callers see the same lists: the server does not know them.
func (m *member) shares() bool {
	if m.own || m.config.Connection != nil && m.config.Connection.Grant == gatewayconfig.GrantExchange {
		return false
	}
	switch m.config.Strategy {
	case gatewayconfig.Bypass:
		return true
	case gatewayconfig.ProxyOAuth:
		return !m.config.Fallback
	}
	return false
}

// serves reports whether the configuration lets a tool or prompt be served.
func (m *member) serves(name string) bool {
	if matches(m.config.Hide, name) {
		return false
	}
	if len(m.config.Expose) == 0 {
		return !m.deny
	}
	return matches(m.config.Expose, name)
}

func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, name) // the configuration's patterns are well formed
		return err == nil && ok
	})
}

// needs returns the scopes that callers need for a tool, or for anything else if the name is not
// that of a tool.
func (m *member) needs(method, name string) []string {
	if method != "tools/call" {
		return m.config.Scopes
	}
	more := m.config.Tools[name].Scopes
	if len(more) == 0 {
		return m.config.Scopes
	}
	return append(slices.Clip(m.config.Scopes), more...)
}

// hides reports whether a caller is not to know that a tool exists.
func (m *member) hides(name string, granted []string) bool {
	return m.config.Tools[name].Hide && !oauth.ScopeIsSubset(m.needs("tools/call", name), granted)
}

// kind is one of the lists of a server.
type kind struct {
	method string // that lists it
	member string // of the result
	list   string // of backend.List
	name   string // member that names an item
	item   string // for people
}

var (
	tools     = kind{"tools/list", "tools", "tools", "name", "tool"}
	prompts   = kind{"prompts/list", "prompts", "prompts", "name", "prompt"}
	resources = kind{"resources/list", "resources", "resources", "uri", "resource"}
	templates = kind{"resources/templates/list", "resourceTemplates", "resourceTemplates", "uriTemplate", "template"}

	kinds = []kind{tools, prompts, resources, templates}
)

// item is a tool, prompt, resource or template of a server.
type item struct {
	name string          // at the server
	raw  json.RawMessage // with the name that clients see
	safe bool            // a tool that may be called twice
	pin  string          // of a tool of a server with pins
}

const (
	maxItems = 2000     // of one list of one server
	maxItem  = 64 << 10 // bytes of one item
	maxName  = 512      // bytes of a name or URI
)

// items returns the parts of a server's list that can be served, and why others cannot.
func (m *member) items(k kind, list []json.RawMessage) (items []item, problems []string) {
	seen := map[string]bool{}
	for i, raw := range list {
		if len(items) == maxItems {
			problems = append(problems, fmt.Sprintf("%d of its %s are left out: only %d are served", len(list)-i, k.member, maxItems))
			break
		}
		one, why := m.item(k, raw)
		switch {
		case why != "":
			problems = append(problems, fmt.Sprintf("%s %d is left out: %s", strings.TrimSuffix(k.member, "s"), i, why))
		case seen[one.name]:
			problems = append(problems, fmt.Sprintf("%s %d is left out: it has the name of another one", strings.TrimSuffix(k.member, "s"), i))
		case (k == tools || k == prompts) && !m.serves(one.name):
		default:
			seen[one.name] = true
			items = append(items, one)
		}
	}
	return items, problems
}

// item reads one item. It is left out if why is not empty.
func (m *member) item(k kind, raw json.RawMessage) (one item, why string) {
	if len(raw) > maxItem {
		return item{}, fmt.Sprintf("it is longer than %d bytes", maxItem)
	}
	named := rawjson.Get(raw, k.name)
	name, ok := rawjson.String(named)
	if !ok {
		return item{}, "it has no " + k.name
	}
	if why := checkName(name); why != "" {
		return item{}, why
	}
	if why := backend.ItemProblem(k.list, raw); why != "" {
		return item{}, why
	}
	one = item{name: name, raw: rawjson.Replace(raw, named, rawjson.Quote(m.prefix+name))}
	if k == tools {
		var t struct {
			Annotations struct {
				ReadOnly   bool `json:"readOnlyHint"`
				Idempotent bool `json:"idempotentHint"`
			} `json:"annotations"`
		}
		if json.Unmarshal(raw, &t) != nil {
			return item{}, "its annotations are malformed"
		}
		one.safe = t.Annotations.ReadOnly || t.Annotations.Idempotent || m.config.Tools[name].Idempotent
	}
	if k == tools && m.config.Pins != nil {
		pin, err := gatewayconfig.Pin(raw)
		if err != nil || m.config.Pins[name] != pin {
			return item{}, "it is not pinned as it is now (signet gateway pin)"
		}
		one.pin = pin
	}
	return one, ""
}

// checkName returns why a name cannot be served.
func checkName(name string) string {
	switch {
	case name == "":
		return "its name is empty"
	case len(name) > maxName:
		return fmt.Sprintf("its name is longer than %d bytes", maxName)
	case !utf8.ValidString(name), strings.ContainsFunc(name, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }):
		return "its name has a character that is not printed"
	}
	return ""
}

const (
	listsOfAll    = 5 * time.Minute  // how long lists of servers that do not know callers are kept; they say when a list changes
	listsOfOne    = time.Minute      // how long a caller's own lists are kept
	listsFailed   = 5 * time.Second  // how long a failure is kept
	listPatience  = 2 * time.Second  // how long a client waits for the lists of a server that is slow
	listTimeout   = 20 * time.Second // how long a server may take
	maxListOwners = 2000             // callers of one server whose lists are kept
)

// lists are the lists of one server, of each caller or of all. They are safe for concurrent use.
type lists struct {
	mu     sync.Mutex
	owners map[string]*ownLists // by caller, or "" for all

	// names are the server's, also while it fails: how many callers have one in the last list that
	// could be read.
	names [4]map[string]int

	leftOut [4]map[string]bool // those of names that are not served, because another server has them
}

// ownLists are the lists that a caller sees.
type ownLists struct {
	kept   [4]*keptList
	last   [4][]item // that could be read
	leaves bool      // others have taken its place
}

// setLast keeps the last list of a caller. It is called with mu held.
func (l *lists) setLast(own *ownLists, i int, items []item) {
	if l.names[i] == nil {
		l.names[i] = map[string]int{}
	}
	for _, one := range items {
		l.names[i][one.name]++
	}
	for _, one := range own.last[i] {
		if l.names[i][one.name]--; l.names[i][one.name] == 0 {
			delete(l.names[i], one.name)
			delete(l.leftOut[i], one.name)
		}
	}
	own.last[i] = items
}

// remove forgets the lists of a caller. It is called with mu held.
func (l *lists) remove(owner string) {
	own := l.owners[owner]
	for i := range own.last {
		l.setLast(own, i, nil)
	}
	own.leaves = true
	delete(l.owners, owner)
}

// keptList is one list. Its other fields are set when ready is closed.
type keptList struct {
	slow  atomic.Bool // a client has waited in vain: others do not wait
	ready chan struct{}
	until time.Time
	items []item
	err   error
}

// index returns the place of a kind in an array of lists.
func (k kind) index() int { return slices.Index(kinds, k) }

// get returns a list of an owner. If there is none that is fresh, fetch begins, and the caller gets
// what it brings. A failure is the answer for a moment, so that a dead server is not asked by each
// request. If one client has waited for a slow server, others do not until it has answered, or says
// that its lists have changed.
func (l *lists) get(ctx context.Context, owner string, k kind, life, patience time.Duration, fetch func(ctx context.Context) ([]item, error)) ([]item, error) {
	one := l.current(owner, k, life, fetch)
	select {
	case <-one.ready:
		return one.items, one.err
	default:
	}
	if one.slow.Load() {
		return nil, errSlow
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-one.ready:
		return one.items, one.err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-late.C:
		one.slow.Store(true)
		return nil, errSlow
	}
}

var errSlow = errors.New("it has not answered yet")

func (l *lists) current(owner string, k kind, life time.Duration, fetch func(ctx context.Context) ([]item, error)) *keptList {
	l.mu.Lock()
	defer l.mu.Unlock()
	own := l.owners[owner]
	if own == nil {
		l.makeRoom()
		own = new(ownLists)
		l.owners[owner] = own
	}
	i := k.index()
	if one := own.kept[i]; one != nil && one.lasts() {
		return one
	}
	one := &keptList{ready: make(chan struct{})}
	if last := own.kept[i]; last != nil && last.err != nil {
		one.slow.Store(last.slow.Load())
	}
	own.kept[i] = one
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), listTimeout)
		defer cancel()
		one.items, one.err = fetch(ctx)
		if one.err != nil {
			life = listsFailed
		}
		one.until = time.Now().Add(life)
		l.mu.Lock()
		defer l.mu.Unlock()
		if one.err == nil && !own.leaves {
			l.setLast(own, i, one.items)
		}
		close(one.ready)
	}()
	return one
}

// lasts reports whether a list is fresh, or on its way.
func (one *keptList) lasts() bool {
	select {
	case <-one.ready:
		return time.Now().Before(one.until)
	default:
		return true
	}
}

// makeRoom forgets the lists of some callers if there are many.
func (l *lists) makeRoom() {
	if l.owners == nil {
		l.owners = map[string]*ownLists{}
	}
	if len(l.owners) < maxListOwners {
		return
	}
	for owner, own := range l.owners {
		if !slices.ContainsFunc(own.kept[:], func(one *keptList) bool { return one != nil && one.lasts() }) {
			l.remove(owner)
		}
	}
	for owner := range l.owners {
		if len(l.owners) < maxListOwners {
			return
		}
		l.remove(owner)
	}
}

// forget has the lists of a kind read anew, or all for "".
func (l *lists) forget(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, own := range l.owners {
		for i, k := range kinds {
			if name == "" || name == k.list || name == "resources" && k == templates {
				own.kept[i] = nil
			}
		}
	}
}

// report logs what is left out of a list.
func report(log *slog.Logger, server string, k kind, problems []string) {
	const most = 5
	for i, p := range problems {
		if i == most {
			log.Warn("more of a server's list is left out", "server", server, "list", k.member, "more", len(problems)-most)
			return
		}
		log.Warn("a part of a server's list is left out", "server", server, "list", k.member, "why", p)
	}
}

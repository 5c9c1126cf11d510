package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	"signet/internal/backend"
	"signet/internal/oauth"
	"signet/mcp"
)

// list answers with the items of all servers that the caller may use.
func (g *Gateway) list(ctx context.Context, c *mcp.Call, k kind) mcp.Reply {
	members := g.now.Load().members
	found := make([][]item, len(members))
	var work sync.WaitGroup
	for i, m := range members {
		if !oauth.ScopeIsSubset(m.config.Scopes, c.Granted) {
			continue
		}
		if items, fresh := m.lists.fresh(g.owner(c, m), k); fresh {
			found[i] = items
			continue
		}
		work.Go(func() { found[i], _ = g.items(ctx, c, m, k) })
	}
	work.Wait()
	size := 128
	for _, items := range found {
		for _, one := range items {
			size += len(one.raw) + 1
		}
	}
	result := append(make([]byte, 0, size), `{"`+k.member+`":[`...)
	first := true
	for i, items := range found {
		m := members[i]
		for _, one := range items {
			if k == tools && !m.mayCall(one.name, c.Granted) {
				continue
			}
			if m.prefix == "" && g.leavesOut(members[:i], m, k, one.name) {
				continue
			}
			if !first {
				result = append(result, ',')
			}
			result, first = append(result, one.raw...), false
		}
	}
	result = append(result, ']')
	if c.Modern {
		result = append(result, `,"resultType":"complete","ttlMs":`...)
		result = append(strconv.AppendInt(result, listsOfOne.Milliseconds(), 10), `,"cacheScope":"private"`...)
	}
	return mcp.Reply{Result: append(result, '}')}
}

// leavesOut reports whether an earlier server has a name of m, and logs it once while that lasts.
func (g *Gateway) leavesOut(earlier []*member, m *member, k kind, name string) bool {
	out := owned(earlier, k, name)
	if m.lists.leaveOut(k, name, out) {
		g.o.Log.Warn("a part of a server's list is left out", "server", m.config.ID, "list", k.member, "why", "another server has the same name: set routing.prefix, or hide one of them", "name", name)
	}
	return out
}

// leaveOut notes whether a name in a list is left out, and reports whether it was not before. Names
// that are no longer in the list are forgotten.
func (l *lists) leaveOut(k kind, name string, out bool) (begins bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := k.index()
	switch {
	case !out:
		delete(l.leftOut[i], name)
	case l.names[i][name] > 0 && !l.leftOut[i][name]:
		if l.leftOut[i] == nil {
			l.leftOut[i] = map[string]bool{}
		}
		l.leftOut[i][name] = true
		return true
	}
	return false
}

// owned reports whether a name is that of one of the servers, also if it fails now, or if the caller
// does not see it there.
func owned(servers []*member, k kind, name string) bool {
	return slices.ContainsFunc(servers, func(m *member) bool { return m.lists.owns(k, name) })
}

func (l *lists) owns(k kind, name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.names[k.index()][name] > 0
}

// collisions returns the names of servers without prefix that are not served because an earlier
// server has the same, as far as their lists have been read.
func (s *set) collisions() map[*member][]string {
	found := map[*member][]string{}
	for _, k := range kinds {
		first := map[string]*member{}
		for _, m := range s.members {
			if m.prefix != "" {
				continue
			}
			for _, name := range m.lists.all(k) {
				if owner := first[name]; owner != nil {
					found[m] = append(found[m], fmt.Sprintf("%s %s: it is that of the server %s", k.item, name, owner.config.ID))
				} else {
					first[name] = m
				}
			}
		}
	}
	return found
}

// all returns the names in a list of all callers when it was read last, sorted.
func (l *lists) all(k kind) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.names[k.index()]))
}

// mayCall reports whether the scopes allow the call of a tool.
func (m *member) mayCall(tool string, granted []string) bool {
	return oauth.ScopeIsSubset(m.needs(callTool, tool), granted)
}

// fresh returns a list if it is there, and not too old.
func (l *lists) fresh(owner string, k kind) ([]item, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	own := l.owners[owner]
	if own == nil {
		return nil, false
	}
	one := own.kept[k.index()]
	if one == nil || !one.isReady() || !one.lasts() {
		return nil, false
	}
	return one.items, true
}

// owner returns whose lists a caller sees.
func (g *Gateway) owner(c *mcp.Call, m *member) string {
	if m.shares() || c.Claims == nil {
		return ""
	}
	return c.Claims.GrantID + "\n" + c.Claims.Scope
}

// items returns a list of one server for a caller. A user who has not connected the server yet sees
// what the server lists for everybody.
func (g *Gateway) items(ctx context.Context, c *mcp.Call, m *member, k kind) ([]item, error) {
	life := listsOfAll
	if !m.shares() {
		life = listsOfOne
	}
	caller, session := Caller{Claims: c.Claims, Token: c.Token, Granted: c.Granted}, ""
	if !m.shares() {
		session = c.Claims.GrantID
	}
	return m.lists.get(ctx, g.owner(c, m), k, life, g.patience, func(ctx context.Context) ([]item, error) {
		raw, err := g.fetch(ctx, m, k, caller, session)
		g.noteList(m, k, err)
		if err != nil {
			return nil, err
		}
		items, problems := m.items(k, raw)
		report(g.o.Log, m.config.ID, k, problems)
		return items, nil
	})
}

// noteList keeps and logs that a list which all callers see cannot be read, or can be again. What
// one caller cannot list says nothing of the server.
func (g *Gateway) noteList(m *member, k kind, err error) {
	var e *backend.Error
	errors.As(err, &e)
	switch {
	case e != nil && e.Kind == backend.Disabled:
		return
	case !m.shares():
		if err != nil {
			g.o.Log.Debug("a server cannot be listed", "server", m.config.ID, "list", k.member, "err", err)
		}
		return
	}
	var why *string
	if err != nil {
		why = new(err.Error())
		if e != nil {
			why = &e.What
		}
	}
	switch before := m.unlisted[k.index()].Swap(why); {
	case why != nil && before == nil:
		g.o.Log.Warn("a server cannot be listed", "server", m.config.ID, "list", k.member, "err", err)
	case why == nil && before != nil:
		g.o.Log.Info("a server can be listed again", "server", m.config.ID, "list", k.member)
	}
}

// fetch asks a server for one list.
func (g *Gateway) fetch(ctx context.Context, m *member, k kind, caller Caller, session string) ([]json.RawMessage, error) {
	if !m.use.TryRLock() {
		return nil, ErrUnknown
	}
	defer m.use.RUnlock()
	header, err := g.strategies.headers(ctx, caller, m.config, false)
	var missing *Missing
	if errors.As(err, &missing) {
		header, err, session = nil, nil, ""
	}
	if err != nil {
		return nil, err
	}
	raw, err := m.backend.List(ctx, k.list, session, header)
	var e *backend.Error
	if errors.As(err, &e) && e.Kind == backend.Unauthorized && missing == nil && g.strategies.renews(m.config) {
		if header, err = g.strategies.headers(withSent(ctx, header), caller, m.config, true); err != nil {
			return nil, err
		}
		return m.backend.List(ctx, k.list, session, header)
	}
	return raw, err
}

// fill reads the lists that say to which server a name belongs, if names have no prefix.
func (g *Gateway) fill(ctx context.Context, c *mcp.Call, s *set) {
	var work sync.WaitGroup
	for _, m := range s.members {
		for _, k := range kinds {
			if !k.isOf(c.Method) {
				continue
			}
			if _, fresh := m.lists.fresh(g.owner(c, m), k); !fresh {
				work.Go(func() { _, _ = g.items(ctx, c, m, k) })
			}
		}
	}
	work.Wait()
}

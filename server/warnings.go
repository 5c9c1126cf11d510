package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"time"
)

// warnings returns what is legal in the settings, but probably a mistake.
func (o *Options) warnings() []string {
	var list []string
	host, err := netip.ParseAddrPort(o.Listen)
	if err != nil || !o.loopback() {
		return nil
	}
	if !host.Addr().IsLoopback() && o.TLSCert == "" {
		list = append(list, fmt.Sprintf("listening on %s, beyond this machine, while the issuer %s is loopback: clients elsewhere cannot use it", o.Listen, o.Issuer))
	}
	if u, err := url.Parse(o.Issuer); err == nil && o.Role != "mcp" && host.Port() != 0 && u.Port() != strconv.Itoa(int(host.Port())) && len(o.TrustedProxies) == 0 {
		list = append(list, fmt.Sprintf("listening on %s, while clients are told to go to the issuer %s: unless something there passes requests on, set the issuer", o.Listen, o.Issuer))
	}
	return list
}

// manyUsers is the length of a users file, in bytes, from which it is the wrong place: about
// 110,000 users, who take a second to read.
const manyUsers = 20 << 20

// warnManyUsers warns of a users file that takes long to read, before it is read.
func warnManyUsers(log *slog.Logger, path string) {
	if info, err := os.Stat(path); err == nil && info.Size() > manyUsers {
		log.Warn("the users file is long: reading it takes a second for 100,000 users, at the start and after each change, and their lines stay in memory; "+
			"for so many let users sign in by a provider (docs/upstream.md), or have a program check passwords in your own database (docs/library.md)",
			"file", path, "megabytes", info.Size()>>20)
	}
}

// Warnings returns what [Server.Serve] warns of with these settings, if the server has the
// sample tools and no others. It opens no listener and no store.
func (o Options) Warnings(ctx context.Context) []string {
	o.Log = slog.New(slog.DiscardHandler)
	s := &Server{MCP: newMCP(o), o: o}
	s.upstreams, _ = o.Upstream.OpenForTools() // an error of it stops the start
	s.access.WithoutLogin(o.PublicTools...)
	s.access.Hide(o.HiddenTools...)
	s.AddSamples()
	list := o.warnings()
	for _, w := range s.toolWarnings(ctx) {
		list = append(list, w.String())
	}
	return list
}

// toolWarning is a setting for tools that has no effect.
type toolWarning struct {
	text string
	args []any // for the log: names and values
}

func (w toolWarning) String() string {
	text := w.text
	for i := 1; i < len(w.args); i += 2 {
		text += fmt.Sprintf(": %v", w.args[i])
	}
	return text
}

func (s *Server) warnTools(ctx context.Context) {
	for _, w := range s.toolWarnings(ctx) {
		s.o.Log.Warn(w.text, w.args...)
	}
}

func (s *Server) toolWarnings(ctx context.Context) (list []toolWarning) {
	warn := func(text string, args ...any) { list = append(list, toolWarning{text, args}) }
	if s.o.Role == "auth" || len(s.o.PublicTools)+len(s.o.HiddenTools) == 0 {
		return nil
	}
	if s.o.Gateway.Config != "" {
		warn("SIGNET_PUBLIC_TOOLS and SIGNET_HIDDEN_TOOLS have no effect on the servers of SIGNET_GATEWAY_CONFIG: tools.NAME has scopes and hide there")
		return list
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	names, err := s.access.ToolNames(ctx, s.MCP)
	if err != nil {
		warn("the tools cannot be listed", "err", err)
		return list
	}
	for _, tool := range s.o.PublicTools {
		if !slices.Contains(names, tool) {
			warn("SIGNET_PUBLIC_TOOLS names a tool that does not exist", "tool", tool)
		} else if needs := s.access.Needs(tool); len(needs) > 0 {
			warn("SIGNET_PUBLIC_TOOLS names a tool that needs scopes, so it is not public", "tool", tool, "scopes", needs)
		}
	}
	for _, tool := range s.o.HiddenTools {
		if !slices.Contains(names, tool) {
			warn("SIGNET_HIDDEN_TOOLS names a tool that does not exist", "tool", tool)
		} else if len(s.access.Needs(tool)) == 0 {
			warn("SIGNET_HIDDEN_TOOLS names a tool that needs no scope, so it is not hidden", "tool", tool)
		}
	}
	return list
}

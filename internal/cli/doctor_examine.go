package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"signet/internal/clients"
	"signet/internal/seal"
	"signet/internal/state"
	"signet/internal/store"
	"signet/users"
)

// findings are the results of all checks.
type findings struct{ all []finding }

// check adds the result of a check: err, with the variable if there is one, or fine, which
// says what is there.
func (f *findings) check(what, variable string, err error, fine string) {
	if err != nil {
		fine = err.Error()
		if variable != "" && !strings.HasPrefix(fine, envPrefix) {
			fine = envPrefix + variable + ": " + fine
		}
	}
	f.all = append(f.all, finding{What: what, OK: err == nil, Message: fine})
}

func (f *findings) warn(what, format string, args ...any) {
	f.all = append(f.all, finding{What: what, OK: true, Warning: true, Message: fmt.Sprintf(format, args...)})
}

// examine checks what a server does before it listens, as far as that changes nothing.
func examine(ctx context.Context, cfg *config) []finding {
	f := &findings{}
	f.check("settings", "", nil, "issuer "+cfg.Issuer+", role "+cfg.Role)
	for _, name := range cfg.unknown() {
		f.warn("settings", "unknown variable %s is not used", name)
	}
	for _, text := range cfg.warnings() {
		f.warn("settings", "%s", text)
	}
	for _, text := range cfg.options(nil).Warnings(ctx) {
		f.warn("settings", "%s", text)
	}
	if err := cfg.checkFiles(); err != nil {
		f.check("files", "", err, "")
	} else {
		f.examineCertificate(cfg)
	}
	if cfg.Role != "mcp" {
		fresh, whole := f.examineData(ctx, cfg)
		f.examineUsers(cfg)
		f.examineClients(cfg)
		f.examineUpstreams(ctx, cfg)
		if cfg.KeysDir != "" {
			_, err := cfg.readKeys(slog.New(slog.DiscardHandler))
			f.check("keys", "KEYS_DIR", err, cfg.KeysDir)
		} else if whole && !fresh {
			fine, err := examineKeys(ctx, cfg)
			f.check("keys", "", err, fine)
		}
	}
	f.examineListeners(ctx, cfg)
	return f.all
}

func (f *findings) examineData(ctx context.Context, cfg *config) (fresh, whole bool) {
	fresh, err := state.Inspect(ctx, cfg.data())
	where, variable, fine := cfg.DataDir, "DATA_DIR", "secret, store and mirror belong together"
	if store.Locate(cfg.Store).Shared() {
		where, variable, fine = "PostgreSQL", "STORE", "the store is there and was made under this secret"
	} else if path := cfg.data().Store; filepath.Dir(path) != filepath.Clean(cfg.DataDir) {
		where, variable = where+" and "+path, "STORE"
		if dir := filepath.Dir(path); err == nil && fresh {
			if _, err = os.Stat(dir); err == nil { // only the data directory is made
				err = canMake(dir)
			}
		}
	}
	if err == nil && fresh && where != "PostgreSQL" {
		err = canMake(cfg.DataDir)
	}
	if fresh {
		fine = "nothing there yet; the first start makes it"
	}
	f.check("data", variable, err, where+": "+fine)
	return fresh, err == nil
}

const writable = 2 // W_OK of access(2)

// canMake reports whether files can be made in a directory, which is made too if it is not
// there.
func canMake(dir string) error {
	for {
		info, err := os.Stat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir:
			dir = filepath.Dir(dir)
			continue
		case err != nil:
			return err
		case !info.IsDir():
			return fmt.Errorf("%s is not a directory", dir)
		}
		if err := syscall.Access(dir, writable); err != nil {
			return fmt.Errorf("nothing can be made in %s: %w", dir, err)
		}
		return nil
	}
}

func (f *findings) examineUsers(cfg *config) {
	path := cfg.usersFile()
	file, err := cfg.openUsers()
	if err != nil {
		f.check("users", "USERS_FILE", err, "")
		return
	}
	enabled, all := 0, file.List()
	for _, u := range all {
		if !u.Disabled {
			enabled++
		}
	}
	f.warnScopeless(cfg, all)
	const remedy = "no user can sign in; `signet user add NAME` adds one"
	switch u := cfg.upstream(); {
	case enabled == 0 && (u.Config != "" || u.Issuer != ""):
		f.check("users", "", nil, path+": no user can sign in with it; users sign in by an upstream")
	case len(all) == 0 && isMissing(path):
		f.warn("users", "%s is not there: %s", path, remedy)
	case enabled == 0:
		f.warn("users", "%s: %d users, all disabled: %s", path, len(all), remedy)
	default:
		f.check("users", "", nil, fmt.Sprintf("%s: %d can sign in", path, enabled))
	}
}

// warnScopeless warns of users who cannot grant anything, as after a scope was renamed.
func (f *findings) warnScopeless(cfg *config, all []users.Account) {
	known := scopeList(cfg.Scopes)
	exists := func(scope string) bool { return slices.Contains(known, scope) }
	var names []string
	for _, u := range all {
		if !u.Disabled && len(u.Scopes) > 0 && !slices.ContainsFunc(u.Scopes, exists) {
			names = append(names, u.Name)
		}
	}
	if len(names) > 0 {
		f.warn("users", "%s: %d users have no scope that SIGNET_SCOPES names, such as %s: no client gets a token for them", cfg.usersFile(), len(names), names[0])
	}
}

// examineUpstreams asks each upstream whether it answers. A server starts although one does not.
func (f *findings) examineUpstreams(ctx context.Context, cfg *config) {
	set, err := cfg.openUpstreams(cfg.upstream())
	if err != nil || set == nil {
		return // checkFiles has found the error
	}
	for _, u := range askUpstreams(ctx, set, cfg.Issuer+"/oauth/callback") {
		if u.Answers {
			f.check("upstream", "", nil, u.ID+" answers")
			continue
		}
		f.warn("upstream", "%s: %s", u.ID, clean(u.Problem))
	}
}

func isMissing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// examineClients reads the file of configured clients, which need not be there. Without a
// root secret, before the first start, another one is as good.
func (f *findings) examineClients(cfg *config) {
	ring, err := cfg.data().Ring()
	if err != nil {
		ring, err = seal.Parse(seal.NewSecret())
	}
	path := cfg.clientsFile()
	if err == nil {
		_, err = clients.Open(cfg.clientOptions(ring))
	}
	fine := path
	if err == nil {
		var list []clients.Configured
		list, err = cfg.clients().List()
		fine = fmt.Sprintf("%s: %d configured", path, len(list))
		if isMissing(path) {
			fine = path + " is not there: no configured clients"
		}
		if err == nil && len(list) == 0 && cfg.Registration == "off" {
			f.warn("clients", "%s, and SIGNET_REGISTRATION=off: no new client can connect; `signet client add NAME` adds one", fine)
			return
		}
	}
	f.check("clients", "CLIENTS_FILE", err, fine)
}

// examineCertificate warns of a certificate that clients refuse.
func (f *findings) examineCertificate(cfg *config) {
	if cfg.TLSCert == "" {
		return
	}
	pair, err := tls.LoadX509KeyPair(cfg.TLSCert, cfg.TLSKey)
	if err != nil {
		f.check("certificate", "TLS_CERT", err, "")
		return
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	issuer, e := url.Parse(cfg.Issuer)
	now := time.Now()
	switch {
	case err != nil || e != nil:
		f.check("certificate", "TLS_CERT", errors.Join(err, e), "")
	case now.After(leaf.NotAfter), now.Before(leaf.NotBefore):
		f.warn("certificate", "SIGNET_TLS_CERT: %s is valid from %s to %s only", cfg.TLSCert, clock(leaf.NotBefore), clock(leaf.NotAfter))
	case cfg.Role != "mcp" && leaf.VerifyHostname(issuer.Hostname()) != nil:
		f.warn("certificate", "SIGNET_TLS_CERT: %s is not for the issuer's host %s", cfg.TLSCert, issuer.Hostname())
	default:
		f.check("certificate", "", nil, cfg.TLSCert+" is valid until "+clock(leaf.NotAfter))
	}
}

// examineListeners reports whether a server can listen, or answers already.
func (f *findings) examineListeners(ctx context.Context, cfg *config) {
	l, err := net.Listen("tcp", cfg.Listen)
	if err == nil {
		defer l.Close() // after the other listener, as in a server
	}
	runs := err != nil && answersHere(ctx, cfg)
	fine := cfg.Listen + " is free"
	if runs {
		err, fine = nil, cfg.Listen+": a server answers there"
	}
	f.check("listen", "LISTEN", err, fine)
	if cfg.MetricsListen == "off" || runs {
		return
	}
	if err = canListen(cfg.MetricsListen); err != nil && cfg.MetricsListen == cfg.Listen {
		err = fmt.Errorf("SIGNET_METRICS_LISTEN: %s is SIGNET_LISTEN, too", cfg.Listen)
	}
	if _, set := cfg.environ[envPrefix+"METRICS_LISTEN"]; err != nil && !set {
		f.warn("metrics", "there will be none: %v; SIGNET_METRICS_LISTEN names another address", err)
		return
	}
	f.check("metrics", "METRICS_LISTEN", err, cfg.MetricsListen+" is free")
}

func canListen(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	return l.Close()
}

// answersHere reports whether the program that listens at the address of the settings is a
// server with them.
func answersHere(ctx context.Context, cfg *config) bool {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	at, client, err := ownListener(cfg)
	if err != nil {
		return false
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at+"/livez", nil)
	if err != nil {
		return false
	}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	var health struct {
		Status string `json:"status"`
	}
	err = json.NewDecoder(io.LimitReader(resp.Body, 4<<10)).Decode(&health)
	return err == nil && resp.StatusCode == http.StatusOK && health.Status == "ok"
}

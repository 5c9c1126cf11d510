package store_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"signet/internal/store"
	"signet/internal/test/pgtest"
)

// Behind a PgBouncer in session mode, with its defaults, everything works that works
// without it.
func TestStoreBehindPgBouncer(t *testing.T) {
	direct := pgtest.URL(t)
	o := store.Options{Path: pgtest.Bouncer(t, direct), Serve: true, First: "root"}
	replicas := atOnce(t, 2, o)
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			if err := spend(replicas[i%2], fmt.Sprint(i)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := len(spent(t, replicas[0])); n != 40 {
		t.Errorf("%d rows, want 40", n)
	}
	for setting, want := range map[string]string{"search_path": "signet", "lock_timeout": "100ms", "idle_in_transaction_session_timeout": "2s", "application_name": "signet"} {
		var got string
		err := replicas[1].Read(t.Context(), func(tx store.Tx) error { return tx.QueryRow("SHOW " + setting).Scan(&got) })
		if err != nil || got != want {
			t.Errorf("%s is %q (%v), want %s", setting, got, err, want)
		}
	}
	if _, err := store.NewEpoch(t.Context(), o, "root"); !errors.Is(err, store.ErrLocked) {
		t.Errorf("a new epoch while servers run: %v, want ErrLocked", err)
	}
	epoch := replicas[0].Epoch()
	for _, s := range replicas {
		closeStore(t, s)
	}
	if _, err := store.NewEpoch(t.Context(), o, "root"); err != nil {
		t.Fatal(err)
	}
	o.Serve = false
	s := open(t, o)
	if s.Epoch() == epoch || len(spent(t, s)) != 40 {
		t.Errorf("after a new epoch: epoch %s, was %s; %d rows, want 40", s.Epoch(), epoch, len(spent(t, s)))
	}
	rows := 0
	if err := s.Dump(t.Context(), func(store.Table, []any) error { rows++; return nil }); err != nil || rows < 40 {
		t.Errorf("a dump of %d rows (%v)", rows, err)
	}
}

// A pooler that lends sessions for a transaction or a statement loses the locks and the
// settings of the session. It is refused, whatever else it does, and nothing is made in
// the database or left in its sessions.
func TestPoolerThatSharesSessionsIsRefused(t *testing.T) {
	for name, settings := range map[string][]string{
		"transaction":              {"pool_mode = transaction"},
		"transaction, in turns":    {"pool_mode = transaction", "server_round_robin = 1"},
		"transaction, one session": {"pool_mode = transaction", "default_pool_size = 1"},
		"transaction, two in turns": {"pool_mode = transaction", "server_round_robin = 1", "default_pool_size = 2",
			"min_pool_size = 2"},
		"transaction, all parameters taken": {"pool_mode = transaction", "ignore_startup_parameters = options"},
		"statement":                         {"pool_mode = statement"},
		"busy":                              {"pool_mode = transaction"},
		"busy, in turns":                    {"pool_mode = transaction", "server_round_robin = 1", "default_pool_size = 3"},
	} {
		t.Run(name, func(t *testing.T) {
			direct := pgtest.URL(t)
			bouncer := pgtest.Bouncer(t, direct, settings...)
			if strings.HasPrefix(name, "busy") {
				keepBusy(t, bouncer)
			}
			o := store.Options{Path: bouncer, First: "root"}
			server := o
			server.Serve = true
			for verb, do := range map[string]func() error{
				"a server":  func() error { _, err := store.Open(t.Context(), server); return err },
				"a command": func() error { _, err := store.Open(t.Context(), o); return err },
				"Create":    func() error { return store.Create(t.Context(), o, "root") },
				"NewEpoch":  func() error { _, err := store.NewEpoch(t.Context(), o, "root"); return err },
			} {
				if err := do(); err == nil || !strings.Contains(err.Error(), "pool_mode = session") {
					t.Errorf("%s: %v, want an error that names pool_mode = session", verb, err)
				}
			}
			o.Path, o.First = direct, ""
			if _, err := store.Open(t.Context(), o); !errors.Is(err, store.ErrNoStore) {
				t.Errorf("the database afterwards: %v, want ErrNoStore", err)
			}
			if strings.HasPrefix(name, "busy") {
				return
			}
			var path string
			c := connect(t, bouncer)
			if err := c.QueryRow(t.Context(), "SHOW search_path", pgx.QueryExecModeSimpleProtocol).Scan(&path); err != nil || strings.Contains(path, "signet") {
				t.Errorf("search_path of the pool is %s (%v)", path, err)
			}
		})
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// keepBusy has other programs use the pool until the test ends.
func keepBusy(t *testing.T, url string) {
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for range 4 {
		c := connect(t, url)
		all.Go(func() {
			for ctx.Err() == nil {
				c.Exec(ctx, "BEGIN; SELECT pg_sleep(random() / 500); COMMIT", pgx.QueryExecModeSimpleProtocol)
			}
		})
	}
	t.Cleanup(func() { stop(); all.Wait() })
}

// What PgBouncer refuses stops a server with the reason, and what may pass does not.
func TestRefusalsOfPgBouncerNameRemedyAndNoPassword(t *testing.T) {
	direct := pgtest.URL(t)
	bouncer := parse(t, pgtest.Bouncer(t, direct))
	one := parse(t, pgtest.Bouncer(t, direct, "default_pool_size = 1"))
	nowhere := parse(t, direct)
	nowhere.Host = "127.0.0.1:1"
	unreachable := parse(t, pgtest.Bouncer(t, nowhere.String()))
	for what, test := range map[string]struct {
		base   *url.URL
		change func(u *url.URL)
		want   string
		waits  bool
	}{
		"wrong password":  {bouncer, func(u *url.URL) { u.User = url.UserPassword("postgres", "hunter2") }, "check user and password", false},
		"no such user":    {bouncer, func(u *url.URL) { u.User = url.UserPassword("nobody", "hunter2") }, "check user and password", false},
		"no database":     {bouncer, func(u *url.URL) { u.Path = "/nothing_there" }, "know the database", false},
		"a parameter":     {bouncer, func(u *url.URL) { u.RawQuery += "&options=-c%20geqo%3Doff" }, "ignore_startup_parameters", false},
		"unknown setting": {bouncer, func(u *url.URL) { u.RawQuery += "&search_pth=x" }, "search_pth", false},
		"TLS":             {bouncer, func(u *url.URL) { u.RawQuery = "sslmode=require" }, "sslmode", false},
		"one session":     {one, func(*url.URL) {}, "default_pool_size", true},
		"no database yet": {unreachable, func(*url.URL) {}, "", true},
	} {
		t.Run(what, func(t *testing.T) {
			u := *test.base
			test.change(&u)
			o := store.Options{Path: u.String(), First: "root", Serve: true}
			s, err := store.Open(t.Context(), o)
			if (err == nil) != test.waits {
				t.Errorf("a server: %v; should it wait: %v", err, test.waits)
			}
			if s != nil {
				err = s.Check(t.Context())
				closeStore(t, s)
			}
			password, _ := u.User.Password()
			if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), password) {
				t.Errorf("%v, want ErrUnavailable with %q and no password", err, test.want)
			}
		})
	}
}

// A server that has waited for its database and is then refused says so, so that it can
// stop with the reason.
func TestServerThatWaitedIsToldOfRefusal(t *testing.T) {
	o := firstOptions(t)
	closeStore(t, open(t, o))
	for name, spoil := range map[string]func(*store.Options){
		"another root": func(o *store.Options) { o.Root = func(string) bool { return false } },
		"wrong password": func(o *store.Options) {
			u := parse(t, o.Path)
			u.User = url.UserPassword("postgres", "x")
			o.Path = u.String()
		},
		"no database":     func(o *store.Options) { u := parse(t, o.Path); u.Path = "/nothing_there"; o.Path = u.String() },
		"unknown setting": func(o *store.Options) { o.Path += "&search_pth=x" },
	} {
		t.Run(name, func(t *testing.T) {
			late := o
			proxy := pgtest.NewProxy(t, o.Path)
			late.Path = proxy.URL
			spoil(&late)
			proxy.Set(pgtest.Reset)
			s := open(t, late)
			select {
			case err := <-s.Refused():
				t.Fatalf("while the database is down: %v", err)
			default:
			}
			proxy.Set(pgtest.Pass)
			select {
			case err := <-s.Refused():
				if err == nil {
					t.Error("no reason")
				}
			case <-time.After(time.Minute):
				t.Errorf("not told; Check says %v", s.Check(t.Context()))
			}
		})
	}
}

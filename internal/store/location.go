package store

import (
	"context"
	"errors"
	"regexp"
	"strings"
)

// Location is where a store is: in a SQLite file, or in a PostgreSQL database.
type Location struct {
	text   string // path or URL
	engine engine
}

// Locate takes the path of a SQLite file, or the URL of a PostgreSQL database
// (postgres:// or postgresql://). It opens nothing. A text that is neither is found by
// [Location.Check].
func Locate(text string) Location {
	if strings.HasPrefix(text, "postgres://") || strings.HasPrefix(text, "postgresql://") {
		return Location{text, postgresEngine{}}
	}
	return Location{text, sqliteEngine{}}
}

// Shared reports whether several servers (replicas) can use the store at once: they
// can if it is in a PostgreSQL database.
func (l Location) Shared() bool { return l.engine.shared() }

// Check reports what is wrong with the text, without connecting. The error does not
// show the text, because it may contain a password.
func (l Location) Check() error {
	switch {
	case l.Shared():
	case keyValue.MatchString(l.text):
		return errors.New("neither a path nor a URL: write the connection string as postgres://user:password@host:5432/database")
	case likeURL.MatchString(l.text):
		return errors.New("neither a path nor the URL of a PostgreSQL database (postgres://...)")
	}
	return l.engine.checkLocation(l.text)
}

var (
	// keyValue matches the other form of a connection string: host=h password=p.
	keyValue = regexp.MustCompile(`(?i)(^|\s)(host|hostaddr|port|dbname|user|password|passfile|service|ssl[a-z]+)\s*=`)

	// likeURL matches a URL with another scheme, with a part missing, or in quotes.
	likeURL = regexp.MustCompile(`(?i)://|^\W*postgres(ql)?:|^//.*@|^[^/.][^/]*:.*@`)
)

// engine is SQLite or PostgreSQL: what each of them does in its own way. Options that
// are passed to it were checked, except by restoring and finishRestore.
type engine interface {
	shared() bool
	checkLocation(text string) error
	schema() []string // the schema's history, see sqliteSchema

	open(ctx context.Context, s *state) (database, error)
	create(ctx context.Context, o Options, fingerprint string) error
	newEpoch(ctx context.Context, o Options, fingerprint string) (aside []string, err error)
	restore(ctx context.Context, o Options, contents Contents, replace bool) (aside string, err error)
	restoring(o Options) bool
	finishRestore(o Options) error
	hold(path string) (release func(), err error)

	// runningServers is an SQL condition for the rows of servers that run.
	runningServers() string

	// ofSubject is what [Store.OfSubject] returns.
	ofSubject() string

	// staleServers is the time before which a server was last seen whose row may be
	// deleted. Times are Unix milliseconds.
	staleServers(now int64) int64
}

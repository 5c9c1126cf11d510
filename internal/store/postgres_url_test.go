package store_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"signet/internal/store"
)

// A password with a character that means something in a URL is refused. The error names
// the character with its escape, and shows no part of the password.
func TestStoreURLNamesCharacterToEscape(t *testing.T) {
	for _, c := range []string{"@", ":", "/", "#", "?", "%", "%zz", "@:", "/?", "#@", "?@", "??", "/@", ":/", "%@", "?a=", "#?", "?a=@", "12/se?"} {
		password := "hunter" + c + "secret"
		for _, form := range []string{"postgres://u:%s@h/x", "postgresql://u:%s@h:5432/x", "postgres://u:%s@h1,h2:5433/x?sslmode=require", "postgres://u:%s@[::1]:5432/x?user=me@corp"} {
			raw := fmt.Sprintf(form, password)
			err := store.Locate(raw).Check()
			if err == nil {
				t.Errorf("%s: accepted", raw)
				continue
			}
			for part := range strings.SplitSeq(err.Error(), " ") {
				if strings.Contains(part, "hunter") || strings.Contains(part, "secret") {
					t.Errorf("%s: %v shows a part of the password", raw, err)
				}
			}
			for _, bad := range []string{"@", ":", "/", "#", "?", "%"} {
				if named := strings.Contains(err.Error(), bad+" as "+strings.ToUpper(url.QueryEscape(bad))); strings.Contains(c, bad) && !named {
					t.Errorf("%s: %v does not say how to escape %s", raw, err, bad)
				}
			}
			escaped := fmt.Sprintf(form, url.QueryEscape(password))
			if err := store.Locate(escaped).Check(); err != nil {
				t.Errorf("%s: %v", escaped, err)
			}
		}
	}
}

// Whatever is wrong with a URL, or with another form of where the database is, the error
// shows no password.
func TestStoreThatIsNoURLIsRefusedUnseen(t *testing.T) {
	for _, raw := range []string{
		"postgres://u:hunter2", "postgres://u:hunter2@h:port/x", "postgres://u:hunter2@h:99999/x", "postgres://h/x?password=hunter2&port=0",
		"postgres://h/x?password=hun&ter2", "postgres://h/x?password=hun#ter2", "postgres://h/x?password=hun%zzter2", "postgres://h/x?password=hun=ter2",
		"postgres://h/x?sslpassword=hun&ter2", "postgres://h/x?sslpassword=hun#ter2", "postgres://h/x?sslpassword=hunter2&sslmode=never", "postgres://h/x?passfile=/hun#ter2",
		"postgres://h/x?password=hunter2&target_session_attrs=hunter2", "postgres://h/x?password=hunter2&sslrootcert=/hunter2&sslmode=verify-full",
		"postgres://u:hun ter2@h/x", "postgres://u:hunter2@h/x\n", "postgres://u:hun\tter2@h/x", "postgres://u:hunter2@h/x?hunter2", "postgres://u:12/hunter2@h/x", "postgres://u:12?hunter2=a@h/x",
		"Postgres://u:hunter2@h/x", " postgres://u:hunter2@h/x", `"postgres://u:hunter2@h/x"`, "postgres:u:hunter2@h/x", "postgres:/u:hunter2@h/x", "postgresql:u:hunter2@h",
		"mysql://u:hunter2@h/x", "jdbc:postgresql://h/x?password=hunter2", "//u:hunter2@h/x", "u:hunter2@h/x", "u:hun/ter2@h/x", "u:hunter2@h",
		"host=h user=u password=hunter2 dbname=x", "password=hunter2 host=h", "user=u password='hun ter2'", "dbname=x sslpassword=hunter2", "host=h passfile=/hunter2", "HOST=h Password = hunter2",
		"service=hunter2",
	} {
		err := store.Locate(raw).Check()
		if err == nil || strings.Contains(err.Error(), "hun") || strings.Contains(err.Error(), "ter2") {
			t.Errorf("%q: %v, want an error without the password", raw, err)
		}
		if _, err := store.Open(t.Context(), store.Options{Path: raw, Mirror: t.TempDir() + "/mirror"}); err == nil || strings.Contains(err.Error(), "hun") || strings.Contains(err.Error(), "ter2") {
			t.Errorf("opening %q: %v, want an error without the password", raw, err)
		}
	}
	for _, raw := range []string{
		"postgres://u:p@h/x", "postgresql://u:p@h1,h2:5433/x?sslmode=require", "postgres://h1:1,h2:2/x", "postgres:///x?host=/run/postgresql", "postgres://u@h/x", "postgres://h",
		"postgres://u:p%40%3A%2F%23%3F%25@h/x", "postgres://u@%2Frun%2Fpostgresql/x", "postgres://h/x?user=me@corp&password=a@b:c/d?e", "postgres://u:p@h/x?search_path=a,b&lock_timeout=5&x.y=1",
		"postgres://u:p@[fe80::1]:5432/x", "postgres://u:päss!$&'()*+,;=~@h/x", "postgres://u:p@h/x?", "postgres://:p@h/x", "postgres://u:@h/x",
		"data/signet.db", "/var/lib/me@host/signet.db", "./a:b@c", "signet.db", "/a=b/signet.db", "data:1/signet.db", "host.db", "C:\\signet.db",
	} {
		if err := store.Locate(raw).Check(); err != nil {
			t.Errorf("%s: %v", raw, err)
		}
	}
}

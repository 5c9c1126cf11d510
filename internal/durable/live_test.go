package durable_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"signet/internal/durable"
)

// followed is a file whose value is its text, and counts how often it was parsed.
type followed struct {
	*durable.Live[string]
	path   string
	parsed int
}

func follow(t *testing.T, path string) *followed {
	t.Helper()
	f := &followed{path: path}
	var err error
	f.Live, err = durable.Follow(path, durable.Access{}, 100, "none", func(b []byte) (string, error) {
		f.parsed++
		if strings.Contains(string(b), "bad") {
			return "", errors.New("bad text")
		}
		return string(b), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// is checks the value after the time in which a change may go unnoticed.
func (f *followed) is(t *testing.T, want, stale string) {
	t.Helper()
	time.Sleep(time.Second)
	if got := f.Get(); got != want {
		t.Errorf("value %q, want %q", got, want)
	}
	if err := f.Stale(); stale == "" && err != nil || stale != "" && (err == nil || !strings.Contains(err.Error(), stale)) {
		t.Errorf("Stale: %v, want %q", err, stale)
	}
}

func TestLiveFollowsTheFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "dir")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		f := follow(t, filepath.Join(dir, "file"))
		f.is(t, "none", "")
		write(t, f.path, "one", 0o644)
		f.is(t, "none", "chmod 0600 "+f.path)
		os.Chmod(f.path, 0o600)
		f.is(t, "one", "")
		write(t, f.path, "bad two", 0o600)
		f.is(t, "one", "bad text")
		write(t, f.path, "three", 0o600)
		f.is(t, "three", "")
		os.Remove(f.path)
		f.is(t, "three", "gone")
		write(t, f.path, "four!", 0o600)
		f.is(t, "four!", "")

		// A folder that is mended is no change of the file.
		os.Chmod(dir, 0o777)
		os.Chmod(f.path, 0o400)
		f.is(t, "four!", "chmod 0700 "+dir)
		os.Chmod(dir, 0o700)
		f.is(t, "four!", "")
		if f.parsed != 4 {
			t.Errorf("parsed %d times, want 4: once a content", f.parsed)
		}
	})
}

func TestLiveTakesAnEmptyFileForOneThatIsBeingWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t, filepath.Join(t.TempDir(), "file"))
		write(t, f.path, "", 0o600)
		f.is(t, "", "") // nothing is lost
		write(t, f.path, "bad", 0o600)
		f.is(t, "", "bad text")
		write(t, f.path, "", 0o600)
		f.is(t, "", "")
		write(t, f.path, "one", 0o600)
		f.is(t, "one", "")
		write(t, f.path, "", 0o600)
		f.is(t, "one", "is empty")
		f.is(t, "one", "is empty")
		write(t, f.path, "one", 0o600)
		f.is(t, "one", "")
		write(t, f.path, "", 0o600)
		f.is(t, "one", "is empty")
		write(t, f.path, "\n", 0o600)
		f.is(t, "\n", "")
	})
}

// A change of the same size within the tick of the file's clock shows in the content.
func TestLiveSeesChangesThatTheClockDoesNotShow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, "one", 0o600)
	f := follow(t, path)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, "two", 0o600)
	if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	f.is(t, "two", "")
}

// A file that the program has written itself is read at once.
func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, "one", 0o600)
	f := follow(t, path)
	write(t, path, "two", 0o600)
	f.Reload()
	if got := f.Get(); got != "two" {
		t.Errorf("value %q", got)
	}
}

package durable

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// leftAfter is the age from which a staged file belongs to no process any longer: a file
// that is being written is younger.
const leftAfter = time.Hour

var random = regexp.MustCompile(`^[0-9]+$`) // the end of a name that os.CreateTemp makes

// RemoveLeftovers removes the files that [Stage] made for path and that stayed because the
// process was killed before it could place or discard them. [Stage] does so too.
func RemoveLeftovers(path string) {
	dir, prefix := filepath.Dir(path), stagedPrefix(path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // what follows says why
	}
	for _, e := range entries {
		end, staged := strings.CutPrefix(e.Name(), prefix)
		if !staged || !random.MatchString(end) || !e.Type().IsRegular() {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > leftAfter {
			os.Remove(filepath.Join(dir, e.Name())) // if it cannot, it does no harm
		}
	}
}

// stagedPrefix is how the names of the files begin that [Stage] makes for path.
func stagedPrefix(path string) string { return "." + filepath.Base(path) + "." }

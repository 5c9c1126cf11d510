package chaos

import (
	"maps"
	"net/http"
	"slices"
	"strings"
)

// otherCase writes header names in other cases, which means the same (RFC 9110 §5.1).
type otherCase struct {
	http.ResponseWriter
	d     dice
	wrote bool
}

// keptCase has the headers that net/http looks up by their canonical names.
var keptCase = map[string]bool{"Content-Type": true, "Content-Length": true, "Content-Encoding": true, "Transfer-Encoding": true, "Connection": true, "Date": true, "Trailer": true}

func (w *otherCase) WriteHeader(status int) {
	if !w.wrote && status >= 200 {
		w.wrote = true
		h := w.Header()
		for _, name := range slices.Sorted(maps.Keys(h)) {
			if keptCase[name] {
				continue
			}
			values := h[name]
			delete(h, name)
			h[[]string{name, strings.ToLower(name), strings.ToUpper(name)}[w.d.IntN(3)]] = values
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *otherCase) Write(b []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(b)
}

// Flush is for streams.
func (w *otherCase) Flush() {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *otherCase) Unwrap() http.ResponseWriter { return w.ResponseWriter }

package handlers

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"strings"
)

// compress keeps a compressed form of the document beside the plain one. Each form has its own
// entity tag (RFC 9110 §8.8.3.3).
func (d *document) compress() {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		return // the level is one
	}
	_, _ = w.Write(d.body) // a buffer takes everything
	if w.Close() == nil && b.Len() < len(d.body) {
		zipped := *d
		zipped.body, zipped.etag = b.Bytes(), strings.TrimSuffix(d.etag, `"`)+`-gzip"`
		d.zipped = zipped.prepare()
	}
}

// encoded returns the form of the document that the request takes, and sets the headers
// of that form.
func (d *document) encoded(h http.Header, r *http.Request) *document {
	if d.zipped == nil {
		return d
	}
	h.Add("Vary", "Accept-Encoding")
	if !takesGzip(r.Header.Get("Accept-Encoding")) {
		return d
	}
	h.Set("Content-Encoding", "gzip")
	return d.zipped
}

// takesGzip reads Accept-Encoding (RFC 9110 §12.5.3). A client that does not name gzip
// gets the plain form.
func takesGzip(header string) bool {
	for coding := range strings.SplitSeq(header, ",") {
		name, weight, _ := strings.Cut(coding, ";")
		if !strings.EqualFold(strings.TrimSpace(name), "gzip") {
			continue
		}
		weight = strings.TrimRight(strings.ReplaceAll(strings.ToLower(weight), " ", ""), "0")
		return weight != "q=" && weight != "q=0."
	}
	return false
}

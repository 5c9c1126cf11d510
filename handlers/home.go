package handlers

import (
	"net/http"
	"slices"
)

// homeData says what is served here, to people who open the issuer in a browser.
type homeData struct {
	Resources []string
	Documents []string
}

// hasHome reports whether the issuer's root is a page. It is not where a resource
// is the whole host.
func (s *server) hasHome() bool {
	return !slices.Contains(s.o.Resources, s.o.Issuer) && !slices.Contains(s.o.Resources, s.o.Issuer+"/")
}

// home serves the page that the metadata calls service_documentation.
func (s *server) home(*http.Request) (any, error) {
	data := homeData{Resources: s.o.Resources}
	for _, path := range append(s.metadataPaths()[:1], s.path+"/.well-known/jwks.json") {
		data.Documents = append(data.Documents, s.origin+path)
	}
	return page{name: "home", status: http.StatusOK, data: data}, nil
}

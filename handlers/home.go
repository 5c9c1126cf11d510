package handlers

import (
	"net/http"
	"slices"
)

// homeData is shown to people who open the issuer in a browser.
type homeData struct {
	Resources []string
	Documents []string
}

// hasHome reports whether the issuer's root is a page. It is not if a resource is the
// whole host.
func (e *endpoints) hasHome() bool {
	return !slices.Contains(e.o.Resources, e.o.Issuer) && !slices.Contains(e.o.Resources, e.o.Issuer+"/")
}

// home serves the page that the metadata calls service_documentation.
func (e *endpoints) home(*http.Request) (any, error) {
	data := homeData{Resources: e.o.Resources}
	for _, path := range append(e.metadataPaths()[:1], e.path+"/.well-known/jwks.json") {
		data.Documents = append(data.Documents, e.origin+path)
	}
	return page{name: "home", status: http.StatusOK, data: data}, nil
}

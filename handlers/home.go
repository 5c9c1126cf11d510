package handlers

import (
	"net/http"
	"slices"

	"signet/handlers/pages"
)

// hasHome reports whether the issuer's root is a page. It is not if a resource is the
// whole host.
func (e *endpoints) hasHome() bool {
	return !slices.Contains(e.o.Resources, e.o.Issuer) && !slices.Contains(e.o.Resources, e.o.Issuer+"/")
}

// home serves the page that the metadata calls service_documentation.
func (e *endpoints) home(*http.Request) (any, error) {
	data := pages.Home{Resources: e.o.Resources}
	for _, path := range append(e.metadataPaths()[:1], e.path+"/.well-known/jwks.json") {
		data.Documents = append(data.Documents, pages.URL(e.origin+path))
	}
	return page{status: http.StatusOK, data: data}, nil
}

package invoices

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// serve serves what needs a token.
func (a *API) serve(w http.ResponseWriter, r *http.Request, path string, body []byte) {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	email := a.Owner(token)
	if email == "" {
		w.Header().Set("WWW-Authenticate", "Bearer")
		refuse(w, http.StatusUnauthorized, "Given token not valid for any token type")
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.counts["request"]++
	if s := a.s.Status; s != 0 {
		refuse(w, s, "as the test wants it")
		return
	}
	companies := a.companies(email)
	if path == "companies/" && r.Method == http.MethodGet {
		list := []map[string]string{}
		for _, id := range companies {
			list = append(list, map[string]string{"publicId": id, "name": id})
		}
		answer(w, http.StatusOK, map[string]any{"results": list})
		return
	}
	company := r.URL.Query().Get("companyId")
	switch {
	case company == "":
		refuse(w, http.StatusBadRequest, "companyId is needed")
	case !slices.Contains(companies, company):
		refuse(w, http.StatusForbidden, "not a company of yours")
	default:
		a.serveInvoices(w, r, path, company, body)
	}
}

func (a *API) companies(email string) []string {
	i := slices.IndexFunc(a.o.Users, func(u User) bool { return u.Email == email })
	if i < 0 {
		return nil
	}
	return a.o.Users[i].Companies
}

// serveInvoices serves the invoices of a company.
func (a *API) serveInvoices(w http.ResponseWriter, r *http.Request, path, company string, body []byte) {
	id, isSend := strings.CutSuffix(path, "/send/")
	id = strings.TrimPrefix(id, "invoices/")
	switch {
	case path == "invoices/" && r.Method == http.MethodGet:
		answer(w, http.StatusOK, map[string]any{"results": append([]Invoice{}, a.invoices[company]...)})
	case path == "invoices/" && r.Method == http.MethodPost:
		a.create(w, company, body)
	case isSend && r.Method == http.MethodPost:
		a.send(w, company, id)
	default:
		refuse(w, http.StatusNotFound, "Not found.")
	}
}

func (a *API) create(w http.ResponseWriter, company string, body []byte) {
	var sent struct {
		Customer string
		Amount   float64
	}
	if read(body, &sent) != nil || sent.Customer == "" || sent.Amount <= 0 {
		refuse(w, http.StatusBadRequest, "customer and amount are needed")
		return
	}
	a.made++
	invoice := Invoice{ID: fmt.Sprintf("invoice-%d", a.made), Number: fmt.Sprintf("%04d", len(a.invoices[company])+1), Customer: sent.Customer, Amount: sent.Amount, Status: "draft"}
	a.invoices[company] = append(a.invoices[company], invoice)
	answer(w, http.StatusCreated, invoice)
}

func (a *API) send(w http.ResponseWriter, company, id string) {
	for i, invoice := range a.invoices[company] {
		if invoice.ID == id {
			a.invoices[company][i].Status = "sent"
			answer(w, http.StatusOK, a.invoices[company][i])
			return
		}
	}
	refuse(w, http.StatusNotFound, "Not found.")
}

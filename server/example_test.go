package server_test

import (
	"context"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"net/http/httptest"
	"os"

	"signet/handlers"
	"signet/server"
	"signet/users"
)

// A program shows a login page of its own.
func ExampleOptions_loginHandler() {
	page := template.Must(template.New("login").Parse(`<form method="post"><input type="hidden" name="state" value="{{.State}}">
<input name="username"> <input name="password" type="password"> <button>Sign in</button> {{.Problem}}</form>
`))
	login := func(w http.ResponseWriter, r *http.Request, complete handlers.Complete) {
		state, problem := r.FormValue("state"), ""
		if r.Method == http.MethodPost {
			redirect, err := complete(state, r.FormValue("username"), r.FormValue("password"))
			if err == nil {
				http.Redirect(w, r, redirect, http.StatusSeeOther)
				return
			}
			problem = err.Error()
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		page.Execute(w, struct{ State, Problem string }{state, problem})
	}
	check := func(_ context.Context, name, password string) (users.User, error) {
		if name != "ann" || password != "opensesame" {
			return users.User{}, users.ErrInvalid
		}
		return users.User{Subject: "1"}, nil
	}
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	srv, err := server.New(server.Options{App: "my-app", DataDir: dir, Check: check, LoginHandler: login})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Close()

	w := httptest.NewRecorder()
	srv.Handler().ServeHTTP(w, httptest.NewRequest("GET", "http://localhost:8080/login?state=abc", nil))
	io.Copy(os.Stdout, w.Body)
	// Output:
	// <form method="post"><input type="hidden" name="state" value="abc">
	// <input name="username"> <input name="password" type="password"> <button>Sign in</button> </form>
}

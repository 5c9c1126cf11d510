// Gateway-strategy is a program with a gateway in its own mux. What two of the MCP servers behind
// it are sent is decided by functions of the program.
package main

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"signet/mcp/gateway"
	"signet/server"
	"signet/users"
)

func check(_ context.Context, name, password string) (users.User, error) {
	if name == "alice" && password == "cows" {
		return users.User{Subject: "1", Name: name}, nil
	}
	return users.User{}, users.ErrInvalid
}

// enabled adds a header to what the server is sent by its strategy in gateway.yaml.
func enabled(context.Context, gateway.Caller, *gateway.Server, bool) (http.Header, error) {
	return http.Header{"X-Custom-Auth": {"enabled"}}, nil
}

// signed is a whole strategy. The server knows the key, and so who the user is. It sees no token.
func signed(key []byte) gateway.Strategy {
	return func(_ context.Context, caller gateway.Caller, _ *gateway.Server, _ bool) (http.Header, error) {
		if caller.Claims == nil {
			return nil, errors.New("mail is for users")
		}
		m := hmac.New(sha256.New, key)
		m.Write([]byte(caller.Claims.Subject))
		return http.Header{"X-User": {caller.Claims.Subject}, "X-User-Signature": {hex.EncodeToString(m.Sum(nil))}}, nil
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	srv, err := server.New(server.Options{
		App: "Gateway", Check: check, Issuer: cmp.Or(os.Getenv("SIGNET_ISSUER"), "http://localhost:8000"), DataDir: "gateway-data",
		Gateway: server.Gateway{
			Config: "gateway.yaml",
			Strategies: map[string]gateway.Strategy{
				gateway.ForServer + "notes": enabled,                               // besides what gateway.yaml says
				"signed":                    signed([]byte(os.Getenv("MAIL_KEY"))), // where gateway.yaml names it
			},
		},
	})
	if err != nil {
		return err
	}
	defer srv.Close()

	mux := http.NewServeMux()
	mux.HandleFunc("GET /about", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "This page is the program's own.") })
	mux.Handle("/", srv.Handler())

	web := &http.Server{Addr: cmp.Or(os.Getenv("SIGNET_LISTEN"), "127.0.0.1:8000"), Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { web.Close() })
	if err := web.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

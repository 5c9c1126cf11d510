// Filecredentials checks users against users.txt, a file of name:password lines that
// another system wrote. A user's id is the number of the line.
//
// Signet has its own users file, with hashes instead of passwords, and
// `signet user import --plaintext users.txt` imports such a file: see docs/users.md. Use
// the approach of this program if the file must stay as it is.
package main

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"log"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/mcp"
	"signet/server"
	"signet/users"
)

// fileCheck returns a check that reads the file at path at every login.
func fileCheck(path string) users.CheckFunc {
	return func(_ context.Context, name, password string) (users.User, error) {
		file, err := os.Open(path)
		if err != nil {
			return users.User{}, err // not ErrInvalid: the password may be right
		}
		defer file.Close()
		found, lines := users.User{}, bufio.NewScanner(file)
		for n := 1; lines.Scan(); n++ {
			user, secret, ok := strings.Cut(lines.Text(), ":")
			if ok && same(user, name) && same(secret, password) {
				found = users.User{Subject: strconv.Itoa(n), Name: user, Scopes: []string{"read"}}
			}
		}
		if err := lines.Err(); err != nil {
			return users.User{}, err
		}
		if found.Subject == "" {
			return users.User{}, users.ErrInvalid
		}
		return found, nil
	}
}

// same compares two texts in a time that does not reveal where they differ.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

func whoami(ctx context.Context, _ *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, any, error) {
	caller, _ := mcp.Caller(ctx)
	return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "You are user " + caller.Subject}}}, nil, nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	srv, err := server.New(server.Options{
		App: "File credentials", Check: fileCheck(cmp.Or(os.Getenv("USERS_TXT"), "users.txt")),
		Issuer: os.Getenv("SIGNET_ISSUER"), Listen: os.Getenv("SIGNET_LISTEN"), // empty: http://localhost:8080
	})
	if err != nil {
		log.Fatal(err)
	}
	sdk.AddTool(srv.MCP, &sdk.Tool{Name: "whoami", Description: "Tell which user is calling"}, whoami)
	if err := srv.ListenAndServe(ctx); err != nil {
		log.Fatal(err)
	}
}

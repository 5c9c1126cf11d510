package bench

import (
	"fmt"
	"os"
	"testing"

	"signet/internal/e2e"
)

func TestMain(m *testing.M) {
	if addr := os.Getenv(bareServer); addr != "" {
		fmt.Fprintln(os.Stderr, serveBare(addr))
		os.Exit(1)
	}
	e2e.Main(m)
}

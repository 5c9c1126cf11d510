// Package gateway tests the gateway of the built program: MCP servers behind it, which keep what
// reached them, and clients in front.
package gateway

import (
	"testing"

	"signet/internal/e2e"
)

func TestMain(m *testing.M) { e2e.Main(m) }

package operate

import (
	"testing"

	"signet/internal/e2e"
)

func TestMain(m *testing.M) { e2e.Main(m) }

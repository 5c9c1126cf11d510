//go:build !linux

package server

import (
	"net"
	"time"
)

func settle(net.Listener, time.Duration) {}

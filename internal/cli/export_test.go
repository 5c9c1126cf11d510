package cli

import (
	"io"
	"log/slog"
)

// NewLog returns the log of a server that writes to w.
func NewLog(w io.Writer, format string) *slog.Logger {
	return (&config{LogFormat: format}).logger(w)
}

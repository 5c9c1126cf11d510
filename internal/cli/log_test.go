package cli_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"signet/internal/cli"
)

// slowOutput is an output whose writes wait until they are allowed.
type slowOutput struct {
	allowed chan struct{}

	mu     sync.Mutex
	writes []string
}

func (o *slowOutput) Write(p []byte) (int, error) {
	<-o.allowed
	o.mu.Lock()
	defer o.mu.Unlock()
	o.writes = append(o.writes, string(p))
	return len(p), nil
}

func (o *slowOutput) written() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.writes
}

// Lines that come while a write is under way leave in one write after it, whole and each once.
func TestLogWritesWaitingLinesTogether(t *testing.T) {
	for _, format := range []string{"json", "text"} {
		synctest.Test(t, func(t *testing.T) {
			out := &slowOutput{allowed: make(chan struct{})}
			log := cli.NewLog(out, format)
			var all sync.WaitGroup
			all.Go(func() { log.Info("first") })
			synctest.Wait()
			const more = 50
			for i := range more {
				all.Go(func() {
					log.With("n", i).Info("later")
					if text := strings.Join(out.written(), ""); !strings.Contains(text, fmt.Sprint(i)) {
						t.Errorf("record %d is not in the log when its call returns", i)
					}
				})
			}
			synctest.Wait()
			if len(out.written()) != 0 {
				t.Error("a line was written while the output took none")
			}
			close(out.allowed)
			all.Wait()
			writes := out.written()
			if len(writes) != 2 || !strings.Contains(writes[0], "first") || strings.Count(writes[1], "later") != more || strings.Count(writes[1], "\n") != more {
				t.Errorf("%s: %d writes: %q", format, len(writes), writes)
			}
		})
	}
}

// The lines of one goroutine keep their order, whatever others write.
func TestLogKeepsTheOrderOfLines(t *testing.T) {
	var out bytes.Buffer
	log := cli.NewLog(&out, "text")
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 100 {
				log.Info("x", "of", fmt.Sprintf("%d-%d-", i, j))
			}
		})
	}
	all.Wait()
	for i := range 8 {
		at := -1
		for j := range 100 {
			next := strings.Index(out.String(), fmt.Sprintf("of=%d-%d-\n", i, j))
			if next <= at {
				t.Fatalf("goroutine %d: line %d is at %d, the one before at %d", i, j, next, at)
			}
			at = next
		}
	}
}

// brokenOutput fails.
type brokenOutput struct{}

func (brokenOutput) Write([]byte) (int, error) { return 0, errors.New("broken") }

// An output that fails blocks no caller.
func TestLogThatFailsBlocksNobody(t *testing.T) {
	log := cli.NewLog(brokenOutput{}, "json")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { log.Info("x") })
	}
	all.Wait()
	if err := log.Handler().Handle(t.Context(), record("x")); err == nil {
		t.Error("the handler hides that the output failed")
	}
}

func record(message string) slog.Record {
	return slog.NewRecord(time.Time{}, slog.LevelInfo, message, 0)
}

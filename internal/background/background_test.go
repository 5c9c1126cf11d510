package background_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"signet/internal/background"
)

// newCondition returns a condition and what it has logged since the last call of lines.
func newCondition(t *testing.T, end string) (c *background.Condition, lines func() string) {
	t.Helper()
	var log bytes.Buffer
	plain := &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}
	c = &background.Condition{Log: slog.New(slog.NewTextHandler(&log, plain)), Level: slog.LevelWarn, Begin: "broken", End: end}
	return c, func() string {
		defer log.Reset()
		return strings.TrimSpace(log.String())
	}
}

func TestConditionIsLoggedAtItsBeginningAndItsEnd(t *testing.T) {
	c, lines := newCondition(t, "well again")
	for i, step := range []struct {
		holds bool
		want  string
	}{
		{false, ""},
		{true, "level=WARN msg=broken apart=3"},
		{true, ""},
		{false, "level=INFO msg=\"well again\""},
		{false, ""},
		{true, "level=WARN msg=broken apart=3"},
	} {
		c.Holds(step.holds, "apart", 3)
		if got := lines(); got != step.want {
			t.Errorf("step %d: logged %q, want %q", i, got, step.want)
		}
	}
	silent, lines := newCondition(t, "")
	silent.Holds(true)
	lines()
	if silent.Holds(false); lines() != "" {
		t.Error("a condition without a message for its end has logged one")
	}
}

func TestFailuresAreLoggedOnceOrWithEachNewText(t *testing.T) {
	ended, end := context.WithCancel(t.Context())
	end()
	for name, fails := range map[string]func(*background.Condition, context.Context, error){
		"once": (*background.Condition).Fails, "anew": (*background.Condition).FailsAnew,
	} {
		c, lines := newCondition(t, "well again")
		second := ""
		if name == "anew" {
			second = "level=WARN msg=broken err=second"
		}
		for i, step := range []struct {
			ctx  context.Context
			err  error
			want string
		}{
			{t.Context(), nil, ""},
			{ended, errors.New("stopped"), ""},
			{t.Context(), errors.New("first"), "level=WARN msg=broken err=first"},
			{t.Context(), errors.New("first"), ""},
			{t.Context(), errors.New("second"), second},
			{ended, nil, ""},
			{t.Context(), nil, "level=INFO msg=\"well again\""},
			{t.Context(), errors.New("second"), "level=WARN msg=broken err=second"},
		} {
			fails(c, step.ctx, step.err)
			if got := lines(); got != step.want {
				t.Errorf("%s, step %d: logged %q, want %q", name, i, got, step.want)
			}
		}
	}
}

func TestEveryRepeatsUntilItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		begin := time.Now()
		var at []time.Duration
		background.Every(ctx, time.Second, func() {
			if at = append(at, time.Since(begin)); len(at) == 3 {
				stop()
			}
		})
		if len(at) != 3 || at[0] != time.Second || at[2] != 3*time.Second {
			t.Errorf("called after %v, want after each of three seconds", at)
		}
		background.Every(ctx, time.Nanosecond, func() { t.Error("called after the end of its context") })
	})
}

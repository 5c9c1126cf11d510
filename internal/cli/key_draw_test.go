package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"signet/keys"
)

func TestKeyTimelineFitsInto80Columns(t *testing.T) {
	now := time.Date(2026, 11, 20, 14, 0, 0, 0, time.UTC)
	day := func(n int) time.Time { return time.Date(2026, 11, 20+n, 0, 0, 0, 0, time.UTC) }
	id := func(s string) string { return strings.Repeat(s, 43) }
	drawn := drawTimeline(keys.Timeline{
		Rotation: 24 * time.Hour, MaxAge: 15 * time.Minute, NextMade: day(1),
		Keys: []keys.Info{
			{ID: id("w"), State: keys.Withdrawn, PublishedAt: day(-3), WithdrawnAt: day(-2)},
			{ID: id("a"), State: keys.Past, PublishedAt: day(-2), SignsFrom: day(-1), SignsUntil: day(0), PublishedUntil: now.Add(4 * time.Minute)},
			{ID: id("b"), State: keys.Signing, Private: true, PublishedAt: day(-1), SignsFrom: day(0), SignsUntil: day(1), PublishedUntil: day(1).Add(6 * time.Minute)},
			{ID: id("c"), State: keys.Next, Private: true, PublishedAt: day(0), SignsFrom: day(1)},
		},
	}, now)
	const want = `Signing keys at 2026-11-20 14:00:00 UTC
A new one every 1 d, published 1 d ahead, cached for 15 min at most.

                                                       now
  past     aaaaaaaa --------------##############--------|
  signing  bbbbbbbb               --------------########|#####
  next     cccccccc                             --------|-----##############
                    18 Nov 00:00                                 22 Nov 00:00
                    # signs   - published only

wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww  withdrawn
    withdrawn        2 d 14 h ago (2026-11-18 00:00:00 UTC)

aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa  past
    signed from      1 d 14 h ago (2026-11-19 00:00:00 UTC)
    signed until     14 h ago (2026-11-20 00:00:00 UTC)
    published until  in 4 min (2026-11-20 14:04:00 UTC)

bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb  signing
    signs since      14 h ago (2026-11-20 00:00:00 UTC)
    signs until      in 10 h (2026-11-21 00:00:00 UTC)
    published until  in 10 h (2026-11-21 00:06:00 UTC)

ccccccccccccccccccccccccccccccccccccccccccc  next
    signs from       in 10 h (2026-11-21 00:00:00 UTC)

Another key is made and published in 10 h (2026-11-21 00:00:00 UTC).
`
	if diff := cmp.Diff(want, drawn); diff != "" {
		t.Errorf("drawn differently (-want +got):\n%s", diff)
	}
	for line := range strings.Lines(drawn) {
		if n := len(strings.TrimRight(line, "\n")); n > 79 {
			t.Errorf("%d columns: %q", n, line)
		}
	}
}

// The key that signs is seen to sign, also if that takes less than a column around now, as
// after an early rotation.
func TestShortSigningIsDrawn(t *testing.T) {
	now := time.Date(2026, 11, 20, 14, 0, 0, 0, time.UTC)
	for name, own := range map[string]keys.Timeline{
		"between": {Rotation: 24 * time.Hour, MaxAge: 15 * time.Minute, NextMade: now.Add(24 * time.Hour), Keys: []keys.Info{
			{ID: "old", State: keys.Signing, Private: true, SignsFrom: now.Add(-time.Minute), SignsUntil: now.Add(time.Minute), PublishedUntil: now.Add(6 * time.Minute)},
			{ID: "new", State: keys.Next, Private: true, PublishedAt: now, SignsFrom: now.Add(time.Minute)},
		}},
		"at the end": {Rotation: time.Hour, MaxAge: 15 * time.Minute, NextMade: now.Add(-time.Hour), Keys: []keys.Info{
			{ID: "old", State: keys.Signing, Private: true, PublishedAt: now.Add(-2 * time.Hour), SignsFrom: now.Add(-time.Second), SignsUntil: now, PublishedUntil: now},
		}},
	} {
		found := false
		for line := range strings.Lines(drawTimeline(own, now)) {
			if strings.HasPrefix(line, "  signing  old") {
				found = strings.Contains(line, "#")
			}
		}
		if !found {
			t.Errorf("%s: the key does not sign:\n%s", name, drawTimeline(own, now))
		}
	}
}

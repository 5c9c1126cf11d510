package cli

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"signet/keys"
)

// drawWidth is the width of the axis. With state and name before it, a line has at most
// 79 characters.
const drawWidth = 57

// Marks of the bar.
const (
	markPublished = '-'
	markSigning   = '#'
	markNow       = '|'
)

// drawTimeline draws the keys on one axis, and below it says the same in words. It uses
// no colour and no character beyond ASCII.
func drawTimeline(t keys.Timeline, now time.Time) string {
	if len(t.Keys) == 0 {
		return "There are no signing keys yet: the first start of a server makes them.\n"
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "Signing keys at %s\n", clock(now))
	if t.Rotation > 0 {
		fmt.Fprintf(&b, "A new one every %[1]s, published %[1]s ahead, cached for %[2]s at most.\n", short(t.Rotation), short(t.MaxAge))
	} else {
		fmt.Fprintf(&b, "Your own, from SIGNET_KEYS_DIR, cached for %s at most.\n", short(t.MaxAge))
	}
	drawBars(&b, t, now)
	for _, k := range t.Keys {
		describeKey(&b, k, now)
	}
	if !t.NextMade.IsZero() {
		fmt.Fprintf(&b, "\nAnother key is made and published %s.\n", moment(t.NextMade, now))
	}
	return b.String()
}

// axis maps times to columns.
type axis struct{ from, to time.Time }

// axisOf spans the known times of the keys, to the planned end of the last key.
func axisOf(t keys.Timeline, now time.Time) axis {
	a := axis{now, now}
	for _, k := range t.Keys {
		if k.State == keys.Withdrawn {
			continue
		}
		for _, at := range []time.Time{k.PublishedAt, k.SignsFrom, k.SignsUntil, k.PublishedUntil} {
			if at.IsZero() || at.Unix() <= 0 {
				continue
			}
			if at.Before(a.from) {
				a.from = at
			}
			if at.After(a.to) {
				a.to = at
			}
		}
	}
	if t.Rotation == 0 {
		a.to = a.to.Add(max(a.to.Sub(a.from)/4, time.Hour))
		return a
	}
	if end := t.NextMade.Add(t.Rotation); end.After(a.to) { // of the newest key, unless an operator changes it
		a.to = end
	}
	if earliest := now.Add(-3 * t.Rotation); a.from.Before(earliest) {
		a.from = earliest
	}
	return a
}

func (a axis) column(t time.Time) int {
	c := int(float64(t.Sub(a.from)) / float64(a.to.Sub(a.from)) * drawWidth)
	return min(max(c, 0), drawWidth-1)
}

func drawBars(b *bytes.Buffer, t keys.Timeline, now time.Time) {
	a := axisOf(t, now)
	end, at := a.to, a.column(now)
	if t.Rotation > 0 {
		end = t.NextMade.Add(t.Rotation)
	}
	const indent = 20
	fmt.Fprintf(b, "\n%snow\n", strings.Repeat(" ", indent+max(at-1, 0)))
	for _, k := range t.Keys {
		if k.State == keys.Withdrawn {
			continue
		}
		line := []byte(strings.Repeat(" ", drawWidth))
		paint := func(from, to time.Time, mark byte) {
			if to.IsZero() {
				to = end
			}
			if !to.After(from) {
				return
			}
			first, last := a.column(from), a.column(to)
			for c := first; c < max(last, first+1); c++ {
				line[c] = mark
			}
		}
		published := k.PublishedAt
		if published.IsZero() { // the key is a file, whose age is unknown
			published = a.from
		}
		paint(published, k.PublishedUntil, markPublished)
		if k.Private || k.State == keys.Past {
			paint(k.SignsFrom, k.SignsUntil, markSigning)
		}
		line[at] = markNow
		if k.State == keys.Signing && !bytes.ContainsRune(line, markSigning) { // for less than a column, which is now's
			if at+1 < drawWidth {
				line[at+1] = markSigning
			} else {
				line[at-1] = markSigning
			}
		}
		fmt.Fprintf(b, "  %-8s %-8.8s %s\n", k.State, k.ID, strings.TrimRight(string(line), " "))
	}
	fmt.Fprintf(b, "%s%s\n", strings.Repeat(" ", indent), ruler(a))
	fmt.Fprintf(b, "%s%c signs   %c published only\n", strings.Repeat(" ", indent), markSigning, markPublished)
}

// ruler names both ends of the axis.
func ruler(a axis) string {
	layout := "2 Jan 15:04"
	if a.to.Sub(a.from) < 20*time.Minute {
		layout = time.TimeOnly
	}
	from, to := a.from.UTC().Format(layout), a.to.UTC().Format(layout)
	return from + strings.Repeat(" ", drawWidth-len(from)-len(to)) + to
}

// describeKey says in words what the bar shows.
func describeKey(b *bytes.Buffer, k keys.Info, now time.Time) {
	fmt.Fprintf(b, "\n%s  %s\n", k.ID, k.State)
	say := func(text string, at time.Time) {
		if !at.IsZero() && at.Unix() > 0 {
			fmt.Fprintf(b, "    %-16s %s\n", text, moment(at, now))
		}
	}
	from, until, gone := "signs from", "signs until", "published until"
	if !k.SignsFrom.After(now) {
		from = "signs since"
	}
	if k.State == keys.Past {
		from, until = "signed from", "signed until"
	}
	if k.State != keys.Withdrawn {
		say(from, k.SignsFrom)
		say(until, k.SignsUntil)
		say(gone, k.PublishedUntil)
	} else {
		say("withdrawn", k.WithdrawnAt)
	}
}

func clock(t time.Time) string { return t.UTC().Format(time.DateTime + " MST") }

// moment is a time as a distance from now, and as a date.
func moment(t, now time.Time) string {
	text := clock(t)
	switch d := t.Sub(now); {
	case d.Abs() < time.Second:
		return "now (" + text + ")"
	case d > 0:
		return "in " + short(d) + " (" + text + ")"
	default:
		return short(-d) + " ago (" + text + ")"
	}
}

// short is a duration in its one or two largest units.
func short(d time.Duration) string {
	units := []struct {
		name string
		of   time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"min", time.Minute}, {"s", time.Second}}
	for i, u := range units {
		if d < u.of {
			continue
		}
		text := fmt.Sprintf("%d %s", d/u.of, u.name)
		if i+1 < len(units) && d < 10*u.of {
			if rest := d % u.of / units[i+1].of; rest > 0 {
				text += fmt.Sprintf(" %d %s", rest, units[i+1].name)
			}
		}
		return text
	}
	return fmt.Sprintf("%d ms", d.Milliseconds())
}

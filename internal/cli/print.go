package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf16"
)

// checkedWriter remembers the first error of its writes, so that no command has to look at each.
type checkedWriter struct {
	to  io.Writer
	err error
}

func (w *checkedWriter) Write(b []byte) (int, error) {
	n, err := w.to.Write(b)
	if w.err == nil {
		w.err = err
	}
	return n, err
}

// print prints a line of the result.
func (p Process) print(format string, args ...any) error {
	_, err := fmt.Fprintf(p.Stdout, format+"\n", args...)
	return err
}

// note prints a line that is not part of the result.
func (p Process) note(format string, args ...any) { fmt.Fprintf(p.Stderr, format+"\n", args...) }

// printJSON prints one value for programs. What a terminal would act on is escaped.
func (p Process) printJSON(v any) error {
	text, err := toJSON(v, "")
	if err != nil {
		return err
	}
	_, err = io.WriteString(p.Stdout, text+"\n")
	return err
}

// printPages prints the pages that each passes to it as one array of JSON, of which it never
// holds more than a page.
func printPages[T any](p Process, each func(print func([]T) error) error) error {
	before := "[\n  "
	err := each(func(page []T) error {
		for _, v := range page {
			text, err := toJSON(v, "  ")
			if err != nil {
				return err
			}
			if _, err := io.WriteString(p.Stdout, before+text); err != nil {
				return err
			}
			before = ",\n  "
		}
		return nil
	})
	if err != nil {
		return err
	}
	end := "\n]\n"
	if strings.HasPrefix(before, "[") {
		end = "[]\n"
	}
	_, err = io.WriteString(p.Stdout, end)
	return err
}

// toJSON returns a value for programs, whose lines after the first one begin with prefix. What
// a terminal would act on is escaped.
func toJSON(v any, prefix string) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent(prefix, "  ")
	if err := e.Encode(v); err != nil {
		return "", err
	}
	var text strings.Builder
	for _, r := range strings.TrimSuffix(b.String(), "\n") { // outside of strings JSON has no such characters but line ends
		if r != '\n' && acts(r) {
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&text, "\\u%04x", unit)
			}
			continue
		}
		text.WriteRune(r)
	}
	return text.String(), nil
}

// printTable prints rows under a header, aligned.
func (p Process) printTable(header string, rows [][]string) error {
	tw := tabwriter.NewWriter(p.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, header)
	for _, row := range rows {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	return tw.Flush()
}

// acts reports a character that does something to a terminal or to the order of a text,
// in place of being seen.
func acts(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
}

// clean makes text from elsewhere fit for one line on a terminal.
func clean(s string) string { return cleanTo(300, s) }

// cleanTo is clean for a line of at most so many characters.
func cleanTo(most int, s string) string {
	s = strings.Map(func(r rune) rune {
		if acts(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if runes := []rune(s); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return s
}

// cleanLines is clean for text that keeps its lines and tabs, whatever its length.
func cleanLines(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && acts(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(strings.ReplaceAll(s, "\r\n", "\n"), "?"))
}

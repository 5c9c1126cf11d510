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

// print prints a line of the result.
func (p Process) print(format string, args ...any) error {
	_, err := fmt.Fprintf(p.Stdout, format+"\n", args...)
	return err
}

// note prints a line that is not part of the result.
func (p Process) note(format string, args ...any) { fmt.Fprintf(p.Stderr, format+"\n", args...) }

// printJSON prints one value for programs. What a terminal would act on is escaped.
func (p Process) printJSON(v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return err
	}
	var text strings.Builder
	for _, r := range b.String() { // outside of strings JSON has no such characters but line ends
		if r != '\n' && acts(r) {
			for _, unit := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&text, "\\u%04x", unit)
			}
			continue
		}
		text.WriteRune(r)
	}
	_, err := io.WriteString(p.Stdout, text.String())
	return err
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

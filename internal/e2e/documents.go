package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// Block is a fenced piece of a document.
type Block struct {
	File, Lang, Text string
	Line             int
	NoTest           bool
}

func (b Block) String() string { return fmt.Sprintf("%s:%d", b.File, b.Line) }

func Documents(t *testing.T) []string {
	t.Helper()
	list, err := filepath.Glob("docs/*.md")
	if err != nil || len(list) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	return append([]string{"README.md"}, list...)
}

// Blocks returns the fenced blocks of a document, of one language if that is named.
func Blocks(t *testing.T, file, lang string) (list []Block) {
	t.Helper()
	var open *Block
	for i, line := range strings.Split(ReadText(t, file), "\n") {
		info, fence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case fence && open == nil:
			name, rest, _ := strings.Cut(info, " ")
			open = &Block{File: file, Lang: name, Line: i + 1, NoTest: rest == "no-test"}
		case fence:
			if lang == "" || open.Lang == lang {
				list = append(list, *open)
			}
			open = nil
		case open != nil:
			open.Text += line + "\n"
		}
	}
	if open != nil {
		t.Errorf("%s: the block is not closed", open)
	}
	return list
}

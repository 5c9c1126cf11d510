package backend

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"signet/internal/rawjson"
)

// maxItems is the largest number of items of a list, and maxPages that of its pages.
const (
	maxItems = 10_000
	maxPages = 1000
)

// noCursor is the cursor by which servers of the versions with sessions may say that there is no
// further page, and which they answer with the first page. In 2026-07-28 it is a cursor like others.
const noCursor = `""`

// listMethods are the methods of lists.
var listMethods = map[string]string{
	"tools": "tools/list", "prompts": "prompts/list", "resources": "resources/list", "resourceTemplates": "resources/templates/list",
}

// List returns all pages of a list: "tools", "prompts", "resources" or "resourceTemplates". It is
// empty if the server does not have the method. A list is refused if it has more than 10,000
// items or 1000 pages, if all its pages together are longer than one answer may be, or if it names
// a page twice.
func (b *Backend) List(ctx context.Context, list, session string, header http.Header) ([]json.RawMessage, error) {
	method := listMethods[list]
	if method == "" {
		return nil, fmt.Errorf("there is no list %q", list)
	}
	m := Message{Method: method, Safe: true, Session: session, Header: header}
	most := b.o.Server.MaxAnswer
	if most <= 0 {
		most = defaultMaxAnswer
	}
	var items []json.RawMessage
	var first, cursor []byte
	cursors := map[string]bool{} // of the pages so far
	for size := 0; ; {
		a, err := b.Do(ctx, m, nil)
		if err != nil {
			return nil, err
		}
		if a.Error != nil {
			if errorCode(a.Error) == codeMethodNotFound {
				return nil, nil
			}
			return nil, malformed(b.o.Server, fmt.Sprintf("it answers %s with the error %d", method, errorCode(a.Error)))
		}
		page, next := rawjson.Get(a.Result, list), rawjson.Get(a.Result, "nextCursor")
		if len(cursors) == 0 {
			first = page
		}
		if string(cursor) == noCursor && (string(next) == noCursor || bytes.Equal(page, first)) {
			page, next = nil, nil // the list begins anew
		}
		for item := range rawjson.Elements(page) {
			items = append(items, item)
		}
		size += len(a.Result)
		if len(items) > maxItems || size > most {
			return nil, malformed(b.o.Server, fmt.Sprintf("its answers to %s have more than %d items, or more than %d bytes", method, maxItems, most))
		}
		if len(next) == 0 || next[0] != '"' {
			if list == "tools" {
				b.o.params.learn(items)
			}
			return items, nil
		}
		if cursors[string(next)] {
			return nil, malformed(b.o.Server, "its answers to "+method+" name the same next page twice")
		}
		cursors[string(next)] = true
		if len(cursors) == maxPages {
			return nil, malformed(b.o.Server, fmt.Sprintf("its answers to %s have more than %d pages", method, maxPages))
		}
		cursor = next
		m.Params = json.RawMessage(`{"cursor":` + string(cursor) + `}`)
	}
}

package upstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"signet/internal/configfile"
)

const maxDepth = 32 // of nested JSON values

var errNotJSON = errors.New("not one JSON value, or cut off")

// parseJSON reads one JSON value. It refuses what [json.Unmarshal] lets pass: duplicate members,
// bytes that are not UTF-8, and deep nesting. Numbers are of type [json.Number], as they were
// written.
func parseJSON(text []byte) (any, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("not UTF-8")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	v, err := readValue(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON value")
	}
	return v, nil
}

// parseObject is parseJSON for an object.
func parseObject(text []byte) (map[string]any, error) {
	v, err := parseJSON(text)
	if err != nil {
		return nil, err
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("not a JSON object")
	}
	return object, nil
}

func readValue(d *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, errors.New("nested too deep")
	}
	token, err := d.Token()
	if err != nil {
		return nil, errNotJSON
	}
	switch token {
	case json.Delim('{'):
		return readObject(d, depth)
	case json.Delim('['):
		return readArray(d, depth)
	}
	return token, nil
}

func readObject(d *json.Decoder, depth int) (any, error) {
	object := map[string]any{}
	for d.More() {
		token, err := d.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return nil, errNotJSON
		}
		if _, twice := object[name]; twice {
			return nil, fmt.Errorf("the member %q is there twice", cut(name, 64))
		}
		if object[name], err = readValue(d, depth+1); err != nil {
			return nil, err
		}
	}
	return object, closed(d)
}

func readArray(d *json.Decoder, depth int) (any, error) {
	array := []any{}
	for d.More() {
		v, err := readValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		array = append(array, v)
	}
	return array, closed(d)
}

// closed reads the end of an object or an array.
func closed(d *json.Decoder) error {
	if _, err := d.Token(); err != nil {
		return errNotJSON
	}
	return nil
}

// lookup returns the value at a path, or nil. A path is the name of a member, which may contain
// dots as the names of some claims do, or names and indexes of array elements joined by dots.
func lookup(v any, path string) any {
	switch v := v.(type) {
	case map[string]any:
		if member, ok := v[path]; ok {
			return member
		}
		name, rest, more := strings.Cut(path, ".")
		if member, ok := v[name]; ok && more {
			return lookup(member, rest)
		}
	case []any:
		index, rest, more := strings.Cut(path, ".")
		i, err := strconv.Atoi(index)
		if err != nil || i < 0 || i >= len(v) {
			return nil
		}
		if !more {
			return v[i]
		}
		return lookup(v[i], rest)
	}
	return nil
}

// text returns the text of a string, or the digits of a number as they were written. Anything
// else has none.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	}
	return ""
}

// texts returns the texts of an array's elements, or the one of a single value.
func texts(v any) (list []string) {
	array, ok := v.([]any)
	if !ok {
		array = []any{v}
	}
	for _, element := range array {
		if s := text(element); s != "" {
			list = append(list, s)
		}
	}
	return list
}

// isTrue reports whether v is true. Some providers write it as a string or a number.
func isTrue(v any) bool { return v == true || v == "true" || text(v) == "1" }

// seconds returns the whole seconds of a number, or of a string with one.
func seconds(v any) (int64, bool) {
	f, err := strconv.ParseFloat(text(v), 64)
	if err != nil || f != f || f < 0 {
		return 0, false
	}
	return int64(min(f, maxLife)), true
}

const maxLife = 100 * 365 * 24 * 3600 // seconds, of an access token

// cut is [configfile.Cut].
func cut(s string, n int) string { return configfile.Cut(s, n) }

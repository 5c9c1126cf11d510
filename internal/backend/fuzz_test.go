package backend_test

import (
	"bytes"
	"encoding/json"

	"testing"
	"testing/iotest"

	"signet/internal/backend"
)

// What is taken for an answer is one: valid JSON with the id of the request, with a result that is
// an object, or an error with a code.
func FuzzAnswer(f *testing.F) {
	for _, text := range []string{
		`{"jsonrpc":"2.0","id":7,"result":{"content":[]}}`,
		`{"jsonrpc":"2.0","id":7,"error":{"code":-32601,"message":"x"}}`,
		`{"jsonrpc":"2.0","id":"7","result":{}}`,
		`{"id":7,"result":{},"result":[]}`,
		`{"id":7,"id":8,"result":{}}`,
		`{"id":7,"result":{},"error":{"code":1}}`,
		`{"id":7,"result":{"content":{}}}`,
		`{"id":7.0,"result":{}}`,
		`[{"id":7,"result":{}}]`,
		"{\"id\":7,\"result\":{\"\xff\":1}}",
		`{"id":7,"result":{}}{"id":7,"result":{}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		a, ok := backend.ReadAnswer(data, 7, "tools/call")
		if !ok {
			return
		}
		var want map[string]json.RawMessage // unlike a struct, it tells id from ID
		if err := json.Unmarshal(data, &want); err != nil || string(want["id"]) != "7" {
			t.Fatalf("%q is taken for an answer: %v", data, err)
		}
		if (a.Result == nil) == (a.Error == nil) || string(a.Result) != string(want["result"]) || string(a.Error) != string(want["error"]) {
			t.Errorf("%q is taken for the answer %q %q", data, a.Result, a.Error)
		}
		var result struct{ Content json.RawMessage }
		if a.Result != nil && json.Unmarshal(a.Result, &result) != nil {
			t.Errorf("%q has the result %q", data, a.Result)
		}
	})
}

// Events are the same wherever the network cuts the stream, and none is too long.
func FuzzEvents(f *testing.F) {
	for _, text := range []string{
		"data: {}\n\n", "data: a\ndata: b\n\n", "event: x\r\ndata: {}\r\n\r\n", ": c\n\ndata:\n\n", "data: {}", "id: 1\nretry: 5\n\n", "\ufeffdata: a\r\rdata: b\r\n\rdata: c\n\r\n\n", "data\n\n", "\n\n\n", "data: \xff\x00\n\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		const most = 64
		whole := backend.ReadEvents(bytes.NewReader(stream), most)
		bits := backend.ReadEvents(iotest.OneByteReader(bytes.NewReader(stream)), most)
		if len(whole) != len(bits) {
			t.Fatalf("%q: %q, but in single bytes %q", stream, whole, bits)
		}
		for i, event := range whole {
			if event != bits[i] || len(event) == 0 || len(event) > 2*most {
				t.Errorf("%q: event %q or %q", stream, event, bits[i])
			}
		}
	})
}

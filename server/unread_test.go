package server_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/server"
)

// bigAnswer is nearly the largest that a client can cause with a message of the same size.
const bigAnswer = 3 << 20

// withTools is a live server with tools that need no token.
func withTools(t *testing.T) (addr string) {
	t.Helper()
	srv := newServer(t, func(o *server.Options) {
		o.PublicTools, o.DrainDelay = []string{"big", "small"}, time.Nanosecond
	})
	type none struct{}
	answer := func(text string) sdk.ToolHandlerFor[none, any] {
		return func(context.Context, *sdk.CallToolRequest, none) (*sdk.CallToolResult, any, error) {
			return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: text}}}, nil, nil
		}
	}
	sdk.AddTool(srv.MCP, &sdk.Tool{Name: "big"}, answer(strings.Repeat("x", bigAnswer)))
	sdk.AddTool(srv.MCP, &sdk.Tool{Name: "small"}, answer("x"))
	base, stop := serving(t, srv)
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return strings.TrimPrefix(base, "http://")
}

// call sends the call of a tool and leaves the answer to the caller.
func call(t *testing.T, addr, path, tool string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
		t.Fatal(err)
	}
	body := "{}"
	if path == "/mcp" {
		body = fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%q,"arguments":{}}}`, tool)
	} else {
		path += tool
	}
	if _, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body); err != nil {
		t.Fatal(err)
	}
	return c
}

func read(t *testing.T, c net.Conn) (status int, text string) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// Answers that nobody reads take a bounded number of bytes and no slot, and small calls go on.
func TestUnreadAnswersTakeBoundedMemory_K03(t *testing.T) {
	for _, path := range []string{"/mcp", "/tools/"} {
		t.Run(path, func(t *testing.T) {
			addr := withTools(t)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			calls, refused := 0, 0
			for begin := time.Now(); calls < 40; calls++ {
				c := call(t, addr, path, "big")
				b := bufio.NewReaderSize(c, 512) // wait for the beginning of the answer, and read no more
				head, _ := b.Peek(512)           // a refusal is shorter
				if time.Since(begin) > 25*time.Second {
					break // soon the first answer is cut off, and makes room for another
				}
				if !strings.Contains(string(head), `"text":"xxx`) {
					refused++
				}
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			if n := calls - refused; n < min(calls, 4) || n > 10 { // 16 MiB are five answers
				t.Errorf("%d of %d answers were refused", refused, calls)
			}
			if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 40<<20 {
				t.Errorf("the heap has grown by %d MiB", grown>>20)
			}
			if status, text := read(t, call(t, addr, path, "small")); status != http.StatusOK || !strings.Contains(text, `"text":"x"`) {
				t.Errorf("a small call: %d %s", status, text)
			}
		})
	}
}

// A client that reads nothing is cut off, and one that reads slowly all the time is not,
// although it takes longer.
func TestUnreadAnswersAreCutOff_K03(t *testing.T) {
	t.Parallel() // it takes most of a minute, which it waits
	addr := withTools(t)
	unread := call(t, addr, "/mcp", "big")
	slow := call(t, addr, "/mcp", "big")
	begin := time.Now()
	const step = bigAnswer / 45 // a second
	got := 0
	for b := make([]byte, step); got < bigAnswer; time.Sleep(time.Second) {
		n, err := io.ReadFull(slow, b)
		got += n
		if err != nil {
			break
		}
	}
	if took := time.Since(begin); got < bigAnswer || took < 31*time.Second {
		t.Errorf("a slow reader got %d bytes in %v, want all of more than %d in more than half a minute", got, took, bigAnswer)
	}
	if err := unread.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, unread); n >= bigAnswer {
		t.Errorf("after %v, %d bytes were still to be had: %v", time.Since(begin), n, err)
	}
}

package backend_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/internal/backend"
	"signet/internal/gatewayconfig"
)

// The test binary is also the servers of the tests: the variable says which one it is.
const (
	programVariable = "BACKEND_TEST_PROGRAM"
	mannerVariable  = "BACKEND_TEST_MANNER"
	aliveVariable   = "BACKEND_TEST_ALIVE"
)

var programs = map[string]func(){"sdk": sdkServer, "fake": fakeServer, "alive": alive, "gateway": gateway}

// sdkServer is a server by the go-sdk, with sessions if the manner is "sessions".
func sdkServer() {
	o := &sdk.ServerOptions{
		SubscribeHandler:   func(context.Context, *sdk.SubscribeRequest) error { return nil },
		UnsubscribeHandler: func(context.Context, *sdk.UnsubscribeRequest) error { return nil },
	}
	if os.Getenv(mannerVariable) == "sessions" {
		o.SupportedProtocolVersions = []string{"2025-06-18"}
	}
	s := sdk.NewServer(&sdk.Implementation{Name: "sdk", Version: "1"}, o)
	var mu sync.Mutex
	var canceled []string
	tool := func(name string, handle func(ctx context.Context, r *sdk.CallToolRequest) string) {
		s.AddTool(&sdk.Tool{Name: name, InputSchema: json.RawMessage(`{"type":"object"}`)}, func(ctx context.Context, r *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: handle(ctx, r)}}}, nil
		})
	}
	tool("echo", func(_ context.Context, r *sdk.CallToolRequest) string { return string(r.Params.Arguments) })
	tool("pid", func(context.Context, *sdk.CallToolRequest) string { return fmt.Sprint(os.Getpid()) })
	tool("progress", func(ctx context.Context, r *sdk.CallToolRequest) string {
		for i := range 3 {
			r.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken(), Progress: float64(i + 1), Message: string(r.Params.Arguments)})
		}
		return "done"
	})
	tool("hold", func(ctx context.Context, r *sdk.CallToolRequest) string {
		r.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken()})
		<-ctx.Done()
		mu.Lock()
		defer mu.Unlock()
		canceled = append(canceled, string(r.Params.Arguments))
		return ""
	})
	tool("canceled", func(context.Context, *sdk.CallToolRequest) string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(canceled, " ")
	})
	s.AddResource(&sdk.Resource{URI: "file:///a", Name: "a"}, func(context.Context, *sdk.ReadResourceRequest) (*sdk.ReadResourceResult, error) {
		return &sdk.ReadResourceResult{Contents: []*sdk.ResourceContents{{URI: "file:///a", Text: "a"}}}, nil
	})
	tool("update", func(ctx context.Context, _ *sdk.CallToolRequest) string {
		s.ResourceUpdated(ctx, &sdk.ResourceUpdatedNotificationParams{URI: "file:///a"})
		return ""
	})
	tool("grow", func(context.Context, *sdk.CallToolRequest) string {
		tool("grown", func(context.Context, *sdk.CallToolRequest) string { return "" })
		return ""
	})
	s.Run(context.Background(), &sdk.StdioTransport{})
}

// fakeServer is a server with sessions that misbehaves: in the beginning by its manner, later by
// the names of its tools.
func fakeServer() {
	f := &fake{manner: os.Getenv(mannerVariable)}
	if f.manner == "stubborn" {
		signal.Ignore(syscall.SIGTERM)
	}
	if f.manner == "dies" {
		fmt.Fprintln(os.Stderr, "cannot read the license")
		os.Exit(3)
	}
	in := bufio.NewReader(os.Stdin)
	for {
		text, err := in.ReadBytes('\n')
		if err != nil {
			break
		}
		var m wire
		if err := json.Unmarshal(text, &m); err != nil {
			fmt.Fprintf(os.Stderr, "not a line of JSON: %s\n", text)
			os.Exit(4)
		}
		f.take(m)
	}
	if f.manner == "stubborn" {
		forever()
	}
}

// wire is a JSON-RPC message.
type wire struct {
	ID     json.RawMessage `json:"id,omitempty"`
	Method string          `json:"method,omitempty"`
	Params json.RawMessage `json:"params,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  json.RawMessage `json:"error,omitempty"`
}

type fake struct {
	manner string
	asked  json.RawMessage // id of the call whose answer depends on the answers to requests of the server
	got    []string
	said   []string // requests and notifications besides tools/call
}

func (f *fake) take(m wire) {
	if m.Method != "tools/call" && m.Method != "" {
		f.said = append(f.said, m.Method+string(m.Params))
	}
	switch m.Method {
	case "server/discover":
		switch f.manner {
		case "dies at discover":
			os.Exit(3)
		case "mute":
		default:
			f.fail(m.ID)
		}
	case "initialize":
		f.initialize(m)
	case "ping", "resources/subscribe", "resources/unsubscribe":
		if f.manner != "numb" {
			f.answer(m.ID, `{}`)
		}
	case "tools/call":
		var p struct {
			Name      string
			Arguments struct{ Size int }
			Meta      struct{ ProgressToken json.RawMessage } `json:"_meta"`
		}
		json.Unmarshal(m.Params, &p)
		f.call(m.ID, p.Name, m.Params, p.Meta.ProgressToken, p.Arguments.Size)
	case "":
		if f.got = append(f.got, string(m.ID)+string(m.Result)+string(m.Error)); len(f.got) == 2 {
			f.answer(f.asked, toJSON(map[string]any{"got": f.got}))
		}
	}
}

func (f *fake) initialize(m wire) {
	var p struct{ ProtocolVersion string }
	json.Unmarshal(m.Params, &p)
	switch version := p.ProtocolVersion; {
	case f.manner == "narrow" && version != "2025-06-18", f.manner == "refuses":
		f.fail(m.ID)
	case f.manner == "future":
		f.answer(m.ID, `{"protocolVersion":"2031-01-01","capabilities":{}}`)
	case f.manner == "hangs":
	default:
		f.answer(m.ID, `{"protocolVersion":"`+version+`","capabilities":{"resources":{"subscribe":true}}}`)
	}
}

func (f *fake) call(id json.RawMessage, tool string, params, token json.RawMessage, size int) {
	number := string(id)
	answer := func(result string) { f.answer(id, result) }
	switch tool {
	case "echo":
		answer(toJSON(map[string]json.RawMessage{"params": params}))
	case "said":
		answer(toJSON(map[string]any{"said": f.said}))
	case "place":
		dir, _ := os.Getwd()
		answer(toJSON(map[string]any{"environment": os.Environ(), "arguments": os.Args[1:], "directory": dir}))
	case "fails":
		fmt.Println(`{"error":{"code":-32602,"message":"no","data":{"a":[1]}},"id":` + number + `,"jsonrpc":"2.0"}`)
	case "dies":
		os.Exit(3)
	case "answers and dies":
		answer(`{"last":true}`)
		os.Exit(3)
	case "silent", "after silence":
	case "noise":
		fmt.Print("starting up\n\n[{}]\n42\n{\n{\"jsonrpc\":\"2.0\"}\n{\"method\":7}\n\xff\n")
		answer(`{"fine":true}`)
	case "long":
		answer(`{"text":"` + strings.Repeat("x", size) + `"}`)
	case "long, id last":
		fmt.Println(`{"result":{"text":"` + strings.Repeat("x", size) + `"},"jsonrpc":"2.0","id":` + number + `}`)
	case "exactly":
		head, tail := `{"jsonrpc":"2.0","id":`+number+`,"result":{"text":"`, `"}}`
		fmt.Println(head + strings.Repeat("x", size-len(head)-len(tail)) + tail)
	case "wrong ids":
		fmt.Println(`{"id":"` + number + `","result":{}}` + "\n" + `{"id":` + number + `0,"result":{}}` + "\n" + `{"id":-` + number + `,"result":{}}` + "\n" + `{"id":[` + number + `],"result":{}}` + "\n" + `{"id":null,"error":{}}`)
		answer(`{"right":true}`)
	case "twice":
		answer(`{"first":true}`)
		answer(`{"first":false}`)
	case "both":
		fmt.Println(`{"id":` + number + `,"result":{},"error":{}}`)
	case "neither":
		fmt.Println(`{"id":` + number + `}`)
	case "array":
		answer(`[]`)
	case "text error":
		fmt.Println(`{"id":` + number + `,"error":"no"}`)
	case "asks":
		f.asked = id
		fmt.Println(`{"jsonrpc":"2.0","id":"p","method":"ping"}` + "\n" + `{"jsonrpc":"2.0","id":7,"method":"sampling/createMessage","params":{}}` + "\n" + `{"jsonrpc":"2.0","id":{},"method":"ping"}`)
	case "foreign progress":
		var other json.Number
		for n := range 100 { // whatever the ids of the other calls are
			other = json.Number(fmt.Sprint(n))
			if string(other) != string(token) {
				fmt.Println(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":` + string(other) + `,"progress":1,"message":"foreign"}}`)
			}
		}
		fmt.Println(`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"of another caller"}}`)
		answer(`{}`)
	case "logs":
		fmt.Println(`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":` + toJSON("key is "+os.Getenv("API_KEY")) + `}}`)
		answer(`{}`)
	case "updates":
		fmt.Println(`{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a:b"}}` + "\n" + `{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"a:a"}}`)
		answer(`{}`)
	case "stops reading":
		answer(`{}`)
		forever()
	case "spawns":
		child := exec.Command(os.Args[0])
		child.Env = []string{programVariable + "=alive", aliveVariable + "=" + os.Getenv(aliveVariable)}
		child.Stdout = os.Stdout
		child.SysProcAttr = &syscall.SysProcAttr{}
		if err := child.Start(); err != nil {
			os.Exit(5)
		}
		answer(`{}`)
	case "writes to stderr":
		fmt.Fprintln(os.Stderr, "key is "+os.Getenv("API_KEY")+strings.Repeat("y", size))
		answer(`{}`)
	default:
		f.fail(id)
	}
}

func (f *fake) answer(id json.RawMessage, result string) {
	fmt.Println(`{"jsonrpc":"2.0","id":` + string(id) + `,"result":` + result + `}`)
}

func (f *fake) fail(id json.RawMessage) {
	fmt.Println(`{"jsonrpc":"2.0","id":` + string(id) + `,"error":{"code":-32601,"message":"no such method"}}`)
}

// forever does nothing, and is no deadlock.
func forever() {
	for {
		time.Sleep(time.Hour)
	}
}

func toJSON(v any) string {
	text, _ := json.Marshal(v)
	return string(text)
}

// alive keeps a connection to the test open as long as it lives, and ends by SIGKILL only.
func alive() {
	signal.Ignore(syscall.SIGTERM)
	c, err := net.Dial("tcp", os.Getenv(aliveVariable))
	if err != nil {
		os.Exit(6)
	}
	io.Copy(io.Discard, c)
	forever()
}

// gateway uses a server that is alive, and ends by SIGKILL only.
func gateway() {
	self, _ := os.Executable()
	b, err := backend.New(backend.Options{Agent: "gateway/1", Log: slog.New(slog.DiscardHandler), Server: &gatewayconfig.Server{ID: "s", Timeout: time.Minute, MaxAnswer: 1 << 20, MaxRequests: 1,
		Instances: []gatewayconfig.Instance{{Command: []string{self}, Env: map[string]gatewayconfig.Secret{programVariable: "alive", aliveVariable: gatewayconfig.Secret(os.Getenv(aliveVariable))}}}}})
	if err != nil {
		os.Exit(7)
	}
	b.Check(context.Background())
	forever()
}

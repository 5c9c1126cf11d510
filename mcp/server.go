package mcp

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// NewServer returns an SDK server without tools, set up for a [Handler]: it
// speaks the protocol versions that Handler lets through, does not offer
// logging, which needs a session, and marks what it lists as private, because
// what a list holds may depend on the token. A resource handler may mark its
// own result as public. In its tools [Caller] is right whatever serves it.
func NewServer(name, version string) *sdk.Server {
	s := sdk.NewServer(&sdk.Implementation{Name: name, Version: version}, &sdk.ServerOptions{
		Capabilities:              &sdk.ServerCapabilities{},
		SupportedProtocolVersions: versions,
		SetCacheable: func(_ context.Context, _ sdk.Request, c *sdk.Cacheable) {
			// "public", the default, may be shared between tokens.
			if c.CacheScope == "" {
				c.CacheScope = "private"
			}
		},
	})
	s.AddReceivingMiddleware(ownCaller)
	return s
}

// ownCaller makes the token of this very request the one that Caller sees. In a
// server that keeps sessions the context is that of the request which opened
// the session, maybe with another token.
func ownCaller(next sdk.MethodHandler) sdk.MethodHandler {
	return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
		if extra := req.GetExtra(); extra != nil && ctx.Value(infoKey{}) != extra.TokenInfo {
			ctx = context.WithValue(ctx, infoKey{}, extra.TokenInfo)
		}
		return next(ctx, method, req)
	}
}

// Contain keeps one call's failure to that call. The SDK runs tools on
// goroutines of its own and has no recover, so a panic there ends the process;
// a result that is a nil pointer panics there too, after the tool is done.
//
// [Handler] adds it to its server. One that is served otherwise should be given
// it last, because it covers the middleware that was there before.
func Contain(log *slog.Logger) sdk.Middleware {
	internal := &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: "internal error"}
	return func(next sdk.MethodHandler) sdk.MethodHandler {
		return func(ctx context.Context, method string, req sdk.Request) (res sdk.Result, err error) {
			defer func() {
				if v := recover(); v != nil {
					log.ErrorContext(ctx, "panic in an MCP method", "method", method, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
					res, err = nil, internal
				}
			}()
			res, err = next(ctx, method, req)
			if err == nil && isNil(res) {
				log.ErrorContext(ctx, "an MCP method returned neither a result nor an error", "method", method)
				return nil, internal
			}
			return res, err
		}
	}
}

// isNil reports whether a handler that was registered with the SDK returned a
// nil result.
func isNil(res sdk.Result) bool {
	switch res := res.(type) {
	case *sdk.CallToolResult:
		return res == nil
	case *sdk.GetPromptResult:
		return res == nil
	case *sdk.ReadResourceResult:
		return res == nil
	case *sdk.CompleteResult:
		return res == nil
	}
	return false
}

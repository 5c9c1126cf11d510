package mcp

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// NewServer returns an SDK server without tools, set up for a [Handler]: it speaks the
// protocol versions that Handler supports, does not offer logging, which needs a session,
// and marks lists as private, because they may depend on the token. A resource handler may
// mark its own result as public. In its tools [Caller] works whatever serves them.
func NewServer(name, version string) *sdk.Server {
	return newServer(name, version, &sdk.ServerCapabilities{})
}

func newServer(name, version string, capabilities *sdk.ServerCapabilities) *sdk.Server {
	s := sdk.NewServer(&sdk.Implementation{Name: name, Version: version}, &sdk.ServerOptions{
		Capabilities:              capabilities,
		SupportedProtocolVersions: versions,
		SetCacheable: func(_ context.Context, _ sdk.Request, c *sdk.Cacheable) {
			// "public", the default, may be shared between tokens.
			if c.CacheScope == "" {
				c.CacheScope = "private"
			}
		},
	})
	s.AddReceivingMiddleware(setCaller)
	return s
}

// setCaller makes Caller return the token of the present request. In a server that keeps
// sessions, the context belongs to the request that opened the session, maybe with another
// token. It is the innermost middleware, and tells [calls] what is behind it.
func setCaller(next sdk.MethodHandler) sdk.MethodHandler {
	return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
		if c, ok := ctx.Value(callsKey{}).(*calls); ok {
			c.innermost.CompareAndSwap(nil, &next)
		}
		if extra := req.GetExtra(); extra != nil && ctx.Value(infoKey{}) != extra.TokenInfo {
			ctx = context.WithValue(ctx, infoKey{}, extra.TokenInfo)
		}
		return next(ctx, method, req)
	}
}

// Contain keeps the failure of one call from ending the process. The SDK runs tools on
// goroutines of its own and does not recover from panics; a result that is a nil pointer
// panics there too, after the tool has returned. A result that cannot be encoded is an internal
// error as well: the SDK would never answer the call. A nil log logs nothing.
//
// [Handler] adds it to its server. Add it last to a server that is served in another way,
// because it covers the middleware that was added before.
func Contain(log *slog.Logger) sdk.Middleware {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
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
			if err != nil {
				return res, err
			}
			if res, err = encodable(res); err != nil {
				log.ErrorContext(ctx, "the result of an MCP method cannot be encoded", "method", method, "cause", err)
				return nil, internal
			}
			return res, nil
		}
	}
}

// isNil reports whether a handler of the program returned a nil result.
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

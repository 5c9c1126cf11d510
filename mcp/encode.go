package mcp

import (
	"encoding/json"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// encodable returns res in a form that can be encoded, or an error if there is none, as for a
// number that is NaN. The SDK drops a result that it cannot encode, and the call never ends.
//
// Only parts whose type the program chooses are encoded here. Structured content, which may be
// large, is then not encoded again. What is a [json.RawMessage] already is taken for JSON.
func encodable(res sdk.Result) (sdk.Result, error) {
	for _, part := range looseParts(res) {
		if _, err := json.Marshal(part); err != nil {
			return nil, err
		}
	}
	call, ok := res.(*sdk.CallToolResult)
	if !ok || call.StructuredContent == nil {
		return res, nil
	}
	if _, done := call.StructuredContent.(json.RawMessage); done {
		return res, nil
	}
	text, err := json.Marshal(call.StructuredContent)
	if err != nil {
		return nil, err
	}
	mine := *call // the tool may return call to other callers
	mine.StructuredContent = json.RawMessage(text)
	return &mine, nil
}

// loose are parts of a result that may have no form in JSON.
type loose []any

func (l *loose) add(meta sdk.Meta, a *sdk.Annotations) {
	if len(meta) > 0 {
		*l = append(*l, meta)
	}
	if a != nil {
		*l = append(*l, a)
	}
}

// looseParts returns the loose parts of res except its structured content. Ordinary results have
// none.
func looseParts(res sdk.Result) (parts loose) {
	switch res := res.(type) {
	case *sdk.CallToolResult:
		parts.add(res.Meta, nil)
		for _, c := range res.Content {
			parts.addContent(c)
		}
	case *sdk.GetPromptResult:
		parts.add(res.Meta, nil)
		for _, m := range res.Messages {
			if m != nil {
				parts.addContent(m.Content)
			}
		}
	case *sdk.ReadResourceResult:
		parts.add(res.Meta, nil)
		for _, c := range res.Contents {
			if c != nil {
				parts.add(c.Meta, nil)
			}
		}
	case *sdk.CompleteResult:
		parts.add(res.Meta, nil)
	}
	return parts
}

func (l *loose) addContent(c sdk.Content) {
	switch c := c.(type) {
	case *sdk.TextContent:
		if c != nil {
			l.add(c.Meta, c.Annotations)
		}
	case *sdk.ImageContent:
		if c != nil {
			l.add(c.Meta, c.Annotations)
		}
	default: // rare
		*l = append(*l, c)
	}
}

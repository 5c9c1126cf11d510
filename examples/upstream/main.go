// Upstream is an MCP server for an API at which the users have accounts. They sign in with these
// accounts, and each tool call reaches the API with the caller's own token.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"sync"
	"syscall"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"signet/mcp"
	"signet/server"
)

// desk has the tools. It remembers the companies that users have switched to, by subject, for as
// long as the process lasts.
type desk struct {
	companies sync.Map
}

type company struct {
	ID   string `json:"publicId"`
	Name string `json:"name"`
}

// ask makes one request at the caller's own upstream and reads the answer into v. If that fails,
// the result says why.
func ask(ctx context.Context, method, path string, body, v any) (*sdk.CallToolResult, error) {
	up, err := mcp.Upstream(ctx)
	if err != nil {
		return nil, err
	}
	content, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	if body == nil {
		content = nil
	}
	r, err := http.NewRequestWithContext(ctx, method, up.Provider().BaseURL+"api/v1/"+path, bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := up.Client().Do(r)
	if no := up.Failure(resp, err); no != nil {
		return no, nil
	}
	defer resp.Body.Close()
	return nil, json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(v)
}

// inCompany is ask for the company of the caller: the one that the caller has switched to, or the
// first one.
func (d *desk) inCompany(ctx context.Context, method, path string, body, v any) (*sdk.CallToolResult, error) {
	caller, _ := mcp.Caller(ctx)
	id, ok := d.companies.Load(caller.Subject)
	if !ok {
		var list struct{ Results []company }
		if no, err := ask(ctx, http.MethodGet, "companies/", nil, &list); no != nil || err != nil {
			return no, err
		}
		if len(list.Results) == 0 {
			return nil, errors.New("you have no company")
		}
		id = list.Results[0].ID
	}
	return ask(ctx, method, path+"?companyId="+url.QueryEscape(id.(string)), body, v)
}

// answer returns what the API said, as JSON.
func answer(v any, no *sdk.CallToolResult, err error) (*sdk.CallToolResult, any, error) {
	if no != nil || err != nil {
		return no, nil, err
	}
	return nil, v, nil
}

func listCompanies(ctx context.Context, _ *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, any, error) {
	var list struct {
		Results []company `json:"results"`
	}
	no, err := ask(ctx, http.MethodGet, "companies/", nil, &list)
	return answer(&list, no, err)
}

type switchInput struct {
	ID string `json:"company_id" jsonschema:"publicId of the company"`
}

func (d *desk) switchCompany(ctx context.Context, _ *sdk.CallToolRequest, in switchInput) (*sdk.CallToolResult, any, error) {
	var list any
	if no, err := ask(ctx, http.MethodGet, "invoices/?companyId="+url.QueryEscape(in.ID), nil, &list); no != nil || err != nil {
		return no, nil, err // it is not a company of the caller
	}
	caller, _ := mcp.Caller(ctx)
	d.companies.Store(caller.Subject, in.ID)
	return nil, map[string]string{"company_id": in.ID}, nil
}

func (d *desk) listInvoices(ctx context.Context, _ *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, any, error) {
	var list map[string]any
	no, err := d.inCompany(ctx, http.MethodGet, "invoices/", nil, &list)
	return answer(list, no, err)
}

type invoice struct {
	Customer string  `json:"customer" jsonschema:"whom the invoice is for"`
	Amount   float64 `json:"amount" jsonschema:"in euros"`
}

func (d *desk) createInvoice(ctx context.Context, _ *sdk.CallToolRequest, in invoice) (*sdk.CallToolResult, any, error) {
	var made map[string]any
	no, err := d.inCompany(ctx, http.MethodPost, "invoices/", in, &made)
	return answer(made, no, err)
}

type sendInput struct {
	ID string `json:"invoice_id" jsonschema:"publicId of the invoice"`
}

func (d *desk) sendInvoice(ctx context.Context, _ *sdk.CallToolRequest, in sendInput) (*sdk.CallToolResult, any, error) {
	var sent map[string]any
	no, err := d.inCompany(ctx, http.MethodPost, "invoices/"+url.PathEscape(in.ID)+"/send/", nil, &sent)
	return answer(sent, no, err)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	srv, err := server.New(server.Options{
		App:      "Invoices",
		Upstream: server.Upstream{Config: "upstreams.yaml"},
		Scopes:   []string{"read", "write"}, DefaultScopes: []string{"read", "write"},
		Issuer: os.Getenv("SIGNET_ISSUER"), Listen: os.Getenv("SIGNET_LISTEN"), // empty: http://localhost:8080
		Log: slog.Default(),
	})
	if err != nil {
		log.Fatal(err)
	}
	d := &desk{}
	srv.Require("create_invoice", "write")
	srv.Require("send_invoice", "write")
	sdk.AddTool(srv.MCP, &sdk.Tool{Name: "list_companies", Description: "List your companies"}, listCompanies)
	sdk.AddTool(srv.MCP, &sdk.Tool{Name: "switch_company", Description: "Choose the company for your next calls"}, d.switchCompany)
	sdk.AddTool(srv.MCP, &sdk.Tool{Name: "list_invoices", Description: "List the invoices of your company"}, d.listInvoices)
	sdk.AddTool(srv.MCP, &sdk.Tool{Name: "create_invoice", Description: "Write a draft of an invoice"}, d.createInvoice)
	sdk.AddTool(srv.MCP, &sdk.Tool{Name: "send_invoice", Description: "Send an invoice to its customer"}, d.sendInvoice)
	if err := srv.ListenAndServe(ctx); err != nil {
		log.Fatal(err)
	}
}

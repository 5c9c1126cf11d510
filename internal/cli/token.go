package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"signet/jwt"
)

// maxTokenInput bounds what is read as a token.
const maxTokenInput = 16 << 10

func tokenCommand(p Process) *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Show or verify an access token, read from stdin"}
	inspect := &cobra.Command{
		Use: "inspect", Short: "Print the content of a token, without verifying it", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return p.inspectToken() },
	}
	var issuer, resource string
	verify := &cobra.Command{
		Use: "verify", Short: "Verify a token offline, with the issuer's published keys", Args: cobra.NoArgs,
		RunE: p.withConfig(func(cmd *cobra.Command, cfg *config, _ []string) error {
			return p.verifyToken(cmd.Context(), cfg, issuer, resource)
		}),
	}
	verify.Flags().StringVar(&issuer, "issuer", "", "issuer to trust; default SIGNET_ISSUER")
	verify.Flags().StringVar(&resource, "resource", "", "resource that the token must name; default the first of SIGNET_RESOURCES, else <issuer>/mcp")
	cmd.AddCommand(inspect, verify)
	return cmd
}

func (p Process) readToken() (string, error) {
	line, _, err := p.readSecret("token", maxTokenInput+1)
	if err != nil {
		return "", err
	}
	if len(line) > maxTokenInput {
		return "", fmt.Errorf("input is longer than %d bytes: not a token", maxTokenInput)
	}
	return strings.TrimSpace(line), nil
}

func (p Process) inspectToken() error {
	raw, err := p.readToken()
	if err != nil {
		return err
	}
	header, payload, err := jwt.UnsafeClaims(raw)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	for _, part := range [][]byte{header, payload} {
		if err := json.Indent(&out, part, "", "  "); err != nil {
			return fmt.Errorf("not a token: %w", err)
		}
		out.WriteByte('\n')
	}
	_, err = out.WriteTo(p.Stdout)
	p.note("not verified: anyone could have written this")
	return err
}

func (p Process) verifyToken(ctx context.Context, cfg *config, issuer, resource string) error {
	if issuer == "" {
		issuer = cfg.Issuer
	}
	if resource == "" {
		resource = issuer + "/mcp"
		if len(cfg.Resources) > 0 {
			resource = cfg.Resources[0]
		}
	}
	raw, err := p.readToken()
	if err != nil {
		return err
	}
	keys := jwt.NewRemoteKeys(issuer+"/.well-known/jwks.json", nil)
	v, err := jwt.NewVerifier(jwt.VerifierOptions{Issuer: issuer, Audiences: []string{resource}, Keys: keys})
	if err != nil {
		return err
	}
	claims, err := v.Verify(ctx, raw)
	if err != nil {
		return err
	}
	p.note("valid for %s more", time.Until(claims.Expires()).Round(time.Second))
	return p.printJSON(claims)
}

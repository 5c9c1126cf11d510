package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"signet/jwt"
)

// maxTokenInput bounds what is read as a token.
const maxTokenInput = 16 << 10

func tokenCommand(p Process) *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Look at an access token, read from stdin"}
	inspect := &cobra.Command{
		Use: "inspect", Short: "Print what a token says, without verifying it", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return inspectToken(p) },
	}
	var issuer, resource string
	verify := &cobra.Command{
		Use: "verify", Short: "Verify a token offline, with the issuer's published keys", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return verifyToken(cmd.Context(), p, issuer, resource)
		},
	}
	verify.Flags().StringVar(&issuer, "issuer", "", "issuer to believe; default SIGNET_ISSUER")
	verify.Flags().StringVar(&resource, "resource", "", "resource that the token must name; default the first of SIGNET_RESOURCES, else <issuer>/mcp")
	cmd.AddCommand(inspect, verify)
	return cmd
}

func inspectToken(p Process) error {
	raw, err := readToken(p.Stdin)
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
	fmt.Fprintln(p.Stderr, "not verified: anyone could have written this")
	return err
}

func verifyToken(ctx context.Context, p Process, issuer, resource string) error {
	cfg, err := readConfig(p.Environ)
	if err != nil {
		return err
	}
	if issuer == "" {
		issuer = cfg.Issuer
	}
	if resource == "" {
		resource = issuer + "/mcp"
		if len(cfg.Resources) > 0 {
			resource = cfg.Resources[0]
		}
	}
	raw, err := readToken(p.Stdin)
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
	fmt.Fprintf(p.Stderr, "valid for %s more\n", time.Until(claims.Expires()).Round(time.Second))
	return printJSON(p.Stdout, claims)
}

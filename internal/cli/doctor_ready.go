package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// readyTimeout is less than the usual time limit of a container's health check.
const readyTimeout = 4 * time.Second

// askReady asks the server with these settings whether it is ready, at the address that
// it listens on. It is a health check for containers without a shell or an HTTP client.
func askReady(ctx context.Context, cfg *config) (answer string, err error) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	at, client, err := ownListener(cfg)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at+"/readyz", nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil {
		return "", err
	}
	answer = strings.TrimSpace(string(b))
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("not ready: %s %s", resp.Status, answer)
	}
	return answer, nil
}

// ownListener returns where a server with these settings answers on this machine, and a
// client that knows its certificate.
func ownListener(cfg *config) (base string, c *http.Client, err error) {
	host, port, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return "", nil, fmt.Errorf("SIGNET_LISTEN: %w", err)
	}
	issuer, err := url.Parse(cfg.Issuer)
	if err != nil {
		return "", nil, fmt.Errorf("SIGNET_ISSUER: %w", err)
	}
	switch host { // a container may have no name for itself
	case "", "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	transport := &http.Transport{DisableKeepAlives: true} // and no proxy: the server is on this machine
	u := url.URL{Scheme: "http", Host: net.JoinHostPort(host, port)}
	if cfg.Role != "mcp" {
		u.Path = issuer.Path
	}
	if cfg.TLSCert != "" {
		u.Scheme = "https"
		chain, err := os.ReadFile(cfg.TLSCert)
		if err != nil {
			return "", nil, fmt.Errorf("SIGNET_TLS_CERT: %w", err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(chain)
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, ServerName: issuer.Hostname()}
	}
	return u.String(), &http.Client{Transport: transport}, nil
}

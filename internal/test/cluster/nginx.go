package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// shipped is the configuration for operators, relative to the root of the module. The
// cluster runs with it, except for addresses, TLS and logs.
const shipped = "deploy/nginx/signet.conf"

func nginxProgram() (string, error) {
	for _, name := range []string{"nginx", "/usr/sbin/nginx"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("no nginx (Debian's package nginx has it)")
}

// moduleRoot is the directory of go.mod.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

// nginxConf turns the shipped server into one on a loopback port, without TLS, in
// front of these replicas.
func (c *Cluster) nginxConf(server string) (string, error) {
	root := ""
	if os.Geteuid() == 0 {
		root = "user root;" // the workers store bodies in the cluster's directory
	}
	var conf strings.Builder
	fmt.Fprintf(&conf, "%s\ndaemon off;\nworker_processes 1;\npid %[2]s/nginx.pid;\nerror_log stderr;\nevents { worker_connections 4096; }\nhttp {\naccess_log off;\n", root, c.Dir)
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&conf, "%s_temp_path %s/nginx-%[1]s;\n", kind, c.Dir)
	}
	_, upstreams, _ := strings.Cut(server, "upstream ")
	upstreams, rest, ok := strings.Cut("upstream "+upstreams, "server {\n    listen 80;")
	_, tls, ok2 := strings.Cut(rest, "server {\n    listen 443 ssl;")
	if !ok || !ok2 {
		return "", fmt.Errorf("%s: does not have the two servers that the cluster changes", shipped)
	}
	for line := range strings.Lines(upstreams) {
		if strings.HasPrefix(line, "log_format") {
			break
		}
		if !c.expand(&conf, line) {
			conf.WriteString(line)
		}
	}
	fmt.Fprintf(&conf, "server {\n    listen 127.0.0.1:%d;\n", c.o.Port)
	for line := range strings.Lines(tls) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !strings.HasPrefix(word, "ssl_") && word != "access_log" && !strings.Contains(line, "Strict-Transport-Security") {
			conf.WriteString(line)
		}
	}
	conf.WriteString("}\n")
	return conf.String(), nil
}

// expand replaces the first server line of a role by lines for all replicas of that
// role, and removes the others.
func (c *Cluster) expand(conf *strings.Builder, line string) bool {
	for role, list := range map[string][]*Replica{"auth": c.Auth, "mcp": c.MCP} {
		if strings.Contains(line, "server "+role+"-1:8080") {
			for _, r := range list {
				conf.WriteString(strings.Replace(line, role+"-1:8080", strings.TrimPrefix(r.URL, "http://"), 1))
			}
			return true
		}
		if strings.Contains(line, "server "+role+"-") {
			return true
		}
	}
	return false
}

// startNginx starts nginx in front of the replicas.
func (c *Cluster) startNginx(ctx context.Context) error {
	program, err := nginxProgram()
	if err != nil {
		return err
	}
	top, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	server, err := os.ReadFile(filepath.Join(top, shipped))
	if err != nil {
		return err
	}
	conf, err := c.nginxConf(string(bytes.ReplaceAll(server, []byte("\r\n"), []byte("\n"))))
	if err != nil {
		return err
	}
	path := filepath.Join(c.Dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		return err
	}
	log := c.NginxLog()
	if c.nginx, err = startProcess(exec.Command(program, "-c", path, "-p", c.Dir, "-e", "stderr"), log); err != nil {
		return err
	}
	if err := c.nginx.Listens(ctx, fmt.Sprint("127.0.0.1:", c.o.Port)); err != nil {
		return fmt.Errorf("nginx: %w\n%s", err, Tail(log, 20))
	}
	return nil
}

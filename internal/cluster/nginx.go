package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
)

// nginxConf is the one configuration: each role is an upstream, and what a replica
// of role mcp serves goes to those.
//
// A replica that does not take a connection is passed over for a second. A request
// that was sent to one is not sent to another, unless it may be repeated: what the
// client does not get an answer to, it repeats itself.
var nginxConf = template.Must(template.New("nginx.conf").Parse(`{{if .Root}}user root;
{{end}}daemon off;
worker_processes 1;
pid {{.Dir}}/nginx.pid;
error_log stderr;
events { worker_connections 4096; }
http {
    access_log off;
    client_body_temp_path {{.Dir}}/nginx-body;
    proxy_temp_path {{.Dir}}/nginx-proxy;
    fastcgi_temp_path {{.Dir}}/nginx-fastcgi;
    uwsgi_temp_path {{.Dir}}/nginx-uwsgi;
    scgi_temp_path {{.Dir}}/nginx-scgi;

    upstream auth {
{{- range .Auth}}
        server {{.}} max_fails=1 fail_timeout=1s;
{{- end}}
        keepalive 16;
    }
    upstream mcp {
{{- range .MCP}}
        server {{.}} max_fails=1 fail_timeout=1s;
{{- end}}
        keepalive 16;
    }

    server {
        listen 127.0.0.1:{{.Port}};

        client_max_body_size 4m;
        large_client_header_buffers 4 32k;
        proxy_http_version 1.1;
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header Connection "";
        proxy_buffer_size 32k;
        proxy_buffers 8 32k;
        proxy_connect_timeout 2s;
        proxy_read_timeout 15s;

        location / { proxy_pass http://auth; }

        location /mcp { proxy_pass http://mcp; }
        location /tools/ { proxy_pass http://mcp; }
        location /.well-known/oauth-protected-resource { proxy_pass http://mcp; }
    }
}
`))

func nginxProgram() (string, error) {
	for _, name := range []string{"nginx", "/usr/sbin/nginx"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("no nginx (Debian's package nginx has it)")
}

// startNginx starts it in front of replicas that need not run yet.
func (c *Cluster) startNginx() error {
	program, err := nginxProgram()
	if err != nil {
		return err
	}
	var conf strings.Builder
	addresses := func(list []*Replica) (a []string) {
		for _, r := range list {
			a = append(a, strings.TrimPrefix(r.URL, "http://"))
		}
		return a
	}
	err = nginxConf.Execute(&conf, struct {
		Root      bool // then the workers are, too: they keep bodies in our directory
		Dir       string
		Port      int
		Auth, MCP []string
	}{os.Geteuid() == 0, c.Dir, c.o.Port, addresses(c.Auth), addresses(c.MCP)})
	if err != nil {
		return err
	}
	path := filepath.Join(c.Dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(conf.String()), 0o600); err != nil {
		return err
	}
	log := filepath.Join(c.Dir, "nginx.log")
	if c.nginx, err = startProcess(exec.Command(program, "-c", path, "-p", c.Dir, "-e", "stderr"), log); err != nil {
		return err
	}
	if err := c.nginxListens(); err != nil {
		return fmt.Errorf("nginx: %w\n%s", err, Tail(log, 20))
	}
	return nil
}

// nginxListens waits until it answers, with whatever it says before the replicas run.
func (c *Cluster) nginxListens() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return c.nginx.listens(ctx, fmt.Sprint("127.0.0.1:", c.o.Port))
}
